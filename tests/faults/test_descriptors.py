"""Connections until there are no more file descriptors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.active_peer.failures import SyncError
from tests.active_peer.options import Result
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync
from tests.faults.conftest import StartBox
from tests.faults.faulty_box import (
    FaultyBox,
    acknowledged,
    assert_nothing_is_lost,
    pulled,
    push,
    stored,
)
from tests.net.raw_client import RawClient
from tests.waiting import eventually

ROOM = 80
"""Descriptors beyond those of the idle service: 48 clients, and 32 that are spared."""
MANY = 200


@pytest.fixture
def crowded() -> Iterator[ExitStack]:
    with ExitStack() as sockets:
        yield sockets


def descriptors_of(box: FaultyBox) -> int:
    return len(list(Path(f"/proc/{box.pid}/fd").iterdir()))


def come(box: FaultyBox, crowd: ExitStack, *, and_say_nothing: bool = False) -> str:
    """Connect a client that stays; return the status it gets."""
    sock = socket.create_connection(("127.0.0.1", box.listener_port), timeout=10)
    crowd.enter_context(closing(sock))
    if and_say_nothing:
        return ""
    status = RawClient(sock).upgrade().status.removeprefix("HTTP/1.1 ")[:3]
    if status != "101":
        sock.close()
    return status


def assert_clients_are_served(box: FaultyBox, client: PeerDatabase, live: ContinuousSync) -> None:
    """Have one that is connected push a document with a blob, which needs a descriptor."""
    client.save("note", {"pic": client.save_blob(b"x" * 1000, "image/png")})
    live.wait_for(lambda: acknowledged(client, box) == stored(client))


@pytest.mark.parametrize("say_nothing", [False, True], ids=["clients", "silent"])
def test_further_clients_are_refused_and_those_here_go_on(
    start: StartBox, crowded: ExitStack, say_nothing: bool
) -> None:
    box, client = start(), PeerDatabase()
    with ContinuousSync(client, box.url) as live:
        live.wait_idle()
        box.limit_descriptors(descriptors_of(box) + ROOM)
        for _ in range(MANY):
            last = come(box, crowded, and_say_nothing=say_nothing)
        if not say_nothing:
            assert last == "503"
        outcome = push(PeerDatabase(), box)
        assert isinstance(outcome, SyncError)
        assert outcome.is_transient
        assert_clients_are_served(box, client, live)
        assert "are refused" in box.bad_findings()["descriptors"]
        assert box.log.count("ERROR no further connections for the moment") == 1
        assert "Traceback" not in box.log
        crowded.close()
        eventually(lambda: isinstance(push(PeerDatabase(), box), Result))
        assert "descriptors" not in box.bad_findings()
    assert stored(pulled(box)) == stored(client)
    assert_nothing_is_lost(box, client)
