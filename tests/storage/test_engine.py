from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    AppendBlob,
    Committed,
    InsertRev,
    ReadRev,
    SaveRev,
    StoreCall,
    StoreDone,
)
from edgesync.errors import StoreClosedError, StoreFullError, StoreInUseError
from edgesync.limits import Limits
from edgesync.storage import engine as engine_module
from edgesync.storage.engine import Engine
from tests.storage.store import AT_ONCE, Store, inserting

SOURCE = Path(__file__).parents[2]


class Owner:
    """The thread an engine belongs to, with a list of all it was told."""

    def __init__(
        self,
        folder: Path,
        limits: Limits = AT_ONCE,
        soon: Callable[[Callable[[], None]], object] = lambda hand_over: hand_over(),
    ) -> None:
        self.woken = threading.Semaphore(0)
        self.engine = Engine.open(folder, limits, self.woken.release, soon=soon)
        self.told: list[StoreDone | Committed | int] = []
        self.calls = 0
        self.client = self.engine.connect(self.take)
        self.engine.add_commit_listener(self.told.append)

    def take(self, *answers: StoreDone) -> None:
        self.calls += 1
        self.told.extend(answers)

    def answered(self) -> list[int]:
        return [entry.call_id for entry in self.told if isinstance(entry, StoreDone)]

    def deliver_until(self, count: int) -> None:
        while len(self.answered()) < count:
            assert self.woken.acquire(timeout=20)
            self.engine.deliver()


@pytest.fixture
def owner(folder: Path) -> Iterator[Owner]:
    opened = Owner(folder)
    yield opened
    opened.engine.close()


def insert(call_id: int, doc_id: str) -> InsertRev:
    return InsertRev(call_id, DEFAULT_COLLECTION, doc_id, (RevID("1-aa"),), b"{}", False, ())


def test_every_call_has_its_thread() -> None:
    assert set(engine_module._ROUTES) == set(typing.get_args(StoreCall))


def test_nothing_is_answered_before_deliver(owner: Owner) -> None:
    owner.client.submit([insert(1, "a")])
    assert owner.woken.acquire(timeout=20)
    assert owner.told == []
    owner.engine.deliver()
    assert owner.answered() == [1]


def test_owner_is_woken_once_for_what_it_has_not_taken(owner: Owner) -> None:
    for call_id in range(1, 6):
        owner.client.submit([ReadRev(call_id, DEFAULT_COLLECTION, "a")])
    time.sleep(0.2)
    assert owner.woken.acquire(timeout=20)
    assert not owner.woken.acquire(blocking=False)
    owner.engine.deliver()
    assert owner.answered() == [1, 2, 3, 4, 5]


def test_answers_of_a_commit_come_in_one_call(owner: Owner) -> None:
    owner.client.submit([insert(number, f"d{number}") for number in range(1, 51)])
    owner.deliver_until(50)
    assert owner.calls == 1


def test_commit_is_told_after_its_answers(owner: Owner) -> None:
    owner.client.submit([insert(1, "a"), insert(2, "b")])
    owner.deliver_until(2)
    assert owner.told[2:] == [Committed({DEFAULT_COLLECTION: 2})]


def test_listener_that_was_removed_is_not_called(owner: Owner) -> None:
    told: list[Committed] = []
    owner.engine.add_commit_listener(told.append)()
    owner.client.submit([insert(1, "a")])
    owner.deliver_until(1)
    assert told == []


def test_client_that_was_closed_gets_no_answers(owner: Owner) -> None:
    owner.client.submit([insert(1, "a")])
    owner.client.close()
    again = owner.engine.connect(owner.take)
    again.submit([ReadRev(2, DEFAULT_COLLECTION, "a")])
    owner.deliver_until(1)
    assert owner.answered() == [2]


def test_writes_of_a_client_that_was_closed_are_carried_out(folder: Path) -> None:
    owner = Owner(folder)
    owner.client.submit([insert(1, "a")])
    owner.client.close()
    owner.engine.close()
    with Store(folder) as store:
        assert store.rev_of("a") == "1-aa"


def test_calls_may_be_submitted_while_answers_are_taken(folder: Path) -> None:
    owner = Owner(folder)

    def chain(done: StoreDone) -> None:
        if done.call_id < 5:
            client.submit([insert(done.call_id + 1, f"d{done.call_id}")])
        owner.take(done)

    client = owner.engine.connect(chain)
    client.submit([insert(1, "d0")])
    owner.deliver_until(5)
    owner.engine.close()
    assert owner.answered() == [1, 2, 3, 4, 5]


def test_answer_that_fails_does_not_lose_the_next(owner: Owner) -> None:
    def fail(*_: StoreDone) -> None:
        raise RuntimeError("a bug")

    owner.engine.connect(fail).submit([ReadRev(1, DEFAULT_COLLECTION, "a")])
    owner.client.submit([ReadRev(2, DEFAULT_COLLECTION, "a")])
    time.sleep(0.1)
    with pytest.raises(RuntimeError):
        owner.deliver_until(1)
    owner.deliver_until(1)
    assert owner.answered() == [2]


# --- group commit ------------------------------------------------------------------


def commits(owner: Owner) -> int:
    return sum(isinstance(entry, Committed) for entry in owner.told)


def test_revisions_of_several_clients_share_a_commit(folder: Path) -> None:
    owner = Owner(folder, Limits(commit_delay_s=0.5))
    other = owner.engine.connect(owner.take)
    owner.client.submit([insert(1, "a")])
    other.submit([insert(2, "b")])
    owner.deliver_until(2)
    owner.engine.close()
    assert commits(owner) == 1


def test_full_commit_does_not_wait(folder: Path) -> None:
    owner = Owner(folder, Limits(commit_delay_s=60, commit_revisions=3))
    owner.client.submit([insert(number, f"d{number}") for number in range(1, 7)])
    owner.deliver_until(6)
    owner.engine.close()
    assert commits(owner) == 2


def test_own_revisions_do_not_wait(folder: Path) -> None:
    owner = Owner(folder, Limits(commit_delay_s=60))
    owner.client.submit([insert(1, "a")])
    owner.client.submit([SaveRev(2, DEFAULT_COLLECTION, "b", None, b"{}", False, ())])
    owner.deliver_until(2)
    owner.engine.close()
    assert sorted(owner.answered()) == [1, 2]


# --- opening and closing ---------------------------------------------------------------


def test_close_finishes_what_was_submitted(folder: Path) -> None:
    owner = Owner(folder, Limits(commit_delay_s=60, commit_revisions=40))
    owner.client.submit([insert(number, f"d{number}") for number in range(1, 101)])
    owner.engine.close()
    owner.engine.deliver()
    assert sorted(owner.answered()) == list(range(1, 101))


def test_calls_of_all_clients_are_handed_over_together(folder: Path) -> None:
    turns: list[Callable[[], None]] = []
    owner = Owner(folder, soon=turns.append)
    counts: list[int] = []
    other = owner.engine.connect(lambda *answers: counts.append(len(answers)))
    for number in range(1, 4):
        owner.client.submit([insert(number, f"mine-{number}")])
        other.submit([insert(number, f"theirs-{number}")])
    assert not owner.woken.acquire(timeout=0.1)
    assert len(turns) == 1
    turns.pop()()
    owner.deliver_until(3)
    owner.client.submit([insert(4, "next")])
    assert len(turns) == 1
    owner.engine.close()
    owner.engine.deliver()
    assert sorted(owner.answered()) == [1, 2, 3, 4]
    assert sum(counts) == 3
    turns.pop()()  # after the end, nothing is left to hand over


def test_calls_after_close_are_answered_so(owner: Owner) -> None:
    owner.engine.close()
    owner.client.submit([insert(1, "a"), AppendBlob(2, 1, b"x")])
    owner.deliver_until(2)
    for entry in owner.told:
        assert isinstance(entry, StoreDone)
        assert isinstance(entry.result, StoreClosedError)


def test_close_may_be_called_again(owner: Owner) -> None:
    owner.engine.close()
    owner.engine.close()
    owner.client.close()


def test_close_ends_all_threads(folder: Path) -> None:
    before = threading.active_count()
    Owner(folder).engine.close()
    assert threading.active_count() == before


def test_documents_survive_reopening(folder: Path) -> None:
    with Store(folder) as store:
        store.insert("a", "2-bb 1-aa", b'{"x":1}')
    with Store(folder) as store:
        assert store.as_tree("a") == ("a", "2-bb", 1, False, b'{"x":1}', ("1-aa",))


def test_open_database_cannot_be_opened_again(folder: Path) -> None:
    with Store(folder), pytest.raises(StoreInUseError):
        Store(folder)


def test_open_database_cannot_be_opened_by_another_process(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.storage.store import Store;"
        "Store(Path(sys.argv[1]))"
    )
    with Store(folder):
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            cwd=SOURCE,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "StoreInUseError" in done.stderr


def test_open_database_cannot_be_removed(folder: Path) -> None:
    with Store(folder), pytest.raises(StoreInUseError):
        Engine.remove(folder)


def test_removed_database_is_gone(folder: Path) -> None:
    with Store(folder) as store:
        store.insert("a", "1-aa")
        store.add_blob(b"content")
    Engine.remove(folder)
    assert not folder.exists()
    Engine.remove(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_takes_no_writes_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreFullError):
        Store(tmp_path / "db.edgesync")


def test_expired_document_is_purged_by_itself(folder: Path) -> None:
    with Store(folder) as store:
        store.insert("a", "1-aa")
        store.insert("b", "1-aa")
        store.expire("a", time.time() + 0.1)
        time.sleep(0.4)
    # A clock that stands still would show it, were it still there.
    with Store(folder, clock=lambda: 0.0) as store:
        assert store.changed_ids() == ["b"]


def test_writer_goes_on_after_waiting_for_an_expiry(folder: Path) -> None:
    with Store(folder) as store:
        store.ask_all([inserting(f"d{number}", "1-aa") for number in range(150)])
        now = time.time()
        for number in range(150):
            store.expire(f"d{number}", now + 0.05)
        time.sleep(0.3)
        assert store.insert("a", "1-aa").is_new
        assert store.changed_ids() == ["a"]
