"""Clients of 3.x and 4.x share a database: in turn, at once, upgraded, with wrong clocks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.active_peer.joined import JoinedEnd, sync_joined
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import KeepConflict, PeerDatabase
from tests.loopback import Store
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import stored
from tests.replication.test_version_sessions import vector_of

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


def two(store: Store, **more: Any) -> tuple[PeerDatabase, PeerDatabase]:
    """Make a database of 3.x and one of 4.x that share a document."""
    three, four = PeerDatabase(), PeerDatabase(versions=True)
    three.save("shared", {"by": "three"})
    sync_all(store, three, four, **more)
    return three, four


def sync_all(store: Store, *databases: PeerDatabase, **more: Any) -> None:
    for database in databases:
        result = sync_joined(store, database, SyncOptions(**more))
        assert (result.complaints, result.pull_errors) == ([], [])


def test_clients_of_both_kinds_edit_in_turn(fixture: Fixture) -> None:
    three, four = two(fixture.store)
    for turn in range(5):
        four.save("shared", {"by": "four", "turn": turn})
        sync_all(fixture.store, four, three)
        assert three.get("shared") == {"by": "four", "turn": turn}
        three.save("shared", {"by": "three", "turn": turn})
        sync_all(fixture.store, three, four)
        assert four.get("shared") == {"by": "three", "turn": turn}
    assert three.digest() == four.digest()


def test_a_deletion_goes_from_one_kind_to_the_other(fixture: Fixture) -> None:
    three, four = two(fixture.store)
    four.delete("shared")
    sync_all(fixture.store, four, three)
    assert three.get("shared") is None
    three.save("shared", {"life": 2})
    sync_all(fixture.store, three, four)
    assert four.get("shared") == {"life": 2}


@pytest.mark.parametrize("policy", [*KeepConflict, lambda _id, ours, theirs: {**ours, **theirs}])
@pytest.mark.parametrize("loser_is_four", [True, False])
def test_conflict_between_the_kinds_is_settled_by_who_comes_second(
    fixture: Fixture, policy: Any, loser_is_four: bool
) -> None:
    three, four = two(fixture.store)
    three.save("shared", {"by": "three", "a": 1})
    four.save("shared", {"by": "four", "b": 1})
    first, second = (three, four) if loser_is_four else (four, three)
    sync_all(fixture.store, first)
    sync_all(fixture.store, second, conflicts=policy)
    sync_all(fixture.store, first, second)
    assert three.digest() == four.digest()


def test_upgraded_client_goes_on_where_it_was(fixture: Fixture) -> None:
    database, other = PeerDatabase(), PeerDatabase()
    for doc_id in ("untouched", "edited", "gone"):
        database.save(doc_id, {"by": "3.2"})
    sync_all(fixture.store, database, other)
    database.save("never-pushed", {"by": "3.2"})
    database.upgrade()
    database.save("edited", {"by": "4"})
    database.delete("gone")
    database.save("new", {"by": "4"})
    sync_all(fixture.store, database)
    sync_all(fixture.store, database, other)
    assert database.digest() == other.digest()
    assert other.default_collection.ids() == ["edited", "never-pushed", "new", "untouched"]
    assert sync_joined(fixture.store, database).pulled == 0


def test_document_of_an_upgraded_client_follows_the_edits_of_others(fixture: Fixture) -> None:
    database, other = PeerDatabase(), PeerDatabase()
    database.save("doc", {"n": 1})
    sync_all(fixture.store, database, other)
    database.upgrade()
    for turn in (2, 4):
        other.save("doc", {"n": turn})
        sync_all(fixture.store, other, database)
        assert database.get("doc") == {"n": turn}
        database.save("doc", {"n": turn + 1})
        sync_all(fixture.store, database, other)
        assert other.get("doc") == {"n": turn + 1}


def test_unsent_edit_from_before_the_upgrade_is_a_conflict_with_later_ones(
    fixture: Fixture,
) -> None:
    database, other = PeerDatabase(), PeerDatabase()
    database.save("doc", {"n": 1})
    sync_all(fixture.store, database, other)
    database.save("doc", {"n": "unsent"})
    other.save("doc", {"n": "other"})
    sync_all(fixture.store, other)
    database.upgrade()
    sync_all(fixture.store, database, other)
    assert database.digest() == other.digest()


def test_push_only_client_of_3_4_keeps_its_tree_ids_in_protocol_4(fixture: Fixture) -> None:
    database, other = PeerDatabase(), PeerDatabase(versions=True)
    push_only = SyncOptions(pull=False, protocols=(4,))
    for turn in range(3):
        database.save("doc", {"turn": turn})
        assert sync_joined(fixture.store, database, push_only).pushed == 1
        sync_all(fixture.store, other)
        assert other.get("doc") == {"turn": turn}
    other.save("doc", {"by": "other"})
    sync_all(fixture.store, other)
    database.save("doc", {"turn": 4})
    errors = sync_joined(fixture.store, database, push_only).push_errors
    assert [found.refusal.code for found in errors] == [409]


def test_continuous_clients_of_both_kinds_see_each_others_edits(fixture: Fixture) -> None:
    three, four = PeerDatabase(), PeerDatabase(versions=True)
    ends = [
        JoinedEnd(fixture.store, database, SyncOptions(continuous=True))
        for database in (three, four)
    ]
    for end in ends:
        end.run()
    for turn in range(6):
        (three, four)[turn % 2].save("live", {"turn": turn})
        for end in (*ends, *ends):
            end.changed()
    for end, database in zip(ends, (three, four), strict=True):
        assert database.get("live") == {"turn": 5}
        assert end.peer.result.complaints == []
        end.close()


# --- clocks -------------------------------------------------------------------------


def test_version_from_the_future_is_503_and_offered_again(fixture: Fixture) -> None:
    now = time.time_ns()
    database = PeerDatabase(versions=True, clock=lambda: now + 3600 * 10**9)
    database.save("doc", {"n": 1})
    for _ in range(2):
        result = sync_joined(fixture.store, database)
        (failure,) = result.push_errors
        assert (failure.refusal.domain, failure.refusal.code) == ("HTTP", 503)
        assert result.pushed == 0
    assert stored(fixture, "doc") is None


def test_version_two_minutes_ahead_is_taken(fixture: Fixture) -> None:
    now = time.time_ns()
    database = PeerDatabase(versions=True, clock=lambda: now + 110 * 10**9)
    database.save("doc", {"n": 1})
    assert sync_joined(fixture.store, database).pushed == 1


def test_vectors_rise_and_clients_sync_though_the_clock_jumps(tmp_path: Path) -> None:
    three, four = PeerDatabase(), PeerDatabase(versions=True)
    times: list[int] = []
    for turn, jump in enumerate((0.0, -YEAR_S, -YEAR_S + DAY_S, -60.0, 60.0)):
        store = Store(tmp_path, clock=lambda jump=jump: time.time() + jump)  # type: ignore[misc]
        three.save("three", {"turn": turn})
        four.save("four", {"turn": turn})
        sync_all(store, three, four, three)
        assert four.get("three") == {"turn": turn}
        assert three.get("four") == {"turn": turn}
        times.append(int(vector_of(Fixture(store), "three").partition("@")[0], 16))
        store.close()
    assert times == sorted(set(times))


def test_clock_a_day_ahead_keeps_versions_of_ours_from_4_x_clients_and_nothing_else(
    tmp_path: Path,
) -> None:
    three, four, other = PeerDatabase(), PeerDatabase(versions=True), PeerDatabase(versions=True)
    store = Store(tmp_path, clock=lambda: time.time() + DAY_S)
    three.save("three", {})
    four.save("four", {})
    for database in (three, four, three):
        sync_joined(store, database)
    failed = sync_joined(store, other).pull_errors
    assert [(found.doc_id, found.refusal[:2]) for found in failed] == [("three", ("LiteCore", 4))]
    assert (three.get("four"), other.get("four")) == ({}, {})
    store.close()
