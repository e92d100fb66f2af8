"""Bodies that are kept for deltas, while anybody wants deltas, and within a budget."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    DeltaBase,
    InsertRev,
    ReadBase,
)
from edgesync.limits import Limits
from edgesync.storage.blobs import BlobFiles
from edgesync.storage.commits import Commits
from tests.storage.store import Store

LIMITS = Limits(
    commit_delay_s=0,
    min_delta_body_bytes=20,
    max_delta_body_bytes=1000,
    max_kept_bodies=3,
    max_kept_body_bytes=5000,
)


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder, LIMITS) as opened:
        opened.engine.keep_bodies()
        yield opened


def body(number: int, size: int = 100) -> bytes:
    return b'{"n":%d,"x":"%s"}' % (number, b"y" * size)


def edit(store: Store, doc_id: str, first: int, last: int, size: int = 100) -> list[str]:
    """Make revisions of a document; return their versions, oldest first."""
    versions = []
    for number in range(first, last + 1):
        parent = f" {number - 1}-aa" if number > 1 else ""
        store.insert(doc_id, f"{number}-aa{parent}", body(number, size))
        versions.append(store.vector_of(doc_id))
    return versions


def base(store: Store, doc_id: str, *known: str) -> DeltaBase | None:
    found = store.read(doc_id, known=known)
    assert found is not None
    return found.base


def live_base(store: Store, doc_id: str, rev: str) -> object:
    return store.ask(lambda i: ReadBase(i, DEFAULT_COLLECTION, doc_id, rev))


def kept(folder: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection:
        return connection.execute("SELECT rev_id, body_bytes FROM kept_body ORDER BY id").fetchall()


def test_replaced_body_is_a_base_under_either_name(store: Store) -> None:
    versions = edit(store, "a", 1, 2)
    assert base(store, "a", "1-aa") == DeltaBase("1-aa", body(1))
    assert base(store, "a", versions[0]) == DeltaBase(versions[0], body(1))


def test_newest_known_body_is_the_base(store: Store) -> None:
    edit(store, "a", 1, 4)
    assert base(store, "a", "1-aa", "3-aa", "2-aa", "9-xx") == DeltaBase("3-aa", body(3))


def test_unknown_revisions_have_no_base(store: Store) -> None:
    edit(store, "a", 1, 2)
    assert base(store, "a", "1-bb") is None
    assert base(store, "a") is None


def test_bodies_of_other_documents_are_no_base(store: Store) -> None:
    edit(store, "a", 1, 2)
    store.insert("b", "2-bb 1-aa", body(9))
    assert base(store, "b", "1-aa") is None


def test_delta_of_a_client_may_be_against_the_current_or_a_kept_body(store: Store) -> None:
    versions = edit(store, "a", 1, 2)
    assert live_base(store, "a", "1-aa") == DeltaBase("1-aa", body(1))
    assert live_base(store, "a", "2-aa") == DeltaBase("2-aa", body(2))
    assert live_base(store, "a", versions[1]) == DeltaBase(versions[1], body(2))
    assert live_base(store, "a", "3-aa") is None
    assert live_base(store, "b", "1-aa") is None


def test_tombstone_is_no_base(store: Store) -> None:
    store.insert("a", "1-aa", body(1), deleted=True)
    assert live_base(store, "a", "1-aa") is None
    store.insert("a", "2-bb 1-aa", body(2))
    assert live_base(store, "a", "1-aa") is None


def test_body_is_kept_for_who_missed_the_deletion(store: Store) -> None:
    edit(store, "a", 1, 1)
    store.insert("a", "2-bb 1-aa", deleted=True)
    store.insert("a", "3-cc 2-bb", body(3))
    assert base(store, "a", "1-aa") == DeltaBase("1-aa", body(1))


def test_nothing_is_kept_while_nobody_takes_deltas(folder: Path) -> None:
    with Store(folder, LIMITS) as store:
        edit(store, "a", 1, 3)
        store.push("a", "18aa000000000000@AAAAAAAAAAAAAAAAAAAAAQ; 3-aa", body(4))
        assert kept(folder) == []


@pytest.mark.parametrize("size", [1, 2000])
def test_small_and_large_bodies_are_not_kept(store: Store, folder: Path, size: int) -> None:
    edit(store, "a", 1, 2, size)
    assert kept(folder) == []


def test_latest_bodies_of_a_document_are_kept(store: Store, folder: Path) -> None:
    edit(store, "a", 1, 9)
    assert [rev_id for rev_id, _ in kept(folder)] == ["6-aa", "7-aa", "8-aa"]


def test_kept_bodies_stay_within_the_budget(store: Store, folder: Path) -> None:
    for number in range(60):
        edit(store, f"d{number}", 1, 3, 400)
        assert sum(size for _, size in kept(folder)) <= 5000
    assert base(store, "d59", "2-aa") == DeltaBase("2-aa", body(2, 400))
    assert len(kept(folder)) >= 5


def test_budget_holds_after_reopening(folder: Path) -> None:
    for opening in range(5):
        with Store(folder, LIMITS) as store:
            store.engine.keep_bodies()
            for number in range(4):
                edit(store, f"d{opening}-{number}", 1, 3, 400)
            assert sum(size for _, size in kept(folder)) <= 5000


def test_budget_smaller_than_a_body_keeps_none(folder: Path) -> None:
    limits = Limits(commit_delay_s=0, min_delta_body_bytes=20, max_kept_body_bytes=50)
    with Store(folder, limits) as store:
        store.engine.keep_bodies()
        edit(store, "a", 1, 3)
        assert kept(folder) == []


def test_purged_document_leaves_no_bodies(store: Store, folder: Path) -> None:
    edit(store, "a", 1, 3)
    store.purge("a")
    assert kept(folder) == []


def test_deleted_collection_leaves_no_bodies(store: Store, folder: Path) -> None:
    store.create_collection("s.c")
    store.insert("a", "1-aa", body(1), collection="s.c")
    store.insert("a", "2-bb 1-aa", body(2), collection="s.c")
    edit(store, "a", 1, 2)
    store.delete_collection("s.c")
    assert kept(folder) == [("1-aa", len(body(1)))]


def test_budget_holds_after_transactions_that_failed(tmp_path: Path) -> None:
    commits = Commits(
        tmp_path / "database.sqlite3", BlobFiles(tmp_path / "blobs"), LIMITS, time.time, lambda: 0.0
    )
    commits.kept.is_wanted = True
    for number in range(40):
        doc_id = f"d{number}"
        first = InsertRev(1, DEFAULT_COLLECTION, doc_id, (RevID("1-aa"),), body(1, 400), False, ())
        second = first._replace(history=(RevID("2-aa"), RevID("1-aa")))
        commits.carry_out([first, second])
        broken = first._replace(history=())
        third = first._replace(history=(RevID("3-aa"), RevID("2-aa")))
        with pytest.raises(IndexError):
            commits.carry_out([third, broken])
        commits.roll_back()
        assert sum(size for _, size in kept(tmp_path)) <= 5000
    commits.close()
