"""The clock of the box jumps while clients are connected."""

from __future__ import annotations

import time

import pytest

from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync
from tests.faults.conftest import StartBox
from tests.faults.faulty_box import (
    acknowledged,
    assert_nothing_is_lost,
    push,
    stored,
)

YEAR_S = 365 * 86_400
PROMPT_S = 3.0


@pytest.mark.parametrize("offset_s", [YEAR_S, -YEAR_S], ids=["ahead", "back"])
@pytest.mark.parametrize("versions", [False, True], ids=["3.x", "4.x"])
def test_sync_goes_on_when_the_clock_jumps(start: StartBox, versions: bool, offset_s: int) -> None:
    box = start(limits="ping_interval_s = 1\npong_timeout_s = 5")
    writer, reader = PeerDatabase(versions=versions), PeerDatabase(versions=versions)
    with (
        ContinuousSync(writer, box.url, SyncOptions(pull=False)) as writing,
        ContinuousSync(reader, box.url, SyncOptions(push=False)) as reading,
    ):
        for number, offset in enumerate((0, offset_s, 0)):
            box.faults.set(clock_offset_s=offset)
            began = time.monotonic()
            writer.save(f"doc-{number}", {"n": number})
            reading.wait_for(lambda: stored(reader) == stored(writer))
            writing.wait_for(lambda: acknowledged(writer, box) == stored(writer))
            assert time.monotonic() - began < PROMPT_S
            time.sleep(2.5)  # a PING has gone out meanwhile, or one too many
        assert len(box.api.connections()) == 2
    assert "does not answer" not in box.log
    assert_nothing_is_lost(box, writer)


def test_clock_that_is_behind_is_told(start: StartBox) -> None:
    box, client = start(), PeerDatabase()
    client.save("doc", {})
    push(client, box)
    box.faults.set(clock_offset_s=-YEAR_S)
    assert "the box was in use on" in box.bad_findings()["clock"]


@pytest.mark.parametrize("versions", [False, True], ids=["3.x", "4.x"])
def test_what_the_box_saved_with_its_clock_behind_still_syncs(
    start: StartBox, versions: bool
) -> None:
    box, client = start(), PeerDatabase(versions=versions)
    box.faults.set(clock_offset_s=-YEAR_S)
    box.api.send("PUT", "/db/doc", {"n": 1})
    box.faults.set()
    with ContinuousSync(client, box.url) as live:
        live.wait_for(lambda: client.get("doc") == {"n": 1})
        client.save("doc", {"n": 2})
        live.wait_for(lambda: acknowledged(client, box) == stored(client))
    assert_nothing_is_lost(box, client)
