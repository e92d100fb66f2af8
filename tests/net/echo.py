"""The least that a session does: one greenlet reads, one writes."""

from __future__ import annotations

import gevent
from gevent.event import Event

from edgesync.net.handshake import Peer
from edgesync.net.websocket import PeerSocket


def serve_echo(websocket: PeerSocket, _peer: Peer | None = None) -> None:
    """Send back what comes, until either side ends the connection."""
    work = Event()
    messages: list[bytes] = []
    websocket.on_control = work.set
    writer = gevent.spawn(_write, websocket, work, messages)
    while received := websocket.receive():
        messages.extend(received)
        work.set()
    writer.join()
    websocket.finish()


def _write(websocket: PeerSocket, work: Event, messages: list[bytes]) -> None:
    while websocket.is_open or websocket.has_control:
        work.wait()
        work.clear()
        websocket.send_control()
        batch, messages[:] = list(messages), []
        for start in range(0, len(batch), 4):
            websocket.send(batch[start : start + 4])
            websocket.send_control()
