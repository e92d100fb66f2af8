"""The card is full, read-only, broken or slow."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

import pytest

from tests.active_peer.failures import SyncError
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync
from tests.faults.card import Card
from tests.faults.conftest import StartBox
from tests.faults.faulty_box import (
    FaultyBox,
    acknowledged,
    assert_nothing_is_lost,
    fill,
    is_put_off,
    pulled,
    pulled_meanwhile,
    push,
    stored,
)
from tests.security.service import Box
from tests.waiting import eventually

KIB = 1024
PROMPT_S = 1.0


def assert_the_operator_is_told(box: FaultyBox, words: str) -> None:
    assert words in box.problem
    assert words in box.bad_findings()["database"]
    assert box.log.count(f'ERROR database "db": {words}') == 1


def push_again(client: PeerDatabase, box: FaultyBox) -> bool:
    """Go on using the box, as clients do."""
    client.save("again", {"pic": client.save_blob(os.urandom(100), "image/png")})
    return isinstance(push(client, box), Result)


def assert_all_works_again(box: FaultyBox, client: PeerDatabase) -> None:
    outcome = push(client, box)
    assert isinstance(outcome, Result)
    assert outcome.push_errors == []
    eventually(lambda: push_again(client, box) and not box.problem)
    assert 'database "db": all that had failed works again' in box.log
    assert acknowledged(client, box) == stored(client)


@pytest.mark.needs_root
def test_full_card(card: Card, start: StartBox) -> None:
    box, client = start(), PeerDatabase()
    fill(client, "before", 100)
    push(client, box)
    card.fill(leave_bytes=300 * KIB)
    fill(client, "full", 2000)
    assert is_put_off(push(client, box))
    assert acknowledged(client, box) != stored(client)
    assert acknowledged(client, box).items() <= stored(pulled_meanwhile(box)).items()
    assert_the_operator_is_told(box, "the file system does not take writes")
    assert_nothing_is_lost(box, client)
    card.fill(leave_bytes=0)
    push(client, box)
    card.make_room()
    assert_all_works_again(box, client)
    assert_nothing_is_lost(box, client)


@pytest.mark.needs_root
@pytest.mark.parametrize("end", [Box.stop, FaultyBox.kill], ids=["stop", "kill"])
@pytest.mark.parametrize("was_full", [False, True], ids=["filled meanwhile", "full before"])
def test_start_on_a_full_card(
    card: Card, start: StartBox, end: Callable[[FaultyBox], object], was_full: bool
) -> None:
    box, client = start(), PeerDatabase()
    fill(client, "before", 100)
    push(client, box)
    box.stop()
    box.start()  # and so nothing waits to be moved into its place
    fill(client, "full", 2000)
    for _ in range(2):  # full of what others wrote, then of our own, too
        if was_full:
            card.fill(leave_bytes=0)
        end(box)
        card.fill(leave_bytes=0)
        box.start()
        assert acknowledged(client, box).items() <= stored(pulled_meanwhile(box)).items()
        assert is_put_off(push(client, box))
    assert_nothing_is_lost(box, client)
    card.make_room()
    assert isinstance(push(client, box), Result)
    assert acknowledged(client, box) == stored(client)


@pytest.mark.needs_root
def test_blob_that_does_not_fit_leaves_nothing_behind(card: Card, start: StartBox) -> None:
    box, client = start(), PeerDatabase()
    card.fill(leave_bytes=500 * KIB)
    client.save("film", {"film": client.save_blob(bytes(1000 * KIB), "video/mp4")})
    client.save("note", {"n": 1})
    assert is_put_off(push(client, box))
    assert acknowledged(client, box).keys() <= {
        "note"
    }  # the blob may have had its room for a moment
    assert_the_operator_is_told(box, "the file system does not take writes")
    incoming = box.state / "databases" / "db.edgesync" / "blobs" / "incoming"
    assert list(incoming.iterdir()) == []
    card.make_room()
    assert_all_works_again(box, client)
    assert pulled(box).get("film") == client.get("film")


@pytest.mark.needs_root
def test_card_that_goes_read_only(card: Card, start: StartBox) -> None:
    box, client = start(), PeerDatabase()
    fill(client, "before", 100)
    push(client, box)
    card.fail()
    fill(client, "after", 10)
    assert is_put_off(push(client, box))
    assert stored(pulled_meanwhile(box)) == acknowledged(client, box)
    assert_the_operator_is_told(box, "the file system does not take writes")
    assert "read-only" in box.bad_findings()["disk"]
    box.kill()
    card.repair()
    assert_nothing_is_lost(box, client)
    push(client, box)
    assert acknowledged(client, box) == stored(client)


@pytest.mark.parametrize("fault", ["write_errno", "sync_errno"])
@pytest.mark.parametrize("with_blob", [False, True], ids=["document", "blob"])
def test_writes_that_fail(start: StartBox, fault: str, with_blob: bool) -> None:
    box, client = start(), PeerDatabase()
    fill(client, "before", 100)
    push(client, box)
    before = acknowledged(client, box)
    box.faults.set(**{fault: errno.EIO})
    body = {"pic": client.save_blob(b"x" * 100_000, "image/png")} if with_blob else {"n": 1}
    client.save("after", body)
    assert is_put_off(push(client, box))
    assert box.faults.hits > 0
    assert acknowledged(client, box) == before
    assert stored(pulled_meanwhile(box)) == before
    assert_the_operator_is_told(box, "the file system does not take writes")
    box.faults.set()
    assert_all_works_again(box, client)
    assert_nothing_is_lost(box, client)


def test_reads_that_fail(start: StartBox) -> None:
    box, client = start(), PeerDatabase()
    fill(client, "big", 600, 20_000)  # more than SQLite keeps in memory
    push(client, box)
    box.faults.set(read_errno=errno.EIO)
    with pytest.raises((SyncError, AssertionError)):
        pulled(box)
    assert_the_operator_is_told(box, "the database cannot be read")
    box.faults.set()
    eventually(lambda: stored(pulled(box)) == stored(client) and not box.problem)
    assert_nothing_is_lost(box, client)


def test_slow_card_holds_up_nobody_who_reads(start: StartBox) -> None:
    box, client = start(), PeerDatabase()
    fill(client, "before", 100)
    push(client, box)
    box.faults.set(sync_delay_ms=2000)
    client.save("slow", {"n": 1})
    with ContinuousSync(client, box.url, SyncOptions(pull=False)) as writing:
        writing.wait_for(lambda: box.faults.hits > 0)
        began = time.monotonic()
        assert box.problem == ""
        reader = PeerDatabase()
        with ContinuousSync(reader, box.url, SyncOptions(push=False)) as reading:
            reading.wait_for(lambda: len(reader.default_collection) == 100)
            assert time.monotonic() - began < PROMPT_S
            assert "slow" not in acknowledged(client, box)
        writing.wait_for(lambda: "slow" in acknowledged(client, box))
    box.faults.set()
    assert_nothing_is_lost(box, client)
