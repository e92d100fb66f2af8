"""An engine and one client of it, asked as if it answered at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from edgesync.documents.body import blob_digest
from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    AppendBlob,
    ChangesPage,
    Committed,
    CreateCollection,
    DeleteCollection,
    FinishBlob,
    Inserted,
    InsertRev,
    InsertVersion,
    PurgeDocument,
    ReadChanges,
    ReadRev,
    SaveRev,
    SetExpiration,
    StoreCall,
    StoreDone,
    StoredRev,
)
from edgesync.documents.version_vector import parse_identity
from edgesync.errors import EdgeSyncError
from edgesync.limits import Limits
from edgesync.storage.engine import Engine

R = TypeVar("R")
ANSWER_TIMEOUT_S = 20.0
AT_ONCE = Limits(commit_delay_s=0.0)
"""Tests that ask one thing at a time need not wait for company."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Store:
    """A database; collections default to the default one."""

    def __init__(
        self,
        folder: Path,
        limits: Limits = AT_ONCE,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        self._woken = threading.Event()
        self.engine = Engine.open(folder, limits, self._woken.set, clock, uptime)
        self.client = self.engine.connect(self._take)
        self.committed: list[Committed] = []
        self.engine.add_commit_listener(self.committed.append)
        self._answers: dict[int, object] = {}
        self._ids = itertools.count(1)
        self._sinks = itertools.count(1)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.engine.close()
        self.engine.deliver()

    def _take(self, *answers: StoreDone) -> None:
        for done in answers:
            self._answers[done.call_id] = done.result

    def wait(self, until: Callable[[], bool]) -> None:
        """Deliver what the engine has until something holds."""
        while not until():
            assert self._woken.wait(ANSWER_TIMEOUT_S), "the store does not answer"
            self._woken.clear()
            self.engine.deliver()

    def ask_all(self, makers: Sequence[Callable[[int], StoreCall]]) -> list[object]:
        """Return the answers to calls that are submitted together; errors as values."""
        calls = [make(next(self._ids)) for make in makers]
        self.client.submit(calls)
        self.wait(lambda: all(call.call_id in self._answers for call in calls))
        return [self._answers.pop(call.call_id) for call in calls]

    def ask(self, make: Callable[[int], StoreCall], kind: type[R] = object) -> R:  # type: ignore[assignment]
        """Return the answer to one call; raise it if it is an error."""
        (answer,) = self.ask_all([make])
        if isinstance(answer, EdgeSyncError):
            raise answer
        assert isinstance(answer, kind)
        return answer

    # --- short words -----------------------------------------------------------

    def insert(
        self,
        doc_id: str,
        history: str,
        body: bytes = b"{}",
        *,
        deleted: bool = False,
        blobs: tuple[str, ...] = (),
        collection: str = DEFAULT_COLLECTION,
    ) -> Inserted:
        """Insert a revision; its history is written newest first."""
        return self.ask(
            inserting(doc_id, history, body, deleted=deleted, blobs=blobs, collection=collection),
            Inserted,
        )

    def save(
        self,
        doc_id: str,
        parent: str | None,
        body: bytes = b"{}",
        *,
        deleted: bool = False,
        collection: str = DEFAULT_COLLECTION,
    ) -> Inserted:
        parent_rev = RevID(parent) if parent is not None else None
        return self.ask(
            lambda i: SaveRev(i, collection, doc_id, parent_rev, body, deleted, ()), Inserted
        )

    def push(
        self,
        doc_id: str,
        version: str,
        body: bytes = b"{}",
        *,
        deleted: bool = False,
        blobs: tuple[str, ...] = (),
        collection: str = DEFAULT_COLLECTION,
    ) -> Inserted:
        """Insert a revision of a client with vectors."""
        return self.ask(
            pushing(doc_id, version, body, deleted=deleted, blobs=blobs, collection=collection),
            Inserted,
        )

    def read(
        self, doc_id: str, collection: str = DEFAULT_COLLECTION, *, known: Iterable[str] = ()
    ) -> StoredRev | None:
        found: object = self.ask(lambda i: ReadRev(i, collection, doc_id, frozenset(known)))
        assert found is None or isinstance(found, StoredRev)
        return found

    def as_tree(self, doc_id: str) -> tuple[object, ...] | None:
        """Return what a client without vectors gets of a document."""
        found = self.read(doc_id)
        return found[:6] if found is not None else None

    def vector_of(self, doc_id: str, collection: str = DEFAULT_COLLECTION) -> str:
        found = self.read(doc_id, collection)
        assert found is not None
        return found.vector

    def rev_of(self, doc_id: str) -> str | None:
        found = self.read(doc_id)
        return found.rev_id if found is not None else None

    def changes(
        self,
        since: int = 0,
        *,
        limit: int = 1000,
        active_only: bool = False,
        doc_ids: frozenset[str] | None = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> ChangesPage:
        return self.ask(
            lambda i: ReadChanges(i, collection, since, limit, active_only, doc_ids), ChangesPage
        )

    def changed_ids(self, since: int = 0) -> list[str]:
        return [change.doc_id for change in self.changes(since).changes]

    def purge(self, doc_id: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return self.ask(lambda i: PurgeDocument(i, collection, doc_id), bool)

    def expire(self, doc_id: str, at_s: float | None) -> bool:
        return self.ask(lambda i: SetExpiration(i, DEFAULT_COLLECTION, doc_id, at_s), bool)

    def create_collection(self, path: str) -> None:
        self.ask(lambda i: CreateCollection(i, path))

    def delete_collection(self, path: str) -> None:
        self.ask(lambda i: DeleteCollection(i, path))

    def add_blob(self, content: bytes) -> str:
        """Store a blob; return its digest."""
        sink, digest = next(self._sinks), blob_digest(content)
        self.ask(lambda i: AppendBlob(i, sink, content))
        self.ask(lambda i: FinishBlob(i, sink, digest, len(content)))
        return digest


def inserting(
    doc_id: str,
    history: str,
    body: bytes = b"{}",
    *,
    deleted: bool = False,
    blobs: tuple[str, ...] = (),
    collection: str = DEFAULT_COLLECTION,
) -> Callable[[int], StoreCall]:
    """Return what makes the call, for `ask_all`."""
    revs = tuple(RevID(text) for text in history.split())
    return lambda i: InsertRev(i, collection, doc_id, revs, body, deleted, blobs)


def pushing(
    doc_id: str,
    version: str,
    body: bytes = b"{}",
    *,
    deleted: bool = False,
    blobs: tuple[str, ...] = (),
    collection: str = DEFAULT_COLLECTION,
) -> Callable[[int], StoreCall]:
    """Return what makes the call for a version vector, perhaps with tree IDs behind it."""
    identity = parse_identity(version)
    return lambda i: InsertVersion(i, collection, doc_id, identity, body, deleted, blobs)
