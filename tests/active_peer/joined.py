"""An active peer and the server's replicator with a real store, joined in memory."""

from __future__ import annotations

import random
from collections.abc import Callable

from edgesync.replication.replicator import FramesReceived
from tests.active_peer.active_replicator import ActiveReplicator, DatabaseChanged
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.peer_database import PeerDatabase
from tests.loopback import PassiveEnd, Store

REMOTE = "memory:"


class JoinedEnd(PassiveEnd):
    """The server's end, with an active peer at the other one.

    Frames move one at a time; which side moves is drawn by lot if there is `chance`.

    Attributes:
        peer: The active peer.
        bytes_moved: Of all frames, both ways.
    """

    def __init__(
        self,
        store: Store,
        database: PeerDatabase,
        options: SyncOptions,
        *,
        chance: random.Random | None = None,
        deltas: bool = True,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        super().__init__(
            store,
            collections=options.collections,
            protocol=options.offered(database.form)[0],
            deltas=deltas,
            entropy=entropy,
        )
        self.peer = ActiveReplicator(database, REMOTE, options)
        self._chance = chance
        self.bytes_moved = 0

    def run(self) -> None:
        """Move frames and answers until nothing moves any more."""
        while self.step():
            pass

    def step(self) -> bool:
        """Move one frame, or wait for the store; say whether there was anything to do."""
        return self._move(self._server_first())

    def changed(self) -> None:
        """Tell the peer that its database was edited, and move all that follows."""
        self.peer.receive(DatabaseChanged(), self.now)
        self.run()

    def cut(self, frames: int) -> None:
        """Move some frames, then lose the connection."""
        for _ in range(frames):
            if not self.step():
                break
        self.close()
        self.peer.close()

    def _server_first(self) -> bool:
        return self._chance is not None and self._chance.random() < 0.5

    def _move(self, server_first: bool) -> bool:
        ends = (
            (self._to_client, self._to_server)
            if server_first
            else (self._to_server, self._to_client)
        )
        return ends[0]() or ends[1]() or self._answer()

    def _to_server(self) -> bool:
        frame = self.peer.frame_to_send()
        if frame is None:
            return False
        self.bytes_moved += len(frame)
        self.receive(FramesReceived((frame,)))
        return True

    def _to_client(self) -> bool:
        frame = self.replicator.frame_to_send()
        if frame is None:
            return False
        self._submit()
        self.bytes_moved += len(frame)
        self.peer.receive(FramesReceived((frame,)), self.now)
        return True

    def _answer(self) -> bool:
        if not self._waits():
            return False
        self._store.wait(lambda: not self._waits())
        return True


def sync_joined(store: Store, database: PeerDatabase, options: SyncOptions | None = None) -> Result:
    """Synchronise once; return what was done.

    Raises:
        SyncError: It ended early.
    """
    end = JoinedEnd(store, database, options or SyncOptions())
    try:
        end.run()
        if end.peer.failure is not None:
            raise end.peer.failure
        assert end.peer.is_finished, "the two ends wait for each other"
        return end.peer.result
    finally:
        end.close()
        end.peer.close()
