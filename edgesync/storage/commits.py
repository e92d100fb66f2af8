"""Carry out writes, many to a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from edgesync.documents.store_calls import (
    Committed,
    CreateCollection,
    DeleteCollection,
    InsertRev,
    InsertVersion,
    PurgeDocument,
    SaveRev,
    SetCheckpoint,
    SetExpiration,
    StoreCall,
    StoreResult,
)
from edgesync.errors import EdgeSyncError
from edgesync.limits import Limits
from edgesync.storage.blobs import BlobFiles
from edgesync.storage.catalog import Catalog
from edgesync.storage.changes import Sequences
from edgesync.storage.document_rows import is_referred_to
from edgesync.storage.incarnations import begin_incarnation
from edgesync.storage.kept_bodies import KeptBodies
from edgesync.storage.local_docs import Checkpoints
from edgesync.storage.revisions import Revisions
from edgesync.storage.schema import open_writer
from edgesync.storage.versions import Versions

Answer = StoreResult | EdgeSyncError

MAX_SLEEP_S: Final = 60.0
"""The wall clock may be set while we sleep, so we look at it now and then."""


class CommitOutcome(NamedTuple):
    """What became of a transaction."""

    answers: list[Answer]  # parallel to the calls
    committed: Committed | None  # None: no document changed


def _is_insertion(call: StoreCall) -> bool:
    return isinstance(call, InsertRev | InsertVersion)


class Commits:
    """The writing side of the database; used by one thread.

    Attributes:
        catalog: The collections.
        sequences: The counter of changes.
        kept: Bodies kept for deltas.
        checkpoints: What clients want kept.
    """

    def __init__(
        self,
        path: Path,
        blobs: BlobFiles,
        limits: Limits,
        clock: Callable[[], float],
        uptime: Callable[[], float],
    ) -> None:
        """Open the database, making or migrating it.

        Args:
            path: Of the SQLite file.
            blobs: Those that documents refer to.
            limits: `max_revs_depth`, and what is about clocks and kept bodies, counts.
            clock: Returns seconds since 1970.
            uptime: Returns seconds that pass evenly.
        """
        self._connection = _opened(path, clock)
        self._execute = self._connection.cursor().execute
        self._blobs = blobs
        self._clock = clock
        self.catalog = Catalog(self._connection)
        self.sequences = Sequences(self._connection)
        self._versions = Versions(self._connection, clock, limits)
        self._versions.fill()
        self.kept = KeptBodies(self._connection, limits)
        self._revisions = Revisions(
            self._connection,
            self.catalog,
            self.sequences,
            self._versions,
            self.kept,
            blobs,
            limits,
        )
        self.checkpoints = Checkpoints(self._connection, uptime)
        self._next_expiry = self._revisions.next_expiry()

    @property
    def versions_ahead_s(self) -> float:
        """How far versions are ahead of the clock; any thread may look."""
        return self._versions.ahead_s()

    def close(self) -> None:
        """Close the database; all is committed already."""
        self._connection.close()

    def carry_out(self, calls: Sequence[StoreCall]) -> CommitOutcome:
        """Do calls in one transaction; they are durable on return.

        A call that is refused gets its error as its answer, and changes nothing.

        Raises:
            Exception: SQLite failed; call `roll_back`. Nothing of it is stored.
        """
        now = self._clock()
        self._execute("BEGIN IMMEDIATE")
        answers: list[Answer] = []
        for is_run, some in groupby(calls, key=_is_insertion):
            run = list(some)
            if is_run and len(run) > 1:
                self._revisions.look_ahead(run)  # type: ignore[arg-type]  # insertions, all
            answers.extend(self._answer(call, now) for call in run)
            if is_run:
                self._revisions.finish_run()
        return CommitOutcome(answers, self._commit())

    def _answer(self, call: StoreCall, now: float) -> Answer:
        try:
            return self._do(call, now)
        except EdgeSyncError as refusal:
            return refusal

    def _do(self, call: StoreCall, now: float) -> StoreResult:
        match call:
            case InsertRev():
                return self._revisions.insert(call, now)
            case InsertVersion():
                return self._revisions.insert_version(call, now)
            case SaveRev():
                return self._revisions.save(call, now)
            case SetCheckpoint():
                return self.checkpoints.set(call)
            case PurgeDocument():
                return self._revisions.purge(call, now)
            case SetExpiration():
                return self._set_expiration(call, now)
            case CreateCollection():
                self.catalog.create(call.collection)
            case DeleteCollection():
                self.sequences.drop(call.collection)
                self._blobs.let_go(self.catalog.delete(call.collection))
            case _:
                raise RuntimeError(f"{type(call).__name__} is no write")
        return None

    def _commit(self) -> Committed | None:
        self.sequences.save()
        self._versions.save()
        self._execute("COMMIT")
        self._versions.publish()
        self.catalog.publish()
        return self.sequences.publish()

    def roll_back(self) -> None:
        """Undo a transaction that failed; SQLite may have done so itself."""
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # if it stays open, the next BEGIN fails, and we are back
                self._execute("ROLLBACK")
        self.catalog.forget()
        self.sequences.forget()
        self.kept.roll_back()
        self._revisions.roll_back()

    # --- expiry and upkeep -------------------------------------------------------------

    def _set_expiration(self, call: SetExpiration, now: float) -> bool:
        is_there = self._revisions.set_expiration(call, now)
        if call.at_s is not None and (self._next_expiry is None or call.at_s < self._next_expiry):
            self._next_expiry = call.at_s
        return is_there

    def seconds_to_expiry(self) -> float | None:
        """Return how long to sleep until a document expires, at the most; None: none will."""
        if self._next_expiry is None:
            return None
        return min(max(self._next_expiry - self._clock(), 0.0), MAX_SLEEP_S)

    def purge_expired(self) -> None:
        """Purge documents whose time has come, some at a time.

        Raises:
            Exception: SQLite failed; call `roll_back`.
        """
        now = self._clock()
        if self._next_expiry is None or self._next_expiry > now:
            return
        self._next_expiry = now + MAX_SLEEP_S  # if it fails, try again then
        self._execute("BEGIN IMMEDIATE")
        self._revisions.purge_expired(now)
        self._commit()
        self._next_expiry = self._revisions.next_expiry()

    def drop_old_checkpoints(self) -> int:
        """Delete checkpoints that have not been used for long; return how many.

        Raises:
            Exception: SQLite failed; call `roll_back`.
        """
        self._execute("BEGIN IMMEDIATE")
        dropped = self.checkpoints.drop_old()
        self._commit()
        return dropped

    def remove_blobs(self, digests: Sequence[str]) -> int:
        """Remove blobs, but for those that are needed; return how many.

        What documents refer to is committed, as this is no part of a transaction: a
        reference that comes back by a power cut finds its blob.
        """
        return sum(
            self._blobs.remove(digest)
            for digest in digests
            if not is_referred_to(self._connection, digest)
        )

    def compact(self, should_stop: Callable[[], bool]) -> None:
        """Rewrite the database without its unused pages.

        Raises:
            sqlite3.Error: There is no room for the copy this makes, or it was stopped.
        """
        self._connection.set_progress_handler(should_stop, 100_000)
        try:
            self._execute("VACUUM")
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._connection.set_progress_handler(None, 0)


def _opened(path: Path, clock: Callable[[], float]) -> sqlite3.Connection:
    connection = open_writer(path)
    try:
        begin_incarnation(connection, path.parent, clock)
    except BaseException:
        connection.close()
        raise
    return connection
