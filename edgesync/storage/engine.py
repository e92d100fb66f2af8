"""The engine: the threads of a database, and the way to ask them without waiting."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from edgesync.documents import store_calls as calls
from edgesync.documents.store_calls import Committed, StoreCall, StoreDone, StoreResult
from edgesync.errors import EdgeSyncError, StoreClosedError, StoreInUseError
from edgesync.limits import Limits
from edgesync.storage.blobs import EVERY_SINK, BlobFiles, BlobSinks, sync_folder
from edgesync.storage.commits import CommitOutcome, Commits
from edgesync.storage.failures import store_error
from edgesync.storage.maintenance import BLOB_FOLDER, DATABASE_FILE, Maintenance
from edgesync.storage.reading import Reader
from edgesync.storage.schema import open_reader

LOCK_FILE: Final = "lock"


class _Route(Enum):
    """The thread that carries out a call."""

    WRITER = auto()
    READER = auto()
    BLOBS = auto()
    UPKEEP = auto()


_ROUTES: Final[Mapping[type, _Route]] = {
    calls.InsertRev: _Route.WRITER,
    calls.InsertVersion: _Route.WRITER,
    calls.CollectBlobs: _Route.WRITER,
    calls.SaveRev: _Route.WRITER,
    calls.SetCheckpoint: _Route.WRITER,
    calls.PurgeDocument: _Route.WRITER,
    calls.SetExpiration: _Route.WRITER,
    calls.CreateCollection: _Route.WRITER,
    calls.DeleteCollection: _Route.WRITER,
    calls.Compact: _Route.WRITER,
    calls.GetCheckpoint: _Route.READER,
    calls.FindCurrentRevs: _Route.READER,
    calls.ReadChanges: _Route.READER,
    calls.ReadRev: _Route.READER,
    calls.ReadBase: _Route.READER,
    calls.FindMissingBlobs: _Route.READER,
    calls.ListDocuments: _Route.READER,
    calls.CountDocuments: _Route.READER,
    calls.ListCollections: _Route.READER,
    calls.AppendBlob: _Route.BLOBS,
    calls.FinishBlob: _Route.BLOBS,
    calls.DropBlob: _Route.BLOBS,
    calls.ReadBlob: _Route.BLOBS,
    calls.ProveBlob: _Route.BLOBS,
    calls.BlobLength: _Route.BLOBS,
    calls.Backup: _Route.UPKEEP,
    calls.Verify: _Route.UPKEEP,
}
_PATIENT: Final = frozenset({calls.InsertRev, calls.InsertVersion, calls.SetCheckpoint})
"""What comes from peers waits for company; what our own application does goes at once."""


class _Batch(NamedTuple):
    client: StoreClient
    calls: Sequence[StoreCall]
    arrived_at: float


class _Answers(NamedTuple):
    client: StoreClient
    done: list[StoreDone]


class Engine:
    """An open database.

    Belongs to the thread that opened it: `deliver`, and all of its clients, are
    used there.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float],
        lock: _FolderLock,
    ) -> None:
        """Use `Engine.open`."""
        self._folder = folder
        self._lock_file = lock
        self._lock = threading.Lock()
        self._is_closed = False
        self._stopping = threading.Event()
        self._outbox = _Outbox(wake)
        self._listeners: dict[int, Callable[[Committed], None]] = {}
        self._last_listener = 0
        blobs = BlobFiles(folder / BLOB_FOLDER)
        self._commits = Commits(folder / DATABASE_FILE, blobs.has, limits, clock)
        self._connection = open_reader(folder / DATABASE_FILE)
        self._start(blobs, limits, clock)

    def _start(self, blobs: BlobFiles, limits: Limits, clock: Callable[[], float]) -> None:
        commits, stopping = self._commits, self._stopping.is_set
        reader = Reader(self._connection, commits.catalog, commits.sequences, blobs, clock)
        sinks = BlobSinks(blobs)
        upkeep = Maintenance(self._folder, blobs, stopping)
        self._threads: Mapping[_Route, _Writer | _Worker] = {
            _Route.WRITER: _Writer(commits, limits, self._outbox, stopping),
            _Route.READER: _Worker("reader", lambda _, call: reader.answer(call), self._outbox),
            _Route.BLOBS: _Worker("blobs", sinks.answer, self._outbox),
            _Route.UPKEEP: _Worker("upkeep", lambda _, call: upkeep.answer(call), self._outbox),
        }

    @classmethod
    def open(
        cls,
        folder: Path,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> Engine:
        """Open a database, making its folder if it is not there.

        Args:
            folder: Of this database alone.
            limits: `commit_revisions`, `commit_delay_s` and `max_revs_depth` count.
            wake: Called, on any thread, when there is something to `deliver`.
            clock: Returns seconds since 1970; documents expire by it.

        Raises:
            StoreInUseError: It is open already, here or in another process.
            StoreVersionError: A newer edgesync wrote it.
            StoreDamagedError: It is damaged, or not ours.
            StoreFullError: The file system does not take writes.
        """
        try:
            _make_folder(folder)
            lock = _FolderLock(folder)
            try:
                return cls(folder, limits, wake, clock, lock)
            except BaseException:
                lock.release()
                raise
        except (sqlite3.Error, OSError) as error:
            raise store_error(error) from error

    @staticmethod
    def remove(folder: Path) -> None:
        """Delete a database that is not open; one that is not there is fine.

        Raises:
            StoreInUseError: It is open.
            StoreFullError: The file system does not take writes.
        """
        if not folder.exists():
            return
        lock = _FolderLock(folder)
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise store_error(error) from error
        finally:
            lock.release()

    def keep_bodies(self) -> None:
        """Keep bodies of replaced revisions from now on: somebody takes deltas."""
        self._commits.kept.is_wanted = True

    def connect(self, answer: Callable[..., None]) -> StoreClient:
        """Return a way to ask this database.

        Args:
            answer: Called by `deliver` with one `StoreDone` or several.
        """
        return StoreClient(self, answer)

    def add_commit_listener(self, listener: Callable[[Committed], None]) -> Callable[[], None]:
        """Have a function called by `deliver` after each commit that changed documents.

        The answers of that commit come before.

        Returns:
            A function that ends it.
        """
        self._last_listener += 1
        key = self._last_listener
        self._listeners[key] = listener

        def remove() -> None:
            self._listeners.pop(key, None)

        return remove

    def deliver(self) -> None:
        """Hand out what has been answered and committed."""
        self._outbox.empty(self._hand_out)

    def _hand_out(self, entry: _Answers | Committed) -> None:
        if isinstance(entry, _Answers):
            if not entry.client.is_closed:
                entry.client.answer(*entry.done)
            return
        for key in tuple(self._listeners):
            listener = self._listeners.get(key)
            if listener is not None:
                listener(entry)

    def submit(self, client: StoreClient, asked: Sequence[StoreCall]) -> None:
        """Hand over a client's calls; use `StoreClient.submit`."""
        by_route: dict[_Route, list[StoreCall]] = {}
        for call in asked:
            by_route.setdefault(_ROUTES[type(call)], []).append(call)
        if not self._put(client, by_route.items()):
            refused = [StoreDone(call.call_id, _closed_error(self._folder)) for call in asked]
            self._outbox.put(_Answers(client, refused))

    def drop_sinks(self, client: StoreClient) -> None:
        """Throw away the unfinished blobs of a client that closes."""
        self._put(client, [(_Route.BLOBS, [calls.DropBlob(0, EVERY_SINK)])])

    def _put(
        self,
        client: StoreClient,
        by_route: Iterable[tuple[_Route, Sequence[StoreCall]]],
    ) -> bool:
        now = time.monotonic()
        with self._lock:  # nothing is put behind the end of a thread
            if self._is_closed:
                return False
            for route, routed in by_route:
                self._threads[route].put(_Batch(client, routed, now))
            return True

    def close(self) -> None:
        """Finish what was submitted, and close the files; may be called on any thread.

        What was answered meanwhile is there to `deliver`. A backup, a verification
        or a compaction is given up.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._stopping.set()
            for thread in self._threads.values():
                thread.put(None)
        for thread in self._threads.values():
            thread.join()
        self._connection.close()
        self._commits.close()
        self._lock_file.release()


class StoreClient:
    """One asker: its calls' numbers and its sinks are its own."""

    def __init__(self, engine: Engine, answer: Callable[..., None]) -> None:
        """Use `Engine.connect`."""
        self._engine = engine
        self.answer = answer
        self.is_closed = False

    def submit(self, asked: Sequence[StoreCall]) -> None:
        """Hand over calls; never waits.

        They are answered in any order. After `Engine.close` the answer is a
        `StoreClosedError`.
        """
        if asked and not self.is_closed:
            self._engine.submit(self, asked)

    def close(self) -> None:
        """Take no more answers, and drop blobs that are not finished.

        Writes that were submitted are carried out all the same.
        """
        if not self.is_closed:
            self.is_closed = True
            self._engine.drop_sinks(self)


# --- threads -----------------------------------------------------------------------


class _Outbox:
    """What the threads have for the owner."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: deque[_Answers | Committed] = deque()
        self._is_woken = False

    def put(self, *entries: _Answers | Committed) -> None:
        """Add entries; the owner is woken once for all that it has not taken yet."""
        self._entries.extend(entries)
        # The owner lowers the flag before it looks, we look at it after adding: so
        # nothing is overlooked, and two threads at once wake it twice at the worst.
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def empty(self, take: Callable[[_Answers | Committed], None]) -> None:
        """Give all entries to a function; if it raises, the rest comes next time."""
        self._is_woken = False
        try:
            while self._entries:
                take(self._entries.popleft())
        finally:
            if self._entries and not self._is_woken:
                self._is_woken = True
                self._wake()


class _Worker:
    """A thread that carries out calls as they come, and answers batch by batch."""

    def __init__(
        self,
        name: str,
        do: Callable[[StoreClient, StoreCall], StoreResult],
        outbox: _Outbox,
    ) -> None:
        self._do = do
        self._outbox = outbox
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self.put = self._queue.put
        self._thread = threading.Thread(target=self._run, name=f"edgesync-{name}", daemon=True)
        self.join = self._thread.join
        self._thread.start()

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            done = [self._answer(batch.client, call) for call in batch.calls]
            self._outbox.put(_Answers(batch.client, done))

    def _answer(self, client: StoreClient, call: StoreCall) -> StoreDone:
        try:
            return StoreDone(call.call_id, self._do(client, call))
        except EdgeSyncError as error:
            return StoreDone(call.call_id, error)
        except Exception as error:  # noqa: BLE001  the top of a thread: the asker is told
            return StoreDone(call.call_id, store_error(error))


class _Item(NamedTuple):
    client: StoreClient
    call: StoreCall
    arrived_at: float


class _Writer:
    """The thread that writes: gathers calls, commits them together, answers after that."""

    def __init__(
        self,
        commits: Commits,
        limits: Limits,
        outbox: _Outbox,
        should_stop: Callable[[], bool],
    ) -> None:
        self._commits = commits
        self._limits = limits
        self._outbox = outbox
        self._should_stop = should_stop
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self.put = self._queue.put
        self._gathered: list[_Item] = []
        self._is_urgent = False
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="edgesync-writer", daemon=True)
        self.join = self._thread.join
        self._thread.start()

    def _run(self) -> None:
        while self._gathered or not self._is_ending:
            if items := self._gather():
                self._commit(items)
            elif not self._is_ending:
                self._purge_expired()

    def _gather(self) -> list[_Item]:
        """Wait for calls, then for company; nothing if a document may have expired."""
        gathered, limit = self._gathered, self._limits.commit_revisions
        if not gathered:
            self._take(self._commits.seconds_to_expiry())
        while gathered and len(gathered) < limit and self._take(self._patience_s()):
            pass
        items, self._gathered = gathered[:limit], gathered[limit:]
        self._is_urgent = any(type(item.call) not in _PATIENT for item in self._gathered)
        return items

    def _take(self, timeout_s: float | None) -> bool:
        """Add a batch to what is gathered; return False if none came, or none will."""
        if self._is_ending:
            return False
        try:
            batch = self._queue.get(timeout=timeout_s)
        except Empty:
            return False
        if batch is None:
            self._is_ending = True
            return False
        for call in batch.calls:
            self._gathered.append(_Item(batch.client, call, batch.arrived_at))
            self._is_urgent = self._is_urgent or type(call) not in _PATIENT
        return True

    def _patience_s(self) -> float:
        if self._is_urgent:
            return 0.0
        deadline = self._gathered[0].arrived_at + self._limits.commit_delay_s
        return max(deadline - time.monotonic(), 0.0)

    def _commit(self, items: list[_Item]) -> None:
        writes = [item for item in items if not isinstance(item.call, calls.Compact)]
        if writes:
            outcome = self._carry_out([item.call for item in writes])
            self._answer(writes, outcome)
        for item in items:
            if isinstance(item.call, calls.Compact):
                self._answer([item], CommitOutcome([self._compact()], None))

    def _carry_out(self, asked: list[StoreCall]) -> CommitOutcome:
        try:
            return self._commits.carry_out(asked)
        except Exception as error:  # noqa: BLE001  the top of a thread: all askers are told
            self._commits.roll_back()
            return CommitOutcome([store_error(error) for _ in asked], None)

    def _answer(self, items: list[_Item], outcome: CommitOutcome) -> None:
        by_client: dict[StoreClient, list[StoreDone]] = {}
        for item, answer in zip(items, outcome.answers, strict=True):
            done = StoreDone(item.call.call_id, answer)
            by_client.setdefault(item.client, []).append(done)
        entries: list[_Answers | Committed] = [_Answers(*entry) for entry in by_client.items()]
        if outcome.committed is not None:
            entries.append(outcome.committed)
        self._outbox.put(*entries)

    def _compact(self) -> EdgeSyncError | None:
        try:
            self._commits.compact(self._should_stop)
        except sqlite3.Error as error:
            if self._should_stop():
                return StoreClosedError("the database was closed meanwhile")
            return store_error(error)
        return None

    def _purge_expired(self) -> None:
        try:
            self._commits.purge_expired()
        except sqlite3.Error:  # nobody asked; it is tried again, and readers hide them
            self._commits.roll_back()


# --- the folder ----------------------------------------------------------------------


class _FolderLock:
    """Keeps other processes out of a database."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder.

        Raises:
            StoreInUseError: It is locked.
        """
        self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise StoreInUseError(
                f"the database {folder} is open already",
                hint="stop the program that has it open; a service is asked over its local API",
            ) from None

    def release(self) -> None:
        """Let others in."""
        os.close(self._file)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        sync_folder(str(folder.parent))


def _closed_error(folder: Path) -> StoreClosedError:
    return StoreClosedError(f"the database {folder} is closed")
