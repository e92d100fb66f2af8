"""A client that goes on with the branch of another remote, and has ended ours."""

from __future__ import annotations

import pytest

from edgesync.documents.body import blob_digest
from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import DEFAULT_COLLECTION, Inserted, InsertRev
from edgesync.documents.version_vector import Order, compare, parse_vector
from edgesync.errors import BlobNotFoundError, ConflictError
from tests.storage.store import Store

BODY = b'{"remote":2}'
TOMBSTONE = "4-ff 3-cc"


def switch(
    store: Store,
    history: str = "3-xx 2-xx 1-aa",
    closed: str = TOMBSTONE,
    *,
    deleted: bool = False,
    blobs: tuple[str, ...] = (),
) -> Inserted:
    return store.ask(
        lambda i: InsertRev(
            i, DEFAULT_COLLECTION, "a", revs(history), BODY, deleted, blobs, revs(closed)
        ),
        Inserted,
    )


def revs(text: str) -> tuple[RevID, ...]:
    return tuple(RevID(rev_id) for rev_id in text.split())


@pytest.fixture(autouse=True)
def document(store: Store) -> None:
    store.insert("a", "3-cc 2-bb 1-aa", b'{"remote":1}')


def test_other_branch_becomes_current(store: Store) -> None:
    assert switch(store) == ("3-xx", 3, True)
    assert store.as_tree("a") == ("a", "3-xx", 3, False, BODY, ("2-xx", "1-aa"))


def test_other_branch_may_have_nothing_in_common(store: Store) -> None:
    switch(store, "2-xx 1-xx")
    assert store.as_tree("a") == ("a", "2-xx", 3, False, BODY, ("1-xx",))


def test_tombstone_s_history_may_go_deeper_than_our_revision(store: Store) -> None:
    switch(store, "3-xx 2-bb 1-aa", "5-ff 4-ee 3-cc 2-bb 1-aa")
    assert store.as_tree("a") == ("a", "3-xx", 3, False, BODY, ("2-bb", "1-aa"))


def test_our_branch_stays_known_with_its_tombstone(store: Store) -> None:
    switch(store)
    assert not store.insert("a", "4-ff 3-cc", deleted=True).is_new
    assert not store.insert("a", "3-cc 2-bb").is_new


def test_switch_is_newer_than_what_clients_with_vectors_have(store: Store) -> None:
    before = store.vector_of("a")
    switch(store)
    assert compare(parse_vector(store.vector_of("a")), parse_vector(before)) is Order.NEWER


def test_document_goes_on_from_the_other_branch(store: Store) -> None:
    switch(store)
    assert store.insert("a", "4-yy 3-xx").is_new
    with pytest.raises(ConflictError):
        store.insert("a", "4-zz 3-cc")


def test_switch_again_is_not_new(store: Store) -> None:
    switch(store)
    assert switch(store) == ("3-xx", 3, False)
    assert store.changes().last_sequence == 3


def test_switch_again_after_the_document_moved_on_is_not_new(store: Store) -> None:
    switch(store)
    store.insert("a", "4-yy 3-xx")
    assert not switch(store).is_new
    assert store.rev_of("a") == "4-yy"


def test_branch_that_was_ended_before_may_be_left_too(store: Store) -> None:
    store.insert("a", TOMBSTONE, deleted=True)
    assert switch(store).is_new
    assert store.rev_of("a") == "3-xx"


def test_document_that_moved_on_conflicts(store: Store) -> None:
    store.insert("a", "4-dd 3-cc")
    with pytest.raises(ConflictError) as caught:
        switch(store)
    assert caught.value.current_rev == "4-dd"
    assert store.rev_of("a") == "4-dd"


@pytest.mark.parametrize("closed", ["", "4-ff 3-ee"])
def test_tombstone_of_another_branch_conflicts(store: Store, closed: str) -> None:
    with pytest.raises(ConflictError):
        switch(store, closed=closed)
    assert store.rev_of("a") == "3-cc"


def test_missing_tombstone_conflicts_over_another_tombstone_of_ours(store: Store) -> None:
    store.insert("a", "4-dd 3-cc", deleted=True)
    with pytest.raises(ConflictError):
        switch(store)
    assert store.rev_of("a") == "4-dd"


def test_switch_without_its_blobs_leaves_our_branch_alive(store: Store) -> None:
    digest = blob_digest(b"content")
    with pytest.raises(BlobNotFoundError):
        switch(store, blobs=(digest,))
    assert store.rev_of("a") == "3-cc"
    assert store.changes().last_sequence == 1
    store.add_blob(b"content")
    assert switch(store, blobs=(digest,)).is_new


@pytest.mark.parametrize("history", ["2-bb 1-aa", "1-aa"])
def test_old_revision_with_a_tombstone_does_not_delete(store: Store, history: str) -> None:
    assert not switch(store, history).is_new
    assert store.rev_of("a") == "3-cc"


def test_descendant_of_our_revision_needs_no_switch(store: Store) -> None:
    assert switch(store, "4-xx 3-cc 2-bb") == ("4-xx", 2, True)
    assert store.as_tree("a") == ("a", "4-xx", 2, False, BODY, ("3-cc", "2-bb", "1-aa"))


def test_tombstone_that_does_not_end_our_branch_conflicts(store: Store) -> None:
    """It is known, as an ancestor of our revision: a client that makes no sense."""
    with pytest.raises(ConflictError):
        switch(store, closed="2-bb 3-cc")
    assert store.rev_of("a") == "3-cc"


def test_switch_to_a_tombstone_leaves_the_document_deleted(store: Store) -> None:
    switch(store, deleted=True)
    found = store.read("a")
    assert found is not None
    assert (found.rev_id, found.deleted) == ("4-ff", True)


def test_document_that_is_not_there_is_made(store: Store) -> None:
    store.purge("a")
    assert switch(store).is_new
    assert store.rev_of("a") == "3-xx"
