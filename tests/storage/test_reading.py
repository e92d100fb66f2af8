"""Documents that are read together are what they are when read alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    FindCurrentRevs,
    ReadRev,
    StoreCall,
    StoredRev,
)
from edgesync.errors import CollectionNotFoundError
from edgesync.storage.maintenance import DATABASE_FILE
from edgesync.storage.reading import MAX_BYTES_AHEAD
from tests.storage.store import Clock, Store

LARGE = b'{"x":"%s"}' % (b"y" * MAX_BYTES_AHEAD)


@pytest.fixture
def ids(store: Store) -> list[str]:
    """Store documents of every kind; return their IDs, and one of none."""
    store.insert("plain", "1-aa", b'{"text":"a \\"quote\\""}')
    store.insert("empty", "1-aa")
    store.insert("k\u00fcche \U0001f374", "1-aa", '{"\u00fc":"\U0001f374"}'.encode())
    store.insert("old", "4-dd 3-cc 2-bb 1-aa", b'{"old":true}')
    store.insert("gone", "2-bb 1-aa", deleted=True)
    store.insert("large", "1-aa", LARGE)
    store.push("version", "18a0000000000@AAAAAAAAAAAAAAAAAAAAAQ", b'{"v":1}')
    names = [change.doc_id for change in store.changes().changes]
    return [*names, "none"]


def reading(doc_id: str) -> Callable[[int], StoreCall]:
    return lambda call_id: ReadRev(call_id, DEFAULT_COLLECTION, doc_id)


def read_together(store: Store, ids: list[str]) -> list[object]:
    return store.ask_all([reading(doc_id) for doc_id in ids])


def test_documents_read_together_are_as_those_read_alone(store: Store, ids: list[str]) -> None:
    assert read_together(store, ids) == [store.read(name) for name in ids]


def test_document_may_be_asked_for_twice_at_once(store: Store, ids: list[str]) -> None:
    first, second, *_ = read_together(store, ["old", "old", "plain"])
    assert first == second == store.read("old")


def test_document_read_together_is_never_an_older_one(store: Store, ids: list[str]) -> None:
    read_together(store, ids)
    store.insert("plain", "2-bb 1-aa", b'{"new":true}')
    found = read_together(store, ["plain", "empty"])[0]
    assert isinstance(found, StoredRev)
    assert found.rev_id == "2-bb"


def test_expired_documents_are_not_read_together(folder: Path) -> None:
    clock = Clock(1000.0)
    with Store(folder, clock=clock) as store:
        store.insert("a", "1-aa")
        store.insert("b", "1-aa")
        store.expire("a", 2000.0)
        clock.now = 3000.0
        found = read_together(store, ["a", "b"])
    assert [rev is not None for rev in found] == [False, True]


def test_unknown_collection_spoils_no_others(store: Store, ids: list[str]) -> None:
    none, found = store.ask_all(
        [
            lambda i: ReadRev(i, "s.none", "plain"),
            lambda i: ReadRev(i, DEFAULT_COLLECTION, "plain"),
        ]
    )
    assert isinstance(none, CollectionNotFoundError)
    assert found == store.read("plain")


def test_body_that_somebody_has_broken_spoils_no_others(
    store: Store, ids: list[str], folder: Path
) -> None:
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection:
        connection.execute("UPDATE document SET body = 'a' || char(0) || 'b' WHERE doc_id = 'old'")
        connection.commit()
    assert read_together(store, ids) == [store.read(name) for name in ids]


def test_current_revisions_are_in_the_order_of_the_question(store: Store, ids: list[str]) -> None:
    wanted = ("old", "none", "gone", "plain", "old")
    found = store.ask(lambda i: FindCurrentRevs(i, DEFAULT_COLLECTION, wanted), tuple)
    assert [(rev.rev_id, rev.deleted) if rev else None for rev in found] == [
        ("4-dd", False),
        None,
        ("2-bb", True),
        ("1-aa", False),
        ("4-dd", False),
    ]
