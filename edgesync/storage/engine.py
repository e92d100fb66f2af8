"""The engine: the threads of a database, and the way to ask them without waiting."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final

from edgesync.documents import store_calls as calls
from edgesync.documents.store_calls import Committed, StoreCall, StoreDone, StoreResult
from edgesync.errors import StoreClosedError, StoreInUseError
from edgesync.limits import Limits
from edgesync.storage.blobs import EVERY_SINK, BlobFiles, BlobSinks, sync_folder
from edgesync.storage.commits import Commits
from edgesync.storage.condition import Report
from edgesync.storage.failures import store_error
from edgesync.storage.housekeeping import MIN_INTERVAL_S, Housekeeping
from edgesync.storage.maintenance import BLOB_FOLDER, DATABASE_FILE, Maintenance
from edgesync.storage.reading import Reader
from edgesync.storage.schema import open_reader
from edgesync.storage.threads import Answers, Asker, Batch, Chore, Outbox, Worker, Writer

LOCK_FILE: Final = "lock"
ROOM_BYTES: Final = 256 * 1024
"""For the shared memory and some checkpoints of clients."""
ROOM_STEP: Final = 4096
"""As little as there may be to keep."""


class _Route(Enum):
    """The thread that carries out a call."""

    WRITER = auto()
    READER = auto()
    BLOBS = auto()
    UPKEEP = auto()


_ROUTES: Final[Mapping[type, _Route]] = {
    calls.InsertRev: _Route.WRITER,
    calls.InsertVersion: _Route.WRITER,
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
    calls.TidyUp: _Route.UPKEEP,
}


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
        uptime: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        lock: _FolderLock,
    ) -> None:
        """Use `Engine.open`."""
        self._folder = folder
        self._lock_file = lock
        self._lock = threading.Lock()
        self._is_closed = False
        self._stopping = threading.Event()
        self._soon = soon
        self._held: dict[_Route, list[Batch]] = {}
        self._outbox = Outbox(wake)
        self._listeners: dict[int, Callable[[Committed], None]] = {}
        self._last_listener = 0
        self._report: Callable[[Report], None] = lambda _report: None
        blobs = BlobFiles(folder / BLOB_FOLDER, limits.blob_grace_s, uptime)
        self._commits = Commits(folder / DATABASE_FILE, blobs, limits, clock, uptime)
        self._connection = open_reader(folder / DATABASE_FILE)
        self._start(blobs, limits, clock)

    def _start(self, blobs: BlobFiles, limits: Limits, clock: Callable[[], float]) -> None:
        commits, stopping, outbox = self._commits, self._stopping.is_set, self._outbox
        reader = Reader(
            self._connection,
            commits.catalog,
            commits.sequences,
            blobs,
            clock,
            commits.checkpoints.note_use,
        )
        writer = Writer(commits, limits, outbox, stopping)
        maintenance = Maintenance(self._folder, blobs, stopping)
        database = self._folder / DATABASE_FILE
        housekeeping = Housekeeping(database, blobs, commits, writer.between, stopping)

        interval_s = max(limits.blob_grace_s, MIN_INTERVAL_S)

        def keep_up(_: object, call: StoreCall) -> StoreResult:
            if isinstance(call, calls.TidyUp):
                return housekeeping.tidy_up()
            return maintenance.answer(call)

        self._threads: Mapping[_Route, Writer | Worker] = {
            _Route.WRITER: writer,
            _Route.READER: Worker(
                "reader",
                lambda _, call: reader.answer(call),
                outbox,
                look_ahead=reader.look_ahead,
            ),
            _Route.BLOBS: Worker("blobs", BlobSinks(blobs).answer, outbox),
            _Route.UPKEEP: Worker(
                "upkeep", keep_up, outbox, Chore(interval_s, housekeeping.tidy_up)
            ),
        }

    @classmethod
    def open(
        cls,
        folder: Path,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = time.monotonic,
        soon: Callable[[Callable[[], None]], object] = lambda hand_over: hand_over(),
    ) -> Engine:
        """Open a database, making its folder if it is not there.

        Args:
            folder: Of this database alone.
            limits: What is about commits, revisions and blobs counts.
            wake: Called, on any thread, when there is something to `deliver`.
            clock: Returns seconds since 1970; documents expire by it.
            uptime: Returns seconds that pass evenly; what nobody needs grows old by it.
            soon: Called with a function that is to be called before the owner waits again:
                it hands over what was submitted by then, of all clients together.

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
                return cls(folder, limits, wake, clock, uptime, soon, lock)
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

    @property
    def versions_ahead_s(self) -> float:
        """How far the versions of this database are ahead of the clock."""
        return self._commits.versions_ahead_s

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

    def watch_condition(self, report: Callable[[Report], None]) -> None:
        """Have a function called by `deliver` when work fails, and when it works again."""
        self._report = report

    def deliver(self) -> None:
        """Hand out what has been answered and committed."""
        self._outbox.empty(self._hand_out)

    def _hand_out(self, entry: Answers | Committed | Report) -> None:
        if isinstance(entry, Answers):
            if not entry.client.is_closed:
                entry.client.answer(*entry.done)
            return
        if isinstance(entry, Report):
            self._report(entry)
            return
        for key in tuple(self._listeners):
            listener = self._listeners.get(key)
            if listener is not None:
                listener(entry)

    def submit(self, client: StoreClient, asked: Sequence[StoreCall]) -> None:
        """Take a client's calls; use `StoreClient.submit`."""
        by_route: dict[_Route, list[StoreCall]] = {}
        for call in asked:
            by_route.setdefault(_ROUTES[type(call)], []).append(call)
        if not self._hold(client, by_route):
            refused = [StoreDone(call.call_id, _closed_error(self._folder)) for call in asked]
            self._outbox.put(Answers(client, refused))

    def drop_sinks(self, client: StoreClient) -> None:
        """Throw away the unfinished blobs of a client that closes."""
        self._hold(client, {_Route.BLOBS: [calls.DropBlob(0, EVERY_SINK)]})

    def _hold(self, client: StoreClient, by_route: Mapping[_Route, Sequence[StoreCall]]) -> bool:
        """Keep calls until they are handed over; return False if the database is closed."""
        now = time.monotonic()
        with self._lock:
            if self._is_closed:
                return False
            is_first = not self._held
            for route, routed in by_route.items():
                self._held.setdefault(route, []).append(Batch(client, routed, now))
        if is_first:
            self._soon(self._hand_over)
        return True

    def _hand_over(self) -> None:
        """Give the threads what is held, each all at once: waking one is dear."""
        with self._lock:
            self._put_held()

    def _put_held(self) -> None:
        for route, batches in self._held.items():
            self._threads[route].put(batches)
        self._held = {}

    def close(self) -> None:
        """Finish what was submitted, and close the files; may be called on any thread.

        What was answered meanwhile is there to `deliver`. A backup, a verification
        or a compaction is given up.
        """
        with self._lock:  # nothing is put behind the end of a thread
            if self._is_closed:
                return
            self._is_closed = True
            self._put_held()
            self._stopping.set()
            for thread in self._threads.values():
                thread.put(None)
        for thread in self._threads.values():
            thread.join()
        self._connection.close()
        self._commits.close()
        self._lock_file.release()


class StoreClient(Asker):
    """One asker: its calls' numbers and its sinks are its own."""

    def __init__(self, engine: Engine, answer: Callable[..., None]) -> None:
        """Use `Engine.connect`."""
        super().__init__(answer)
        self._engine = engine

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
            self.answer = _nobody  # whoever asked refers to us, too: let it go at once
            self._engine.drop_sinks(self)


def _nobody(*_done: StoreDone) -> None:
    """Take the place of who does not ask any more."""


# --- the folder ----------------------------------------------------------------------


class _FolderLock:
    """Keeps other processes out of a database, and some room for it while it is closed.

    SQLite removes its shared memory when a database is closed, and cannot read from it
    without. On a card that is full to the last block a restart would be its end, and it can
    be full of what others write. So what was freed is kept in the file of the lock.
    """

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
        with suppress(OSError):  # a card that fails is told of by what needs it
            os.truncate(self._file, 0)

    def release(self) -> None:
        """Let others in."""
        with suppress(OSError):  # no more room to keep
            for start in range(0, ROOM_BYTES, ROOM_STEP):
                os.posix_fallocate(self._file, start, ROOM_STEP)
        os.close(self._file)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        sync_folder(str(folder.parent))


def _closed_error(folder: Path) -> StoreClosedError:
    return StoreClosedError(f"the database {folder} is closed")
