"""A client that is gone without a word: every packet of its box is lost from now on."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.api.client import ApiClient
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync, sync
from tests.network.boxes import Box, Program, Switch
from tests.network.test_following import Client
from tests.waiting import eventually

pytestmark = pytest.mark.needs_root

PING_S, PONG_S = 2, 1
SOON_S = 2.0
"""Beyond the documented time, on a busy machine."""
CONFIG = f"""
[database.db]
[listener.field]
interface = "eth0"
disable_tls = true
advertise = false
[limits]
ping_interval_s = {PING_S}
pong_timeout_s = {PONG_S}
"""
URL = "ws://10.9.0.1:4984/db"


def lose_all_packets(box: Box) -> None:
    box.ip("link", "set", "eth0", "down")


class Service:
    """What the service in a box says of itself; its socket is a file, so it is out here, too."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._program = program
        (file,) = folder.glob("s*/edgesync.sock")
        self._api = ApiClient(file)

    @property
    def peers(self) -> set[str]:
        return {each["peer"].partition(":")[0] for each in self._api.connections()}

    def has_socket_of(self, client: str) -> bool:
        """Say whether it has a descriptor that is connected to an IPv4 address."""
        pid = self._api.status()["pid"]
        remote = f"{int.from_bytes(socket.inet_aton(client), sys.byteorder):08X}:"
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()]
        return any(row[2].startswith(remote) and row[9] != "0" for row in rows)  # 0: closed here


def test_client_that_vanishes_is_parted_from_in_time(
    box: Box, neighbour: Box, make_box: Callable[[], Box], switch: Switch, tmp_path: Path
) -> None:
    gone = make_box()
    gone.plug("eth0", switch, "10.9.0.200/24")
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(CONFIG) as program:
        service = Service(program, tmp_path)
        with closing(Client(gone, "10.9.0.1")):
            assert service.peers == {"10.9.0.200"}
            assert service.has_socket_of("10.9.0.200")
            vanished_at = time.monotonic()
            lose_all_packets(gone)
            pushed = neighbour.do(lambda: push(PeerDatabase()))
            assert pushed == 1
            lost = r"10\.9\.0\.200:\d+: does not answer any more"
            program.wait_for(lost, PING_S + PONG_S + SOON_S)
            assert time.monotonic() - vanished_at >= PONG_S
            program.wait_for(r"10\.9\.0\.200:\d+: gone")
            assert service.peers == set()
            eventually(lambda: not service.has_socket_of("10.9.0.200"))


def push(client: PeerDatabase) -> int:
    client.save("doc", {"n": 1})
    return sync(client, URL, pull=False).pushed


def test_client_that_vanishes_while_it_is_sent_to_is_parted_from(
    box: Box, neighbour: Box, make_box: Callable[[], Box], switch: Switch, tmp_path: Path
) -> None:
    gone = make_box()
    gone.plug("eth0", switch, "10.9.0.200/24")
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(CONFIG) as program:
        service = Service(program, tmp_path)
        reader = PeerDatabase()
        reading = gone.do(lambda: ContinuousSync(reader, URL))
        reading.wait_idle()
        lose_all_packets(gone)
        writer = PeerDatabase()
        assert neighbour.do(lambda: push(writer)) == 1
        program.wait_for(r"10\.9\.0\.200:\d+: gone", PING_S + PONG_S + SOON_S)
        assert service.peers == set()
        assert reader.get("doc") is None
        gone.ip("link", "set", "eth0", "up")
        with gone.do(lambda: ContinuousSync(reader, URL)) as again:
            again.wait_for(lambda: reader.get("doc") == {"n": 1})
        reading.join()
