"""Many clients in one thread: as many machines and sockets, one epoll."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence

from edgesync.limits import Limits
from edgesync.replication.replicator import DeadlinePassed, FramesReceived
from tests.active_peer.active_replicator import ActiveReplicator
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.peer_socket import Credentials, PeerSocket

UNSENT_BYTES = 256 * 1024
LOOK_EVERY_S = 0.5
STUCK_AFTER_S = 120.0
NORMAL = 1000


class CrowdClient:
    """One connection of one database."""

    def __init__(self, database: PeerDatabase, url: str, options: SyncOptions) -> None:
        self.link = PeerSocket(url, options.offered(database.form), Credentials())
        self.replicator = ActiveReplicator(
            database, url, options, limits=Limits(), time_s=int(time.time())
        )
        self.wants_to_write = False

    def read(self, now: float) -> None:
        """Take what has come, and answer."""
        while True:
            if frames := self.link.receive():
                self.replicator.receive(FramesReceived(frames), now)
            if self.link.is_closed:
                raise self.link.close_error()
            if not self.link.has_unread:
                break
        self.write()

    def write(self) -> None:
        """Send what the server takes now."""
        while True:
            while self.link.unsent_bytes < UNSENT_BYTES:
                if (frame := self.replicator.frame_to_send()) is None:
                    break
                self.link.send(frame)
            waiting = self.link.unsent_bytes
            self.link.flush()
            if not waiting or self.link.unsent_bytes:
                return

    def pass_time(self, now: float) -> None:
        """Do what is due: it saves its checkpoint."""
        due = self.replicator.next_deadline()
        if due is not None and now >= due:
            self.replicator.receive(DeadlinePassed(), now)
            self.write()


class Crowd:
    """Clients that are connected, and go on only while somebody waits for something."""

    def __init__(self, databases: Sequence[PeerDatabase], url: str, options: SyncOptions) -> None:
        """Connect them one after another; none has sent a message after that."""
        self.clients = [CrowdClient(database, url, options) for database in databases]
        self._selector = selectors.DefaultSelector()
        for client in self.clients:
            self._selector.register(client.link, selectors.EVENT_READ, client)

    def begin(self) -> None:
        """Let all send what they have."""
        for client in self.clients:
            self._write(client)

    def run_until(self, is_done: Callable[[], bool]) -> None:
        """Go on until something holds.

        Raises:
            TimeoutError: Nothing came from the server for too long.
        """
        heard_at = looked_at = time.monotonic()
        while not is_done():
            ready = self._selector.select(LOOK_EVERY_S)
            now = time.monotonic()
            for key, events in ready:
                heard_at = now
                if events & selectors.EVENT_READ:
                    key.data.read(now)
                self._write(key.data)
            if now - looked_at > LOOK_EVERY_S:
                looked_at = now
                self._pass_time(now)
            if now - heard_at > STUCK_AFTER_S:
                raise TimeoutError(f"nothing from the server for {STUCK_AFTER_S:g} s")

    def rest(self, seconds: float) -> None:
        """Go on for some time."""
        end = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() >= end)

    def all_finished(self) -> bool:
        """Whether all one-shot clients are through, their last frames sent."""
        return all(
            client.replicator.is_finished and not client.link.unsent_bytes
            for client in self.clients
        )

    def all_idle(self) -> bool:
        """Whether all continuous clients are in sync."""
        return all(client.replicator.is_idle for client in self.clients)

    def close(self) -> None:
        """Close as clients do."""
        for client in self.clients:
            self._selector.unregister(client.link)
            client.replicator.close()
            client.link.close(NORMAL)
        self._selector.close()

    def _pass_time(self, now: float) -> None:
        for client in self.clients:
            client.pass_time(now)

    def _write(self, client: CrowdClient) -> None:
        client.write()
        wants = client.link.unsent_bytes > 0
        if wants is not client.wants_to_write:
            client.wants_to_write = wants
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants else 0)
            self._selector.modify(client.link, events, client)
