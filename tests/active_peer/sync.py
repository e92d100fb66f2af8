"""Synchronise with a server over a real socket: once and wait, or on and on in a thread."""

from __future__ import annotations

import contextlib
import dataclasses
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Final, Self

from edgesync.errors import ProtocolError
from edgesync.limits import Limits
from edgesync.replication.replicator import DeadlinePassed, FramesReceived
from tests.active_peer.active_replicator import ActiveReplicator, DatabaseChanged
from tests.active_peer.failures import SyncError
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.peer_database import (
    DEFAULT_COLLECTION,
    ConflictPolicy,
    KeepConflict,
    PeerDatabase,
)
from tests.active_peer.peer_socket import Credentials, PeerSocket

UNSENT_BYTES: Final = 32 * 1024  # so that the server has something to do while we make more
POLL_S: Final = 0.01
NORMAL: Final = 1000
BROKEN_BLIP: Final = 1011
COME_BACK: Final = 4001
GIVEN_UP: Final = 4002
MAX_REASON_BYTES: Final = 123
NO_CREDENTIALS: Final = Credentials()


def sync(  # noqa: PLR0913  # by keyword only: what tests say most often
    database: PeerDatabase,
    url: str,
    *,
    push: bool = True,
    pull: bool = True,
    collections: Sequence[str] = (DEFAULT_COLLECTION,),
    use_collections: bool | None = None,
    doc_ids: Collection[str] | None = None,
    conflicts: ConflictPolicy = KeepConflict.DEFAULT,
    protocols: Sequence[int] = (),
    credentials: Credentials = NO_CREDENTIALS,
    remote_id: str | None = None,
    timeout_s: float = 60.0,
) -> Result:
    """Synchronise once; return when all is through.

    Args:
        database: What to synchronise.
        url: `ws://host:port/db` or `wss://...`.
        push: Whether to send what is new here.
        pull: Whether to take what is new there.
        collections: Paths, `scope.name`.
        use_collections: Whether to begin with `getCollections`; None: as real clients
            of 3.1 to 3.3 do.
        doc_ids: Only these documents.
        conflicts: What to do when both sides have changed a document.
        protocols: What to offer, best first; empty: what goes with the database.
        credentials: A password, a client certificate, a pinned server certificate.
        remote_id: What stands for the server in checkpoints; the URL if None.
        timeout_s: How long nothing may come of the server.

    Raises:
        SyncError: It ended early. Failures of single documents are in the result.
    """
    options = SyncOptions(
        push=push,
        pull=pull,
        collections=tuple(collections),
        use_collections=use_collections,
        doc_ids=None if doc_ids is None else frozenset(doc_ids),
        conflicts=conflicts,
        protocols=tuple(protocols),
    )
    return _Run(database, url, options, credentials, remote_id or url, timeout_s).run()


class ContinuousSync:
    """A synchronisation in a thread of its own, from its making to `stop`."""

    def __init__(
        self,
        database: PeerDatabase,
        url: str,
        options: SyncOptions | None = None,
        *,
        credentials: Credentials = NO_CREDENTIALS,
        remote_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Begin.

        Args:
            database: What to synchronise; edit it through its own `save` and `delete`.
            url: `ws://host:port/db` or `wss://...`.
            options: What to do; `continuous` is implied.
            credentials: As for `sync`.
            remote_id: As for `sync`.
            retry_after_s: When to come back after a failure that may pass; None: never.
        """
        self.options = dataclasses.replace(options or SyncOptions(), continuous=True)
        self.error: SyncError | None = None
        self._retry_after_s = retry_after_s
        self._stopped = threading.Event()
        self._make_run: Callable[[], _Run] = lambda: _Run(
            database, url, self.options, credentials, remote_id or url, None
        )
        self._run = self._make_run()
        self._thread = threading.Thread(target=self._work, name="active peer", daemon=True)
        self._thread.start()

    @property
    def result(self) -> Result:
        """What the present connection has done so far."""
        return self._run.result

    @property
    def is_idle(self) -> bool:
        """Whether all is in sync, as far as this side knows."""
        return self._run.is_idle

    def _work(self) -> None:
        while True:
            try:
                self._run.run()
                return
            except SyncError as error:
                if self._retry_after_s is None or not error.is_transient:
                    self.error = error
                    return
            if self._stopped.wait(self._retry_after_s):
                return
            self._run = self._make_run()

    def wait_idle(self, timeout_s: float = 20.0) -> None:
        """Wait until all is in sync.

        Raises:
            SyncError: It has ended.
            TimeoutError: It is not.
        """
        self.wait_for(lambda: self.is_idle, timeout_s)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait until something holds, while the synchronisation runs.

        Raises:
            SyncError: It has ended.
            TimeoutError: It does not hold.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if not self._thread.is_alive():
                raise self.error or SyncError("the synchronisation has ended")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s; so far: {self.result}")
            time.sleep(POLL_S)

    def stop(self, timeout_s: float = 20.0) -> Result:
        """Save the checkpoint, close, and return what was done.

        Raises:
            SyncError: It had ended before, with this.
            TimeoutError: It does not end.
        """
        self._stopped.set()
        self._run.stop()
        self.join(timeout_s)
        if self.error is not None:
            raise self.error
        return self.result

    def join(self, timeout_s: float = 20.0) -> None:
        """Wait until the synchronisation has ended, by itself or by `stop`.

        Raises:
            TimeoutError: It does not end.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the synchronisation has not ended within {timeout_s:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._run.stop()
        self.join()


class _Run:
    """One connection, driven by one thread."""

    def __init__(
        self,
        database: PeerDatabase,
        url: str,
        options: SyncOptions,
        credentials: Credentials,
        remote_id: str,
        timeout_s: float | None,
    ) -> None:
        self.result = Result()
        self._database = database
        self._url = url
        self._options = options
        self._credentials = credentials
        self._remote_id = remote_id
        self._timeout_s = timeout_s
        self._replicator: ActiveReplicator | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)

    @property
    def is_idle(self) -> bool:
        with self._database.lock:
            return self._replicator is not None and self._replicator.is_idle

    def stop(self) -> None:
        self._is_stopped = True
        self._ring()

    def _ring(self) -> None:
        """Wake the thread, unless it is the thread itself that has changed the database."""
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(OSError):  # full: it will wake; closed: it has ended
                self._bell.send(b"!")

    def run(self) -> Result:
        began = time.monotonic()
        self._thread = threading.current_thread()
        forget = self._database.add_change_listener(self._ring)
        try:
            self._connect_and_drive()
        finally:
            forget()
            self._alarm.close()
            self._bell.close()
            self.result.seconds = time.monotonic() - began
        return self.result

    def _connect_and_drive(self) -> None:
        offered = self._options.offered(self._database.form)
        link = PeerSocket(self._url, offered, self._credentials)
        try:
            agreed = self._options.agreed(int(link.protocol.rpartition("_")[2]))
            with self._database.lock:
                replicator = self._replicator = ActiveReplicator(
                    self._database,
                    self._remote_id,
                    agreed,
                    limits=Limits(),
                    time_s=int(time.time()),
                )
            self.result = replicator.result
            self.result.protocol, self.result.fingerprint = link.protocol, link.fingerprint
            self._drive(link, replicator)
            self._end(link, replicator)
        finally:
            link.drop()
            if self._replicator is not None:
                self._replicator.close()

    def _drive(self, link: PeerSocket, replicator: ActiveReplicator) -> None:
        last_input_at = time.monotonic()
        while True:
            with self._database.lock:
                self._fill(link, replicator)
                deadline = replicator.next_deadline()
            link.flush()
            if replicator.has_output and not link.unsent_bytes:
                continue  # all of that was taken at once, and there is more
            if self._is_through(link, replicator):
                return
            ready = self._wait(link, deadline)
            now = time.monotonic()
            if ready:
                last_input_at = now
            self._react(link, replicator, now, deadline)
            if link.is_closed:
                link.close(NORMAL)  # sends the echo of the server's CLOSE, which is queued
                raise link.close_error()
            if self._timeout_s is not None and now - last_input_at > self._timeout_s:
                raise SyncError(f"nothing came from the server for {self._timeout_s:g} s")

    def _is_through(self, link: PeerSocket, replicator: ActiveReplicator) -> bool:
        if replicator.failure is not None:
            return True
        return replicator.is_finished and not replicator.has_output and not link.unsent_bytes

    def _fill(self, link: PeerSocket, replicator: ActiveReplicator) -> None:
        while link.unsent_bytes < UNSENT_BYTES:
            frame = replicator.frame_to_send()
            if frame is None:
                return
            link.send(frame)

    def _wait(self, link: PeerSocket, deadline: float | None) -> bool:
        """Wait for the socket, the bell or the deadline; say whether there is input."""
        timeout = 1.0 if deadline is None else min(1.0, max(0.0, deadline - time.monotonic()))
        readers = [link.fileno(), self._alarm.fileno()]
        writers = [link.fileno()] if link.unsent_bytes else []
        ready, _, _ = select.select(readers, writers, [], 0.0 if link.has_unread else timeout)
        return link.has_unread or link.fileno() in ready

    def _react(
        self, link: PeerSocket, replicator: ActiveReplicator, now: float, deadline: float | None
    ) -> None:
        frames = link.receive()
        with self._database.lock:
            try:
                if frames:
                    replicator.receive(FramesReceived(frames), now)
            except ProtocolError as error:
                link.close(BROKEN_BLIP, "Unexpected exception")
                raise SyncError(f"the server broke the rules of BLIP: {error}") from error
            if self._has_rung():
                replicator.receive(DatabaseChanged(), now)
            if self._is_stopped:
                replicator.stop()
            if deadline is not None and now >= deadline:
                replicator.receive(DeadlinePassed(), now)

    def _has_rung(self) -> bool:
        try:
            return bool(self._alarm.recv(4096))
        except BlockingIOError:
            return False

    def _end(self, link: PeerSocket, replicator: ActiveReplicator) -> None:
        """Close as a client does. Spec: blip.md §1.5, §6."""
        failure = replicator.failure
        if failure is None:
            link.close(NORMAL)
            if not link.was_closed_cleanly:
                self.result.complaints.append("the server did not answer the CLOSE")
            return
        reason = str(failure).encode("ascii", "replace")[:MAX_REASON_BYTES].decode()
        link.close(COME_BACK if failure.is_transient else GIVEN_UP, reason)
        raise failure
