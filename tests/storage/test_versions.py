"""Version vectors of stored revisions, and the clock that their times come from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edgesync.documents.body import blob_digest
from edgesync.documents.version_vector import Order, Version, compare, parse_vector
from edgesync.errors import BlobNotFoundError, ClockBehindError, ConflictError
from edgesync.storage.versions import NS, RELEASED_AT_S
from tests.storage.store import Clock, Store

NOW = 1_800_000_000.0  # a day in January 2027
DAY = 86_400.0
YEAR = 365 * DAY
ANN = "AAAAAAAAAAAAAAAAAAAAAQ"
BOB = "AAAAAAAAAAAAAAAAAAAAAg"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder, clock=Clock(NOW)) as opened:
        yield opened


def at(second: float, source: str = ANN) -> str:
    return f"{int(second * NS):x}@{source}"


def current(store: Store, doc_id: str) -> Version:
    return parse_vector(store.vector_of(doc_id)).current


def order(newer: str, older: str) -> Order:
    return compare(parse_vector(newer), parse_vector(older))


# --- vectors of our own ----------------------------------------------------------------


def test_new_document_has_one_version_of_the_database_s_own_source(store: Store) -> None:
    store.insert("a", "1-aa")
    store.save("b", None)
    assert current(store, "a").source == current(store, "b").source
    assert "," not in store.vector_of("a") + store.vector_of("b")


def test_edit_is_newer_than_what_it_edits(store: Store) -> None:
    store.insert("a", "1-aa")
    first = store.vector_of("a")
    store.insert("a", "2-bb 1-aa")
    second = store.vector_of("a")
    store.save("a", "2-bb", b'{"x":1}')
    assert order(second, first) is Order.NEWER
    assert order(store.vector_of("a"), second) is Order.NEWER


def test_edit_of_a_client_s_version_keeps_it_behind_our_own(store: Store) -> None:
    store.push("a", f"{at(NOW - 9)}; {at(NOW - 20, BOB)}")
    store.insert("a", f"2-bb {store.rev_of('a')}")
    ours = current(store, "a")
    assert store.vector_of("a") == f"{ours}; {at(NOW - 9)}, {at(NOW - 20, BOB)}"


def test_times_rise_while_the_clock_stands_still(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW)) as store:
        times = []
        for doc_id in "abc":
            store.insert(doc_id, "1-aa")
            times.append(current(store, doc_id).time)
        assert times == sorted(set(times))


def test_known_revision_keeps_its_vector(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    before = store.vector_of("a")
    store.insert("a", "1-aa")
    store.insert("a", "2-bb 1-aa")
    assert store.vector_of("a") == before


def test_document_that_is_made_anew_is_newer_than_its_tombstone(store: Store) -> None:
    store.insert("a", "2-bb 1-aa", deleted=True)
    before = store.vector_of("a")
    store.insert("a", "1-cc")
    assert order(store.vector_of("a"), before) is Order.NEWER


def test_old_tombstone_that_wins_again_is_newer_than_the_live_revision(store: Store) -> None:
    store.insert("a", "3-bb 2-aa", deleted=True)
    store.insert("a", "1-cc")
    before = store.vector_of("a")
    store.insert("a", "2-dd 1-cc", deleted=True)
    assert store.rev_of("a") == "3-bb"
    assert order(store.vector_of("a"), before) is Order.NEWER


def test_client_s_deletion_keeps_its_version_when_an_old_tombstone_wins(store: Store) -> None:
    store.insert("a", "9-bb", deleted=True)
    store.insert("a", "1-cc")
    deletion = f"{at(NOW)}; {store.vector_of('a').replace(';', ',')}"
    assert store.push("a", deletion, deleted=True).is_new
    assert store.rev_of("a") == "9-bb"
    assert store.vector_of("a") == deletion
    assert not store.push("a", deletion, deleted=True).is_new


# --- versions of clients ---------------------------------------------------------------


def test_client_s_version_is_stored_as_it_is(store: Store) -> None:
    vector = f"{at(NOW - 9)}, {at(NOW - 20)}, {at(NOW - 15, BOB)};"
    stored = store.push("a", vector, b'{"x":1}')
    found = store.read("a")
    assert found is not None
    assert (found.vector, found.body, found.deleted) == (vector, b'{"x":1}', False)
    assert (stored.sequence, stored.is_new) == (1, True)


def test_client_s_version_gets_a_tree_id_on_top_of_the_current_one(store: Store) -> None:
    first = store.push("a", at(NOW - 9)).rev_id
    second = store.push("a", f"{at(NOW - 8, BOB)}; {at(NOW - 9)}").rev_id
    assert (first[:2], second[:2]) == ("1-", "2-")
    found = store.read("a")
    assert found is not None
    assert found.ancestors == (first,)


def test_same_version_has_the_same_tree_id_in_every_store(tmp_path: Path) -> None:
    clock = Clock(NOW)
    with Store(tmp_path / "x", clock=clock) as one, Store(tmp_path / "y", clock=clock) as other:
        assert one.push("a", at(NOW)).rev_id == other.push("a", at(NOW)).rev_id


def test_client_s_version_again_is_not_new(store: Store) -> None:
    first = store.push("a", at(NOW - 9), b'{"x":1}')
    again = store.push("a", at(NOW - 9), b'{"x":1}')
    assert again == (first.rev_id, 1, False)


def test_older_version_of_a_client_is_not_new(store: Store) -> None:
    store.push("a", at(NOW - 9), b'{"x":1}')
    newer = store.push("a", f"{at(NOW - 8, BOB)}; {at(NOW - 9)}", b'{"x":2}')
    assert store.push("a", at(NOW - 9), b'{"x":1}') == (newer.rev_id, 2, False)
    assert store.as_tree("a") is not None
    assert store.changes().last_sequence == 2


def test_version_beside_the_current_one_conflicts(store: Store) -> None:
    store.push("a", at(NOW - 9))
    with pytest.raises(ConflictError) as caught:
        store.push("a", at(NOW - 8, BOB))
    assert caught.value.current_rev == at(NOW - 9)
    assert store.vector_of("a") == at(NOW - 9)
    assert store.changes().last_sequence == 1


def test_version_that_lacks_our_own_edit_conflicts(store: Store) -> None:
    first = store.push("a", at(NOW - 9))
    store.insert("a", f"2-bb {first.rev_id}")
    with pytest.raises(ConflictError):
        store.push("a", f"{at(NOW - 8)}")


def merge_of(source: str) -> str:
    return f"{at(NOW - 1, source)}, {at(NOW - 8, 'AAAAAAAAAAAAAAAAAAAAAw')}, {at(NOW - 9, BOB)};"


def test_same_merge_by_two_clients_is_the_same_revision(store: Store) -> None:
    first = store.push("a", merge_of(ANN), b'{"x":1}')
    assert store.push("a", merge_of("AAAAAAAAAAAAAAAAAAAABA"), b'{"x":1}') == (
        first.rev_id,
        1,
        False,
    )
    assert store.vector_of("a") == merge_of(ANN)


def test_same_merge_with_another_body_conflicts(store: Store) -> None:
    store.push("a", merge_of(ANN), b'{"x":1}')
    with pytest.raises(ConflictError):
        store.push("a", merge_of("AAAAAAAAAAAAAAAAAAAABA"), b'{"x":2}')


def test_version_on_top_of_our_tree_id_is_newer_than_our_vector(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    ours = store.vector_of("a")
    stored = store.push("a", f"{at(NOW - 9)}; 2-bb, 1-aa", b'{"x":1}')
    assert stored.rev_id.startswith("3-")
    assert order(store.vector_of("a"), ours) is Order.NEWER
    new = parse_vector(store.vector_of("a"))
    assert new.current.source == parse_vector(ours).current.source  # a version of our own
    assert [str(version) for version in new.older] == [at(NOW - 9)]


def test_version_on_top_of_an_old_tree_id_conflicts(store: Store) -> None:
    store.insert("a", "2-bb 1-aa")
    with pytest.raises(ConflictError):
        store.push("a", f"{at(NOW - 9)}; 1-aa")


def test_tree_ids_behind_a_new_document_become_its_ancestors(store: Store) -> None:
    stored = store.push("a", f"{at(NOW)}; 2-bb, 1-aa")
    assert stored.rev_id.startswith("3-")
    assert store.as_tree("a") == ("a", stored.rev_id, 1, False, b"{}", ("2-bb", "1-aa"))


def test_document_made_anew_by_a_client_that_never_saw_it_replaces_a_tombstone(
    store: Store,
) -> None:
    store.push("a", at(NOW - 9), deleted=True)
    stored = store.push("a", at(NOW - 30, BOB))
    assert stored.is_new
    assert order(store.vector_of("a"), at(NOW - 9)) is Order.NEWER


def test_both_kinds_of_clients_edit_a_document_in_turn(store: Store) -> None:
    store.insert("a", "1-aa", b'{"n":1}')
    vectors = [store.vector_of("a")]
    for step in range(2, 8, 2):
        # The first client with vectors edits what it pulled; then one with tree IDs does.
        version = f"{at(NOW + step / 100)}; {vectors[-1].replace(';', ',')}"
        parts = [part for part in version.split("; ")[1].split(", ") if ANN not in part]
        pushed = store.push("a", f"{at(NOW + step / 100)}; {', '.join(parts)}")
        vectors.append(store.vector_of("a"))
        store.insert("a", f"{step + 1}-aa {pushed.rev_id}")
        vectors.append(store.vector_of("a"))
    for older, newer in pairwise(vectors):
        assert order(newer, older) is Order.NEWER
    found = store.read("a")
    assert found is not None
    assert len(found.ancestors) == 6


def test_version_needs_its_blobs(store: Store) -> None:
    digest = blob_digest(b"content")
    with pytest.raises(BlobNotFoundError):
        store.push("a", at(NOW), blobs=(digest,))
    assert store.read("a") is None
    store.add_blob(b"content")
    assert store.push("a", at(NOW), blobs=(digest,)).is_new


# --- the clock -------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-YEAR, -DAY, DAY, -NOW])
def test_times_rise_when_the_clock_jumps_between_openings(folder: Path, jump: float) -> None:
    times: list[Version] = []
    vectors: list[str] = []
    for number, now in enumerate((NOW, NOW + jump, NOW)):
        with Store(folder, clock=Clock(now)) as store:
            store.insert("a", f"{number + 1}-aa" + (f" {number}-aa" if number else ""))
            store.insert(f"new{number}", "1-aa")
            times += [current(store, "a"), current(store, f"new{number}")]
            vectors.append(store.vector_of("a"))
    assert times == sorted(times)
    assert len(set(times)) == 6
    assert order(vectors[1], vectors[0]) is order(vectors[2], vectors[1]) is Order.NEWER


def test_our_edit_is_later_than_every_time_seen(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW)) as store:
        store.push("a", at(NOW + 100))
    with Store(folder, clock=Clock(NOW)) as store:
        store.insert("b", "1-aa")
        assert current(store, "b").time > int((NOW + 100) * NS)


def test_version_from_the_future_is_refused(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW)) as store:
        with pytest.raises(ClockBehindError, match="130 s after"):
            store.push("a", at(NOW + 130))
        assert store.read("a") is None
        assert store.push("a", at(NOW + 110)).is_new


def test_version_with_a_future_one_behind_it_is_refused(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW)) as store, pytest.raises(ClockBehindError):
        store.push("a", f"{at(NOW)}; {at(NOW + 130, BOB)}")


def test_future_is_not_reached_step_by_step(folder: Path) -> None:
    for _ in range(2):  # nor by opening the database again
        with Store(folder, clock=Clock(NOW)) as store:
            store.push("a", at(NOW + 110))
            with pytest.raises(ClockBehindError):
                store.push("b", at(NOW + 220))


def test_how_far_versions_are_ahead_of_a_clock_that_was_set_back_is_known(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW)) as store:
        store.insert("a", "1-aa")
        assert store.engine.versions_ahead_s == 0
    with Store(folder, clock=(clock := Clock(NOW - DAY))) as store:
        assert store.engine.versions_ahead_s == pytest.approx(DAY, abs=1)
        clock.now = NOW + 1
        assert store.engine.versions_ahead_s == 0


def test_clients_keep_syncing_while_our_clock_is_a_year_behind(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW)) as store:
        store.insert("a", "1-aa")
        before = store.vector_of("a")
    with Store(folder, clock=Clock(NOW - YEAR)) as store:
        assert store.push("a", f"{at(NOW + 30 * DAY)}; {before}").is_new
        assert store.push("b", at(NOW + 31 * DAY)).is_new


def test_clients_keep_syncing_after_our_clock_was_a_day_ahead(folder: Path) -> None:
    with Store(folder, clock=Clock(NOW + DAY)) as store:
        store.insert("a", "1-aa")
        before = store.vector_of("a")
    with Store(folder, clock=Clock(NOW)) as store:
        assert store.push("a", f"{at(NOW + DAY + 1)}; {before}").is_new


def test_clock_that_does_not_know_the_year_refuses_nothing_sensible(folder: Path) -> None:
    with Store(folder, clock=Clock(60.0)) as store:
        assert store.push("a", at(RELEASED_AT_S + 100 * DAY)).is_new


@pytest.mark.parametrize("now", [60.0, RELEASED_AT_S - YEAR])
def test_clock_that_is_wrong_does_not_follow_anywhere(folder: Path, now: float) -> None:
    with Store(folder, clock=Clock(now)) as store:
        store.push("a", at(RELEASED_AT_S + 300 * DAY))
        with pytest.raises(ClockBehindError):
            store.push("b", at(RELEASED_AT_S + 600 * DAY))


def test_clock_that_is_set_right_is_believed(folder: Path) -> None:
    clock = Clock(60.0)
    with Store(folder, clock=clock) as store:
        store.push("a", at(NOW))
        clock.now = NOW
        with pytest.raises(ClockBehindError):
            store.push("b", at(NOW + 130))
