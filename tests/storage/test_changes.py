from __future__ import annotations

from pathlib import Path

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    Change,
    CreateCollection,
    DeleteCollection,
    ListCollections,
)
from edgesync.errors import CollectionNotFoundError, ConflictError, InvalidNameError
from edgesync.storage.changes import MAX_IDS_LOOKED_UP, PAGES_SCANNED
from tests.storage.store import Store, inserting


def test_feed_tells_what_a_document_is_now(store: Store) -> None:
    store.insert("a", "1-aa", b'{"x":1}')
    store.insert("b", "2-bb", deleted=True)
    store.insert("a", "2-cc 1-aa", b'{"x":22}')
    page = store.changes()
    assert page.changes == (
        Change(2, "b", RevID("2-bb"), True, 2, store.vector_of("b")),
        Change(3, "a", RevID("2-cc"), False, 8, store.vector_of("a")),
    )


def test_feed_begins_after_a_sequence(store: Store) -> None:
    store.ask_all([inserting(doc_id, "1-aa") for doc_id in "abc"])
    assert store.changed_ids(since=1) == ["b", "c"]
    assert store.changed_ids(since=3) == []


@pytest.mark.parametrize("since", [-1, -(2**70)])
def test_negative_sequence_is_the_beginning(store: Store, since: int) -> None:
    store.insert("a", "1-aa")
    assert store.changed_ids(since) == ["a"]


@pytest.mark.parametrize("since", [2, 2**62, 2**100])
def test_sequence_from_the_future_leads_back_to_the_present(store: Store, since: int) -> None:
    store.insert("a", "1-aa")
    assert store.changes(since) == ((), 1, True)


def test_page_that_is_full_says_where_to_go_on(store: Store) -> None:
    store.ask_all([inserting(doc_id, "1-aa") for doc_id in "abc"])
    page = store.changes(limit=2)
    assert (page.last_sequence, page.is_complete) == (2, False)


def test_page_that_is_just_full_is_complete(store: Store) -> None:
    store.ask_all([inserting(doc_id, "1-aa") for doc_id in "abc"])
    page = store.changes(limit=3)
    assert (page.last_sequence, page.is_complete) == (3, True)


def test_complete_page_goes_on_from_the_database_s_last_sequence(store: Store) -> None:
    store.create_collection("other.c")
    store.insert("a", "1-aa")
    store.insert("b", "1-aa", collection="other.c")
    assert store.changes().last_sequence == 2


def test_tombstones_are_left_out_on_demand(store: Store) -> None:
    store.insert("a", "1-aa")
    store.insert("b", "1-aa", deleted=True)
    page = store.changes(active_only=True)
    assert [change.doc_id for change in page.changes] == ["a"]
    assert page.last_sequence == 2


def test_feed_of_some_documents(store: Store) -> None:
    store.ask_all([inserting(doc_id, "1-aa", deleted=doc_id == "c") for doc_id in "dcba"])
    page = store.changes(doc_ids=frozenset("acx"))
    assert [change.doc_id for change in page.changes] == ["c", "a"]
    assert (page.last_sequence, page.is_complete) == (4, True)
    active = store.changes(doc_ids=frozenset("acx"), active_only=True)
    assert [change.doc_id for change in active.changes] == ["a"]


def test_feed_of_some_documents_comes_in_pages(store: Store) -> None:
    store.ask_all([inserting(doc_id, "1-aa") for doc_id in "abcd"])
    page = store.changes(doc_ids=frozenset("bcd"), limit=2)
    assert [change.doc_id for change in page.changes] == ["b", "c"]
    assert (page.last_sequence, page.is_complete) == (3, False)


def test_feed_of_no_documents_is_empty(store: Store) -> None:
    store.insert("a", "1-aa")
    assert store.changes(doc_ids=frozenset()) == ((), 1, True)


def test_feed_of_very_many_documents_is_the_same_in_the_end(store: Store) -> None:
    count = PAGES_SCANNED * 2 * 2
    store.ask_all([inserting(f"d{place}", "1-aa") for place in range(count)])
    wanted = [f"d{place}" for place in range(0, count, 7)]
    many = frozenset(wanted) | {f"x{place}" for place in range(MAX_IDS_LOOKED_UP)}
    found: list[str] = []
    since, is_complete = 0, False
    while not is_complete:
        page = store.changes(since, doc_ids=many, limit=2)
        assert len(page.changes) <= 2
        found.extend(change.doc_id for change in page.changes)
        assert page.last_sequence > since or page.is_complete
        since, is_complete = page.last_sequence, page.is_complete
    assert found == wanted
    assert since == count


def test_feed_of_an_unknown_collection_is_an_error(store: Store) -> None:
    with pytest.raises(CollectionNotFoundError):
        store.changes(collection="no.such")


# --- sequences -----------------------------------------------------------------------


def test_commit_tells_the_last_sequence_of_each_changed_collection(store: Store) -> None:
    store.create_collection("other.c")
    store.committed.clear()
    store.ask_all(
        [
            inserting("a", "1-aa"),
            inserting("b", "1-aa", collection="other.c"),
            inserting("c", "1-aa"),
        ]
    )
    assert [dict(committed.sequences) for committed in store.committed] == [
        {"_default._default": 3, "other.c": 2}
    ]


def test_commit_that_changed_no_document_is_not_told(store: Store) -> None:
    store.insert("a", "1-aa")
    store.committed.clear()
    store.insert("a", "1-aa")
    with pytest.raises(ConflictError):
        store.insert("a", "1-bb")
    assert store.committed == []


def test_sequences_go_on_after_a_purge_of_the_last(folder: Path) -> None:
    with Store(folder) as store:
        store.insert("a", "1-aa")
        store.purge("a")
    with Store(folder) as store:
        assert store.insert("b", "1-bb").sequence == 2


def test_sequences_go_on_in_a_collection_made_anew(folder: Path) -> None:
    with Store(folder) as store:
        store.create_collection("s.c")
        store.insert("a", "1-aa", collection="s.c")
        store.delete_collection("s.c")
    with Store(folder) as store:
        store.create_collection("s.c")
        assert store.changes(collection="s.c").changes == ()
        assert store.insert("a", "1-aa", collection="s.c").sequence == 2


def test_sequences_are_not_reused_when_their_collection_goes_at_once(folder: Path) -> None:
    with Store(folder) as store:
        store.ask_all(
            [
                lambda i: CreateCollection(i, "s.c"),
                inserting("a", "1-aa", collection="s.c"),
                lambda i: DeleteCollection(i, "s.c"),
            ]
        )
        assert store.committed == []
    with Store(folder) as store:
        assert store.insert("a", "1-aa").sequence == 2


# --- collections -----------------------------------------------------------------------


def test_default_collection_is_always_there(store: Store) -> None:
    assert store.ask(lambda i: ListCollections(i)) == ("_default._default",)


def test_default_collection_cannot_be_deleted(store: Store) -> None:
    with pytest.raises(InvalidNameError):
        store.delete_collection("_default._default")


def test_collections_survive_reopening(folder: Path) -> None:
    with Store(folder) as store:
        store.create_collection("s.c")
        store.create_collection("s.c")
        store.create_collection("s.d")
    with Store(folder) as store:
        expected = ("_default._default", "s.c", "s.d")
        assert store.ask(lambda i: ListCollections(i)) == expected


def test_documents_of_collections_are_apart(store: Store) -> None:
    store.create_collection("s.c")
    store.insert("a", "1-aa", collection="s.c")
    assert store.read("a") is None
    assert store.changed_ids() == []


def test_collection_needs_a_valid_name(store: Store) -> None:
    with pytest.raises(InvalidNameError):
        store.create_collection("%.c")


def test_unknown_collection_cannot_be_deleted(store: Store) -> None:
    with pytest.raises(CollectionNotFoundError):
        store.delete_collection("s.c")


def test_deleted_collection_is_not_there(store: Store) -> None:
    store.create_collection("s.c")
    store.insert("a", "2-bb 1-aa", collection="s.c")
    store.delete_collection("s.c")
    with pytest.raises(CollectionNotFoundError):
        store.read("a", "s.c")
