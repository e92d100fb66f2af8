"""One connection: a WebSocket, a replicator and the store, tied together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

import gevent
from gevent.event import Event as Wakeup

from edgesync.documents.store_calls import Committed, StoreCall, StoreDone
from edgesync.errors import EdgeSyncError, PeerSilentError, ProtocolError
from edgesync.limits import Limits
from edgesync.net.websocket import PeerSocket
from edgesync.replication.replicator import (
    DeadlinePassed,
    Event,
    FramesReceived,
    Replicator,
    Resumed,
)

log: Final = logging.getLogger(__name__)

PROTOCOL_ERROR: Final = 1002
TRY_AGAIN: Final = 4001  # clients come back by themselves: blip.md §1.5
INTERNAL_ERROR: Final = 1011
SEND_BYTES: Final = 64 * 1024  # what one call of the socket is given


class StoreConnection(Protocol):
    """What a session needs of the store."""

    def submit(self, calls: list[StoreCall]) -> None:
        """Hand over calls; never waits."""

    def close(self) -> None:
        """Forget what is unanswered."""


class Session:
    """Serve one peer until either side ends it.

    Loops without decisions: what to do is the replicator's, how to send is the
    socket's. One greenlet reads (the one that calls `run`), one writes.
    """

    def __init__(
        self,
        websocket: PeerSocket,
        peer_name: str,
        replicator: Replicator,
        connect: Callable[[Callable[..., None], Callable[[Committed], None]], StoreConnection],
        limits: Limits,
    ) -> None:
        self._websocket = websocket
        self._peer_name = peer_name
        self._replicator = replicator
        self._limits = limits
        self._work = Wakeup()
        self._has_room = Wakeup()
        self._ping_sent_at: float | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        websocket.on_control = self._work.set
        self._store = connect(self._answered, self._answered)

    @property
    def replicator(self) -> Replicator:
        """What this session is doing."""
        return self._replicator

    def run(self) -> None:
        """Serve the peer; returns when the connection is closed."""
        writer = gevent.spawn(self._write)
        try:
            self._read()
        finally:
            self._store.close()
            self._work.set()
            writer.join(self._limits.send_timeout_s)
            writer.kill()
            self._websocket.finish()
            self._replicator.end()
            if self._websocket.failure is not None:
                log.info("%s: %s", self._peer_name, self._websocket.failure)

    def close(self, code: int, reason: str) -> None:
        """Ask the peer to part; the socket gives it `close_timeout_s` to agree."""
        self._websocket.close(code, reason)

    # --- events -----------------------------------------------------------------

    def _answered(self, *events: StoreDone | Committed) -> None:
        """Take what the store says; comes from the store's watcher."""
        self._receive(*events)
        if self._replicator.wants_input:
            self._has_room.set()

    def _receive(self, *events: Event) -> None:
        """Feed the replicator, pass on what it asks of the store. Never waits."""
        if not self._websocket.is_open:
            return
        now = time.monotonic()
        try:
            for event in events:
                self._replicator.receive(event, now)
            self._pass_on_calls()
        except EdgeSyncError as error:
            self._fail(error)
        except Exception:  # a bug of ours: end this peer, keep the others
            log.exception("%s: internal error", self._peer_name)
            self.close(INTERNAL_ERROR, "internal error")
        else:
            if self._replicator.has_output:
                self._work.set()

    def _pass_on_calls(self) -> None:
        if calls := self._replicator.store_calls():
            self._store.submit(calls)

    def _fail(self, error: EdgeSyncError) -> None:
        match error:
            case ProtocolError():
                log.warning("%s: broke the protocol: %s", self._peer_name, error)
                self.close(PROTOCOL_ERROR, str(error))
            case PeerSilentError():
                log.warning("%s: %s", self._peer_name, error)
                self.close(TRY_AGAIN, str(error))
            case _:
                log.error("%s: %s", self._peer_name, error)
                self.close(TRY_AGAIN, "the store is not available")

    # --- reading ------------------------------------------------------------------

    def _read(self) -> None:
        """Take what the peer sends, while the replicator wants more."""
        while frames := self._websocket.receive():
            self.bytes_in += sum(map(len, frames))
            self._receive(FramesReceived(frames))
            self._finish_frames()
            gevent.sleep(0)  # a fast peer's socket always has more: let others have their turn

    def _finish_frames(self) -> None:
        """Wait until the frames are wholly taken and more is wanted."""
        replicator = self._replicator
        while self._websocket.is_open and (replicator.has_backlog or not replicator.wants_input):
            if not replicator.wants_input:
                self._has_room.clear()
                self._has_room.wait(1.0)
            if replicator.has_backlog:
                gevent.sleep(0)
                self._receive(Resumed())

    # --- writing ------------------------------------------------------------------

    def _write(self) -> None:
        """Send as fast as the peer takes it, no faster; wake at deadlines."""
        websocket = self._websocket
        while websocket.is_open or websocket.has_control:
            self._work.clear()
            if websocket.has_control:
                websocket.send_control()
            if frames := self._frames_to_send():
                websocket.send(frames)
                gevent.sleep(0)
            elif not self._work.wait(self._seconds_to_deadline()):
                self._pass_time()

    def _frames_to_send(self) -> list[bytes]:
        """Return frames for one call of the socket, less than 80 KiB."""
        frames: list[bytes] = []
        size = 0
        if not self._websocket.is_open:
            return frames
        next_frame = self._replicator.frame_to_send
        try:
            while size < SEND_BYTES and (frame := next_frame()) is not None:
                frames.append(frame)
                size += len(frame)
            self._pass_on_calls()
        except EdgeSyncError as error:
            self._fail(error)
        self.bytes_out += size
        if frames and self._replicator.wants_input:
            self._has_room.set()
        return frames

    def _seconds_to_deadline(self) -> float:
        """Return the seconds to the next PING or deadline."""
        due = [self._heartbeat_due()]
        if (deadline := self._replicator.next_deadline()) is not None:
            due.append(deadline)
        return max(0.0, min(due) - time.monotonic())

    def _heartbeat_due(self) -> float:
        """Return when the peer has been silent for too long."""
        if self._ping_sent_at is not None:
            return self._ping_sent_at + self._limits.pong_timeout_s
        return self._websocket.last_received_at + self._limits.ping_interval_s

    def _pass_time(self) -> None:
        """Do what is due: a PING, the end of a silent peer, a deadline."""
        now = time.monotonic()
        if self._ping_sent_at is not None and self._websocket.last_received_at > self._ping_sent_at:
            self._ping_sent_at = None
        if now >= self._heartbeat_due():
            if self._ping_sent_at is None:
                self._ping_sent_at = now
                self._websocket.ping()
            elif self._replicator.wants_input:
                log.info("%s: does not answer any more", self._peer_name)
                self._websocket.drop()
            else:
                self._ping_sent_at = now  # we did not read: give it as long again
        self._receive(DeadlinePassed())
