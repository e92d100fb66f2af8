"""What nobody needs any more goes, and nothing else."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.database import Database
from edgesync.documents.body import blob_digest
from edgesync.documents.store_calls import (
    AppendBlob,
    Backup,
    BlobLength,
    Checkpoint,
    FindMissingBlobs,
    FinishBlob,
    GetCheckpoint,
    ProveBlob,
    ReadBlob,
    SetCheckpoint,
    StoreCall,
    StoreDone,
    TidyUp,
    Verify,
)
from edgesync.errors import BlobNotFoundError
from edgesync.limits import Limits
from edgesync.storage.blobs import MAX_USES, BlobFiles
from edgesync.storage.commits import Commits
from tests.storage.store import Clock, Store, inserting

HOUR = 3600.0
DAY = 24 * HOUR
CONTENT = b"0123456789"
DIGEST = blob_digest(CONTENT)
OTHER = blob_digest(b"other")
BODY = b'{"pic":{"@type":"blob","digest":"%s"}}' % DIGEST.encode()


@pytest.fixture
def uptime() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def store(folder: Path, uptime: Clock) -> Iterator[Store]:
    with Store(folder, Limits(commit_delay_s=0, blob_grace_s=HOUR), uptime=uptime) as opened:
        yield opened


def tidy_up(store: Store) -> int:
    return store.ask(lambda i: TidyUp(i), int)


def is_there(folder: Path, digest: str = DIGEST) -> bool:
    """Look without asking, as who asks has it kept."""
    name = Path(BlobFiles(folder.parent / "unused").path(digest))
    return (folder / "blobs" / name.parent.name / name.name).exists()


# --- blobs -----------------------------------------------------------------------------


def test_blob_without_a_document_stays_for_an_hour(
    store: Store, folder: Path, uptime: Clock
) -> None:
    store.add_blob(CONTENT)
    uptime.now += HOUR - 1
    assert tidy_up(store) == 0
    assert is_there(folder)
    uptime.now += 1
    assert tidy_up(store) == 1
    assert not is_there(folder)
    assert store.ask(lambda i: BlobLength(i, DIGEST)) is None


def test_blob_of_a_document_stays(store: Store, folder: Path, uptime: Clock) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", BODY, blobs=(DIGEST,))
    uptime.now += 100 * HOUR
    assert tidy_up(store) == 0
    assert is_there(folder)


def edit(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")


def delete(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", deleted=True)


def push(store: Store) -> None:
    store.push("a", "18aa000000000000@AAAAAAAAAAAAAAAAAAAAAQ; 1-aa")


def purge(store: Store) -> None:
    store.purge("a")


def expire(store: Store) -> None:
    store.expire("a", 0.0)
    store.insert("a", "1-cc")


@pytest.mark.parametrize("let_go", [edit, delete, push, purge, expire])
def test_blob_that_a_document_lets_go_of_stays_for_an_hour(
    store: Store, folder: Path, uptime: Clock, let_go: Callable[[Store], None]
) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", BODY, blobs=(DIGEST,))
    uptime.now += 100 * HOUR
    let_go(store)
    uptime.now += HOUR - 1
    assert tidy_up(store) == 0
    uptime.now += 1
    assert tidy_up(store) == 1
    assert not is_there(folder)


def test_blobs_of_a_collection_go_with_it(store: Store, uptime: Clock) -> None:
    store.create_collection("s.c")
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", BODY, blobs=(DIGEST,), collection="s.c")
    uptime.now += 100 * HOUR
    store.delete_collection("s.c")
    assert tidy_up(store) == 0
    uptime.now += HOUR
    assert tidy_up(store) == 1


def test_shared_blob_stays_for_its_last_document(store: Store, folder: Path, uptime: Clock) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", BODY, blobs=(DIGEST,))
    store.insert("b", "1-aa", BODY, blobs=(DIGEST,))
    edit(store)
    uptime.now += 2 * HOUR
    assert tidy_up(store) == 0
    assert is_there(folder)


def test_documents_with_an_old_tombstone_let_go_of_blobs_too(store: Store, uptime: Clock) -> None:
    store.insert("a", "1-00", deleted=True)
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", BODY, blobs=(DIGEST,))
    edit(store)
    uptime.now += HOUR
    assert tidy_up(store) == 1


def test_blob_of_a_tombstone_stays_while_another_branch_is_current(
    store: Store, folder: Path, uptime: Clock
) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "3-bb", BODY, deleted=True, blobs=(DIGEST,))
    store.insert("a", "1-aa")
    store.insert("a", "2-bb 1-aa")
    uptime.now += 2 * HOUR
    assert tidy_up(store) == 0
    assert is_there(folder)


@pytest.mark.parametrize(
    "question",
    [
        lambda i: FindMissingBlobs(i, (DIGEST,)),
        lambda i: BlobLength(i, DIGEST),
        lambda i: ReadBlob(i, DIGEST, 0, 4),
        lambda i: ProveBlob(i, DIGEST, b"nonce"),
        lambda i: FinishBlob(i, 9, DIGEST, None),
    ],
    ids=["missing?", "length", "read", "prove", "store again"],
)
def test_blob_that_somebody_has_to_do_with_stays_for_an_hour(
    store: Store, folder: Path, uptime: Clock, question: Callable[[int], StoreCall]
) -> None:
    store.add_blob(CONTENT)
    store.ask(lambda i: AppendBlob(i, 9, CONTENT))
    uptime.now += HOUR - 1
    store.ask(question)
    uptime.now += HOUR - 1
    assert tidy_up(store) == 0
    assert is_there(folder)
    uptime.now += 1
    assert tidy_up(store) == 1


def test_hour_begins_anew_when_the_database_is_opened(
    store: Store, folder: Path, uptime: Clock
) -> None:
    store.add_blob(CONTENT)
    uptime.now += 2 * HOUR
    store.close()
    with Store(folder, Limits(blob_grace_s=HOUR), uptime=uptime) as again:
        assert tidy_up(again) == 0
        uptime.now += HOUR
        assert tidy_up(again) == 1


def test_clock_on_the_wall_does_not_matter(tmp_path: Path, uptime: Clock) -> None:
    clock = Clock(1000.0)
    with Store(tmp_path / "x", Limits(blob_grace_s=HOUR), clock, uptime) as store:
        store.add_blob(CONTENT)
        clock.now += 1e9
        assert tidy_up(store) == 0


def test_blob_that_was_removed_must_come_again(store: Store, uptime: Clock) -> None:
    store.add_blob(CONTENT)
    uptime.now += HOUR
    tidy_up(store)
    with pytest.raises(BlobNotFoundError):
        store.insert("a", "1-aa", BODY, blobs=(DIGEST,))
    store.add_blob(CONTENT)
    assert store.insert("a", "1-aa", BODY, blobs=(DIGEST,)).is_new


def test_many_blobs_are_removed_and_the_needed_ones_stay(store: Store, uptime: Clock) -> None:
    digests = [store.add_blob(b"%d" % number) for number in range(35)]
    for number in range(0, 35, 5):
        store.insert(f"d{number}", "1-aa", blobs=(digests[number],))
    uptime.now += HOUR
    assert tidy_up(store) == 28
    assert store.ask(lambda i: Verify(i)) == ()
    missing = store.ask(lambda i: FindMissingBlobs(i, tuple(digests)), tuple)
    assert len(missing) == 28


def test_writer_looks_again_whether_a_document_refers_to_a_blob(
    tmp_path: Path, uptime: Clock
) -> None:
    blobs = BlobFiles(tmp_path / "blobs", 0.0, uptime)
    commits = Commits(tmp_path / "x.sqlite3", blobs, Limits(), time.time, uptime)
    for content in (CONTENT, b"other"):
        sink = blobs.new_sink()
        sink.append(content)
        sink.finish(blobs, blob_digest(content), None)
    commits.carry_out([inserting("a", "1-aa", BODY, blobs=(DIGEST,))(1)])
    assert commits.remove_blobs([DIGEST, OTHER]) == 1
    assert blobs.missing([DIGEST, OTHER]) == (OTHER,)
    commits.close()


def test_uses_that_are_too_many_to_remember_keep_everything(tmp_path: Path, uptime: Clock) -> None:
    blobs = BlobFiles(tmp_path / "blobs", HOUR, uptime)
    uptime.now += HOUR
    assert blobs.is_idle(DIGEST)
    blobs.let_go(str(number) for number in range(MAX_USES + 1))
    assert not blobs.is_idle(DIGEST)
    uptime.now += HOUR
    assert blobs.is_idle(DIGEST)


def test_uses_are_forgotten_when_they_do_not_count(tmp_path: Path, uptime: Clock) -> None:
    blobs = BlobFiles(tmp_path / "blobs", HOUR, uptime)
    uptime.now += HOUR
    blobs.let_go([DIGEST])
    uptime.now += HOUR / 2
    blobs.let_go([OTHER])
    uptime.now += HOUR / 2
    blobs.forget_old_uses()
    assert (blobs.is_idle(DIGEST), blobs.is_idle(OTHER)) == (True, False)


def test_blobs_go_by_themselves(tmp_path: Path) -> None:
    with Store(tmp_path / "x", Limits(blob_grace_s=0.05)) as store:
        store.add_blob(CONTENT)
        deadline = time.monotonic() + 10
        while is_there(tmp_path / "x"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_blobs_go_when_the_database_is_compacted(tmp_path: Path) -> None:
    with Database.open("db", directory=tmp_path, limits=Limits(blob_grace_s=0.0)) as database:
        kept = database.save_blob(io.BytesIO(b"kept"))
        lost = database.save_blob(io.BytesIO(b"lost"))
        database.default_collection.save("a", {"pic": kept})
        database.compact()
        assert database.get_blob(kept) is not None
        assert database.get_blob(lost) is None


def test_no_document_loses_a_blob_while_blobs_are_removed(tmp_path: Path) -> None:
    with Store(tmp_path / "x", Limits(commit_delay_s=0, blob_grace_s=0.1)) as store:
        removed: list[StoreDone] = []
        janitor = store.engine.connect(lambda *done: removed.extend(done))
        deadline = time.monotonic() + 1.5
        number = 0
        while time.monotonic() < deadline:
            janitor.submit([TidyUp(number)])
            # Few contents, so that they come, go and come again all the time.
            digest = store.add_blob(b"content %d" % (number % 7))
            parent = f" {number}-aa" if number else ""
            store.insert("a", f"{number + 1}-aa{parent}", blobs=(digest,))
            if number % 10 == 0:
                time.sleep(0.12)
            number += 1
            assert store.ask(lambda i: Verify(i)) == ()
        assert sum(done.result for done in removed if isinstance(done.result, int)) > 0


def test_backup_has_the_blobs_of_its_moment(store: Store, tmp_path: Path, uptime: Clock) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", BODY, blobs=(DIGEST,))
    store.ask(lambda i: Backup(i, tmp_path / "copy"))
    edit(store)
    uptime.now += HOUR
    assert tidy_up(store) == 1
    with Store(tmp_path / "copy") as copy:
        assert copy.ask(lambda i: Verify(i)) == ()


def test_closing_does_not_wait_for_upkeep(tmp_path: Path) -> None:
    store = Store(tmp_path / "x", Limits(blob_grace_s=0.0))
    for number in range(50):
        store.add_blob(b"%d" % number)
    store.client.submit([TidyUp(0), TidyUp(1)])
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 5


# --- checkpoints -----------------------------------------------------------------------


def save_checkpoint(store: Store, checkpoint_id: str) -> None:
    store.ask(lambda i: SetCheckpoint(i, checkpoint_id, "", b"state"))


def read_checkpoint(store: Store, checkpoint_id: str) -> object:
    return store.ask(lambda i: GetCheckpoint(i, checkpoint_id))


def stored_checkpoints(folder: Path) -> list[str]:
    """Look without reading, as to read one is to use it."""
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM checkpoint ORDER BY id")]


def test_checkpoint_that_nobody_uses_goes_after_90_days(
    store: Store, folder: Path, uptime: Clock
) -> None:
    save_checkpoint(store, "cp")
    uptime.now += 90 * DAY
    tidy_up(store)
    assert stored_checkpoints(folder) == ["cp"]
    uptime.now += 1
    tidy_up(store)
    assert stored_checkpoints(folder) == []


def test_checkpoint_that_is_read_stays(store: Store, folder: Path, uptime: Clock) -> None:
    save_checkpoint(store, "lost")
    save_checkpoint(store, "read")
    uptime.now += 80 * DAY
    read_checkpoint(store, "read")
    tidy_up(store)
    uptime.now += 80 * DAY
    tidy_up(store)
    assert stored_checkpoints(folder) == ["read"]
    assert read_checkpoint(store, "read") == Checkpoint("1-cc", b"state")


def used_at(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection:
        (value,) = connection.execute("SELECT used_at FROM checkpoint").fetchone()
        assert isinstance(value, float)
        return value


def test_reading_a_checkpoint_is_written_down_once_a_day(
    store: Store, folder: Path, uptime: Clock
) -> None:
    save_checkpoint(store, "cp")
    found = [used_at(folder)]
    for _ in range(5):
        uptime.now += 10 * HOUR
        size = (folder / "database.sqlite3-wal").stat()
        read_checkpoint(store, "cp")
        assert (folder / "database.sqlite3-wal").stat() == size
        tidy_up(store)
        found.append(used_at(folder))
    assert found == [0.0, 0.0, 0.0, 30 * HOUR, 30 * HOUR, 30 * HOUR]


def test_age_of_checkpoints_survives_reopening(folder: Path, store: Store, uptime: Clock) -> None:
    save_checkpoint(store, "cp")
    uptime.now += 60 * DAY
    tidy_up(store)
    store.close()
    uptime.now = 5.0  # the machine was started anew
    with Store(folder, uptime=uptime) as again:
        uptime.now += 29 * DAY
        tidy_up(again)
        assert stored_checkpoints(folder) == ["cp"]
        uptime.now += 2 * DAY
        tidy_up(again)
        assert stored_checkpoints(folder) == []


def test_checkpoints_outlive_a_clock_that_learns_the_year(tmp_path: Path) -> None:
    clock = Clock(60.0)
    with Store(tmp_path / "x", clock=clock) as store:
        save_checkpoint(store, "cp")
        clock.now = 1.8e9
        tidy_up(store)
        assert stored_checkpoints(tmp_path / "x") == ["cp"]
