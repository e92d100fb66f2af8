"""A client that takes one byte a second of what it asked for."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, closing

from edgesync.blip.connection import Connection
from edgesync.limits import Limits
from tests.active_peer.peer_database import PeerDatabase
from tests.faults.conftest import StartBox
from tests.faults.faulty_box import (
    FaultyBox,
    acknowledged,
    assert_nothing_is_lost,
    fill,
    pulled,
    push,
    stored,
)
from tests.net.raw_client import RawClient, frame
from tests.waiting import eventually

SIPPERS = 10
COST_KIB = 2 * 1024
"""What a client may cost that takes next to nothing, when there are 20 MB for it."""


class Sipper:
    """Asks for all documents and for a blob, and takes a byte a second of them."""

    def __init__(self, box: FaultyBox, blob: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", box.listener_port))
        client = RawClient(self._socket)
        assert client.upgrade().status.startswith("HTTP/1.1 101")
        blip = Connection(Limits())
        blip.send_request({"Profile": "subChanges", "continuous": "true"})
        blip.send_request({"Profile": "getAttachment", "digest": blob})
        while (sent := blip.frame_to_send()) is not None:
            client.send(frame(sent))
        self._is_over = threading.Event()
        self.taken = 0
        self._thread = threading.Thread(target=self._sip)
        self._thread.start()

    def _sip(self) -> None:
        while not self._is_over.wait(1.0):
            try:
                self.taken += len(self._socket.recv(1))
            except OSError:  # it was cut off
                return

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()


def test_client_that_sips_costs_little_and_is_parted_from(start: StartBox) -> None:
    box = start(limits="reply_timeout_s = 4\nclose_timeout_s = 1")
    client = PeerDatabase()
    fill(client, "doc", 1000, 10_000)
    film = client.save_blob(os.urandom(10_000_000), "video/mp4")
    client.save("film", {"film": film})
    push(client, box)
    pulled(box)  # a busy service has its caches full
    before = box.memory_kib()
    with ExitStack() as sippers:
        for _ in range(SIPPERS):
            sippers.enter_context(closing(Sipper(box, str(film["digest"]))))
        assert len(box.api.connections()) == SIPPERS
        client.save("late", {"n": 1})
        push(client, box)
        other = pulled(box)
        assert acknowledged(client, box) == stored(client) == stored(other)
        assert other.missing_blobs() == []
        assert (box.memory_kib() - before) / SIPPERS < COST_KIB
        eventually(lambda: box.api.connections() == [])
        assert box.log.count("requests for 4 s") == SIPPERS
    assert_nothing_is_lost(box, client)
