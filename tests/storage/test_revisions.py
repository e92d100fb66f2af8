from __future__ import annotations

from pathlib import Path

import pytest

from edgesync.documents.body import blob_digest
from edgesync.documents.rev_id import RevID, new_rev_id
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    CountDocuments,
    CurrentRev,
    FindCurrentRevs,
    InsertRev,
    ListDocuments,
)
from edgesync.errors import (
    BlobNotFoundError,
    CollectionNotFoundError,
    ConflictError,
    NotFoundError,
)
from edgesync.limits import Limits
from tests.storage.store import Clock, Store, inserting

# --- inserting a peer's revisions -------------------------------------------------


def test_inserted_revision_is_read_back(store: Store) -> None:
    store.insert("a", "1-aa", b'{"x": 1}')
    assert store.as_tree("a") == ("a", "1-aa", 1, False, b'{"x": 1}', ())


def test_body_keeps_its_bytes(store: Store) -> None:
    body = '{"é": "\\u0000 🙂", "n": 1.0}\n'.encode()
    store.insert("a", "1-aa", body)
    found = store.read("a")
    assert found is not None
    assert found.body == body


def test_absent_document_is_none(store: Store) -> None:
    assert store.read("a") is None


def test_first_revision_may_bring_a_history(store: Store) -> None:
    store.insert("a", "3-cc 2-bb 1-aa")
    assert store.as_tree("a") == ("a", "3-cc", 1, False, b"{}", ("2-bb", "1-aa"))


def test_child_replaces_its_parent(store: Store) -> None:
    store.insert("a", "1-aa", b'{"x":1}')
    store.insert("a", "2-bb 1-aa", b'{"x":2}')
    assert store.as_tree("a") == ("a", "2-bb", 2, False, b'{"x":2}', ("1-aa",))


def test_descendant_brings_the_revisions_between(store: Store) -> None:
    store.insert("a", "1-aa")
    store.insert("a", "4-dd 3-cc 2-bb 1-aa")
    assert store.as_tree("a") == ("a", "4-dd", 2, False, b"{}", ("3-cc", "2-bb", "1-aa"))


def test_current_revision_again_is_not_new(store: Store) -> None:
    store.insert("a", "1-aa")
    store.insert("b", "1-bb")
    assert store.insert("a", "1-aa") == ("1-aa", 1, False)


def test_delayed_older_revision_is_not_new(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    assert store.insert("a", "1-aa") == ("1-aa", 1, False)


def test_known_revision_makes_no_change(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", b'{"x":2}')
    store.insert("a", "1-aa", b'{"x":1}')
    assert store.changes().last_sequence == 1
    assert store.as_tree("a") == ("a", "2-bb", 1, False, b'{"x":2}', ("1-aa",))


def test_sibling_of_the_current_revision_conflicts(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    with pytest.raises(ConflictError) as caught:
        store.insert("a", "2-cc 1-aa")
    assert caught.value.current_rev == "2-bb"


def test_unrelated_revision_conflicts(store: Store) -> None:
    store.insert("a", "1-aa")
    with pytest.raises(ConflictError):
        store.insert("a", "1-bb")


def test_conflict_writes_nothing(store: Store) -> None:
    store.insert("a", "1-aa")
    with pytest.raises(ConflictError):
        store.insert("a", "1-bb")
    assert store.rev_of("a") == "1-aa"
    assert store.changes().last_sequence == 1


def test_conflict_does_not_spoil_its_neighbours(store: Store) -> None:
    store.insert("a", "1-aa")
    first, second, third = store.ask_all(
        [inserting("b", "1-bb"), inserting("a", "1-cc"), inserting("c", "1-dd")]
    )
    assert (first, third) == (("1-bb", 2, True), ("1-dd", 3, True))
    assert isinstance(second, ConflictError)


def test_one_document_may_change_twice_in_a_transaction(store: Store) -> None:
    store.ask_all([inserting("a", "1-aa"), inserting("a", "2-bb 1-aa")])
    assert store.as_tree("a") == ("a", "2-bb", 2, False, b"{}", ("1-aa",))


def test_tombstone_is_stored_like_any_revision(store: Store) -> None:
    store.insert("a", "1-aa", b'{"x":1}')
    store.insert("a", "2-bb 1-aa", b'{"why":"old"}', deleted=True)
    assert store.as_tree("a") == ("a", "2-bb", 2, True, b'{"why":"old"}', ("1-aa",))


def test_new_document_over_a_tombstone_begins_anew(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", deleted=True)
    store.insert("a", "1-cc", b'{"x":1}')
    assert store.as_tree("a") == ("a", "1-cc", 2, False, b'{"x":1}', ())


def test_revisions_of_the_old_branch_stay_known(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", deleted=True)
    store.insert("a", "1-cc")
    assert store.insert("a", "2-bb 1-aa", deleted=True).is_new is False


def test_old_tombstone_wins_again_when_it_is_higher(store: Store) -> None:
    store.insert("a", "3-bb 2-aa", b'{"old":1}', deleted=True)
    store.insert("a", "1-cc", b'{"x":1}')
    assert store.insert("a", "2-dd 1-cc", deleted=True) == ("2-dd", 3, True)
    assert store.as_tree("a") == ("a", "3-bb", 3, True, b'{"old":1}', ("2-aa",))


def test_losing_tombstone_may_be_undeleted(store: Store) -> None:
    store.insert("a", "3-bb", deleted=True)
    store.insert("a", "1-cc")
    store.insert("a", "2-dd 1-cc", deleted=True)
    store.insert("a", "3-ee 2-dd", b'{"x":1}')
    assert store.as_tree("a") == ("a", "3-ee", 4, False, b'{"x":1}', ("2-dd", "1-cc"))


def test_losing_revision_is_known_afterwards(store: Store) -> None:
    store.insert("a", "3-bb", deleted=True)
    store.insert("a", "1-cc")
    store.insert("a", "2-dd 1-cc", deleted=True)
    assert store.insert("a", "2-dd 1-cc", deleted=True) == ("2-dd", 3, False)


def test_losing_branch_may_grow_under_a_current_tombstone(store: Store) -> None:
    store.insert("a", "5-bb", deleted=True)
    store.insert("a", "1-cc", deleted=True)
    store.insert("a", "2-dd 1-cc", deleted=True)
    assert store.as_tree("a") == ("a", "5-bb", 3, True, b"{}", ())


def test_history_is_pruned(folder: Path) -> None:
    with Store(folder, Limits(commit_delay_s=0, max_revs_depth=5)) as store:
        store.insert("a", "1-aa")
        for number in range(2, 40):
            store.insert("a", f"{number}-aa {number - 1}-aa")
        found = store.read("a")
        assert found is not None
        assert found.ancestors[:4] == ("38-aa", "37-aa", "36-aa", "35-aa")
        assert len(found.ancestors) < 5 + 10


def test_pruning_keeps_old_tombstones(folder: Path) -> None:
    with Store(folder, Limits(commit_delay_s=0, max_revs_depth=5)) as store:
        store.insert("a", "9-bb", deleted=True)
        store.insert("a", "1-aa")
        for number in range(2, 40):
            store.insert("a", f"{number}-aa {number - 1}-aa")
        assert store.insert("a", "9-bb", deleted=True).is_new is False


def test_history_of_a_new_document_is_cut_to_the_depth(folder: Path) -> None:
    with Store(folder, Limits(commit_delay_s=0, max_revs_depth=3)) as store:
        store.insert("a", "5-ee 4-dd 3-cc 2-bb 1-aa")
        assert store.as_tree("a") == ("a", "5-ee", 1, False, b"{}", ("4-dd", "3-cc"))


def test_blobs_must_be_there_before_the_document(store: Store) -> None:
    digest = blob_digest(b"content")
    with pytest.raises(BlobNotFoundError):
        store.insert("a", "1-aa", blobs=(digest,))
    assert store.read("a") is None
    store.add_blob(b"content")
    assert store.insert("a", "1-aa", blobs=(digest,)).is_new


def test_child_needs_its_blobs_too(store: Store) -> None:
    store.insert("a", "1-aa")
    with pytest.raises(BlobNotFoundError):
        store.insert("a", "2-bb 1-aa", blobs=(blob_digest(b"content"),))
    assert store.rev_of("a") == "1-aa"


def test_known_revision_needs_no_blobs(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    assert not store.insert("a", "1-aa", blobs=(blob_digest(b"gone"),)).is_new


def test_unknown_collection_is_an_error(store: Store) -> None:
    with pytest.raises(CollectionNotFoundError):
        store.insert("a", "1-aa", collection="no.such")


# --- saving our own ----------------------------------------------------------------


def test_saved_revision_is_named_by_its_content(store: Store) -> None:
    saved = store.save("a", None, b'{"x":1}')
    assert saved == (new_rev_id(None, False, b'{"x":1}'), 1, True)


def test_saved_child_has_its_parent_as_ancestor(store: Store) -> None:
    first = store.save("a", None, b'{"x":1}')
    second = store.save("a", first.rev_id, b'{"x":2}')
    assert store.as_tree("a") == ("a", second.rev_id, 2, False, b'{"x":2}', (first.rev_id,))


def test_saving_without_parent_over_a_document_conflicts(store: Store) -> None:
    store.save("a", None, b'{"x":1}')
    with pytest.raises(ConflictError):
        store.save("a", None, b'{"x":2}')


def test_saving_over_an_old_revision_conflicts(store: Store) -> None:
    first = store.save("a", None, b'{"x":1}')
    store.save("a", first.rev_id, b'{"x":2}')
    with pytest.raises(ConflictError):
        store.save("a", first.rev_id, b'{"x":3}')


def test_saving_over_what_is_not_there_conflicts(store: Store) -> None:
    with pytest.raises(ConflictError) as caught:
        store.save("a", "1-aa")
    assert caught.value.current_rev == ""


def test_saving_the_same_again_is_not_new(store: Store) -> None:
    first = store.save("a", None, b'{"x":1}')
    second = store.save("a", first.rev_id, b'{"x":2}')
    assert store.save("a", first.rev_id, b'{"x":2}') == (second.rev_id, 2, False)


def test_tombstone_is_saved_over_its_parent(store: Store) -> None:
    first = store.save("a", None, b'{"x":1}')
    tombstone = store.save("a", first.rev_id, deleted=True)
    assert store.as_tree("a") == ("a", tombstone.rev_id, 2, True, b"{}", (first.rev_id,))


def test_deleting_twice_is_not_new(store: Store) -> None:
    first = store.save("a", None, b'{"x":1}')
    tombstone = store.save("a", first.rev_id, deleted=True)
    assert store.save("a", first.rev_id, deleted=True) == (tombstone.rev_id, 2, False)


def test_saving_over_a_tombstone_makes_it_the_parent(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", deleted=True)
    saved = store.save("a", None, b'{"x":1}')
    assert store.as_tree("a") == ("a", saved.rev_id, 2, False, b'{"x":1}', ("2-bb", "1-aa"))


@pytest.mark.parametrize("parent", [None, "1-aa"])
def test_absent_document_cannot_be_deleted(store: Store, parent: str | None) -> None:
    with pytest.raises(NotFoundError):
        store.save("a", parent, deleted=True)


def test_deleted_document_cannot_be_deleted(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", deleted=True)
    with pytest.raises(NotFoundError):
        store.save("a", None, deleted=True)


# --- reading -----------------------------------------------------------------------


def test_current_revs_are_parallel_to_the_question(store: Store) -> None:
    store.insert("a", "1-aa")
    store.insert("b", "2-bb", deleted=True)
    found = store.ask(lambda i: FindCurrentRevs(i, DEFAULT_COLLECTION, ("b", "x", "a")), tuple)
    assert found == (
        CurrentRev(RevID("2-bb"), True, store.vector_of("b")),
        None,
        CurrentRev(RevID("1-aa"), False, store.vector_of("a")),
    )


def test_live_documents_are_listed_by_id(store: Store) -> None:
    for doc_id in ("c", "a", "b", "d"):
        store.insert(doc_id, "1-aa", deleted=doc_id == "b")

    def listed(after: str, limit: int) -> list[str]:
        page = store.ask(lambda i: ListDocuments(i, DEFAULT_COLLECTION, after, limit), tuple)
        return [document.doc_id for document in page]

    assert listed("", 10) == ["a", "c", "d"]
    assert listed("a", 1) == ["c"]
    assert listed("d", 1) == []


def test_live_documents_are_counted(store: Store) -> None:
    store.insert("a", "1-aa")
    store.insert("b", "1-aa", deleted=True)
    store.create_collection("other.c")
    store.insert("c", "1-aa", collection="other.c")
    assert store.ask(lambda i: CountDocuments(i, DEFAULT_COLLECTION)) == 1


# --- purge and expiry ----------------------------------------------------------------


def test_purged_document_is_gone_without_a_change(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    assert store.purge("a") is True
    assert store.read("a") is None
    assert store.changes() == ((), 1, True)


def test_purged_document_may_come_back(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    store.purge("a")
    assert store.insert("a", "2-bb 1-aa") == ("2-bb", 2, True)


def test_purging_what_is_not_there_does_nothing(store: Store) -> None:
    assert store.purge("a") is False


def test_expired_document_is_not_there(folder: Path) -> None:
    clock = Clock(1000.0)
    with Store(folder, clock=clock) as store:
        store.insert("a", "1-aa")
        assert store.expire("a", 1005.0) is True
        assert store.rev_of("a") == "1-aa"
        clock.now = 1005.0
        assert store.read("a") is None
        assert store.changed_ids() == []
        assert store.ask(lambda i: CountDocuments(i, DEFAULT_COLLECTION)) == 0
        assert store.ask(lambda i: ListDocuments(i, DEFAULT_COLLECTION, "", 9)) == ()
        assert store.ask(lambda i: FindCurrentRevs(i, DEFAULT_COLLECTION, ("a",))) == (None,)
        assert store.purge("a") is False


def test_expired_document_may_be_made_anew(folder: Path) -> None:
    clock = Clock(1000.0)
    with Store(folder, clock=clock) as store:
        store.insert("a", "2-bb 1-aa")
        store.expire("a", 1005.0)
        clock.now = 1006.0
        assert store.insert("a", "1-cc") == ("1-cc", 2, True)
        assert store.as_tree("a") == ("a", "1-cc", 2, False, b"{}", ())


def test_expiration_outlives_a_change(folder: Path) -> None:
    clock = Clock(1000.0)
    with Store(folder, clock=clock) as store:
        store.insert("a", "1-aa")
        store.expire("a", 1005.0)
        store.insert("a", "2-bb 1-aa")
        clock.now = 1006.0
        assert store.read("a") is None


def test_expiration_can_be_taken_back(folder: Path) -> None:
    clock = Clock(1000.0)
    with Store(folder, clock=clock) as store:
        store.insert("a", "1-aa")
        store.expire("a", 1005.0)
        store.expire("a", None)
        clock.now = 1006.0
        assert store.rev_of("a") == "1-aa"


def test_absent_document_has_no_expiration(store: Store) -> None:
    assert store.expire("a", 0.0) is False


def test_history_with_malice_cannot_spoil_a_transaction(store: Store) -> None:
    """A chain that lists a revision of another branch of the document."""
    store.insert("a", "3-bb 2-aa", deleted=True)
    store.insert("a", "1-cc")
    answers = store.ask_all([inserting("a", "4-dd 3-bb 1-cc"), inserting("b", "1-aa")])
    assert isinstance(answers[0], ConflictError)
    assert answers[1] == ("1-aa", 3, True)


def test_calls_of_the_wrong_kind_are_answered(store: Store) -> None:
    answers = store.ask_all([lambda i: InsertRev(i, DEFAULT_COLLECTION, "a", (), b"{}", False, ())])
    assert "the store failed" in str(answers[0])
    assert store.insert("a", "1-aa").is_new
