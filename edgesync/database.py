"""Database, Collection and Document: what an application keeps and reads here.

Above the usual size: each of the two classes makes and returns the other, so apart they
would be two modules that import each other.
"""

from __future__ import annotations

import base64
import io
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple, TypeVar

import gevent
import orjson
from gevent.event import AsyncResult

from edgesync.documents.body import BlobDigest, encode_body, is_blob_digest, parse_body
from edgesync.documents.names import (
    DATABASE_SUFFIX,
    check_database_name,
    check_doc_id,
    collection_path,
)
from edgesync.documents.rev_id import RevID, parse_rev_id
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    AppendBlob,
    Backup,
    BlobLength,
    BlobPiece,
    Change,
    ChangesPage,
    Committed,
    Compact,
    CountDocuments,
    CreateCollection,
    DeleteCollection,
    DropBlob,
    FinishBlob,
    Inserted,
    ListCollections,
    ListDocuments,
    PurgeDocument,
    ReadBlob,
    ReadChanges,
    ReadRev,
    SaveRev,
    SetExpiration,
    StoreCall,
    StoreDone,
    StoredRev,
    TidyUp,
    Verify,
)
from edgesync.errors import CollectionNotFoundError, EdgeSyncError, StoreClosedError
from edgesync.limits import Limits
from edgesync.storage.condition import Condition, Report
from edgesync.storage.engine import Engine, StoreClient

log: Final = logging.getLogger(__name__)
R = TypeVar("R")
PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was when it was read; a change makes a new value."""

    id: str
    revision_id: str
    sequence: int
    """The database's counter when this revision was stored."""
    deleted: bool
    """Whether this revision is a tombstone."""
    body: Mapping[str, object] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Edit:
    """One of many changes for `Collection.save_all`."""

    doc_id: str | None
    """None makes a new one."""
    body: Mapping[str, object] = field(hash=False)
    """Nothing for a tombstone."""
    parent: str | None = None
    """The revision it replaces."""
    deleted: bool = False
    """Whether to store a tombstone."""


class Database:
    """A database: one SQLite file and one folder of blobs, below one folder.

    Used from the thread that opened it. Calls block the calling greenlet only.
    """

    def __init__(self, name: str, folder: Path, limits: Limits) -> None:
        """Use `Database.open`."""
        self._name = name
        self._folder = folder
        self._limits = limits
        loop = gevent.get_hub().loop
        self._watcher = loop.async_()
        self._engine = Engine.open(folder, limits, self._watcher.send, soon=loop.run_callback)
        self._watcher.start(self._engine.deliver)
        self._condition = Condition()
        self._engine.watch_condition(self._take_report)
        self._client = self._engine.connect(self._take_answers)
        self._answers: dict[int, AsyncResult[object]] = {}
        self._last_call = 0
        self._last_sink = 0
        self._closers: list[Callable[[], None]] = []
        self._is_open = True

    @classmethod
    def open(
        cls, name: str, *, directory: Path | str = ".", limits: Limits | None = None
    ) -> Database:
        """Open a database, making it if it is not there.

        Args:
            name: 1 to 240 printable characters without "/" and "."; part of the URL.
            directory: The folder that holds the databases.
            limits: Bounds on the size of documents, and on group commits.

        Raises:
            InvalidNameError: No database may have that name.
            StoreInUseError: Another process has it open.
            StoreVersionError: A newer edgesync wrote it.
            StoreDamagedError: It is damaged.
        """
        check_database_name(name)
        folder = Path(directory) / f"{name}{DATABASE_SUFFIX}"
        return cls(name, folder, limits or Limits())

    def close(self) -> None:
        """Stop the listeners of this database, finish what is being written, and close it."""
        if not self._is_open:
            return
        for closer in list(self._closers):
            closer()
        self._is_open = False
        gevent.get_hub().threadpool.apply(self._engine.close)
        self._engine.deliver()
        self._watcher.stop()
        self._watcher.close()

    def delete(self) -> None:
        """Close the database and remove its files."""
        self.close()
        gevent.get_hub().threadpool.apply(Engine.remove, (self._folder,))

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self._name!r} in {self._folder}>"

    @property
    def name(self) -> str:
        """The name, as in the URL that clients use."""
        return self._name

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._is_open

    @property
    def problem(self) -> str:
        """Why it could not store or read something lately; empty if all works.

        Clients are told to try again, and do; a problem is over when they succeed.
        """
        error = self._condition.problem(time.monotonic())
        return "" if error is None else str(error)

    @property
    def versions_ahead_s(self) -> float:
        """How many seconds its latest version is ahead of this machine's clock, 0 if it is not.

        It is when the clock was set back. Clients of 4.x refuse what is more than 120 s
        ahead of theirs. Spec: documents.md §9.1.
        """
        return self._engine.versions_ahead_s

    # --- collections ---------------------------------------------------------------

    @property
    def default_collection(self) -> Collection:
        """The collection `_default` of the scope `_default`, which is always there."""
        return Collection(self, DEFAULT_COLLECTION)

    @property
    def collections(self) -> tuple[Collection, ...]:
        """All collections."""
        paths = self.ask(lambda call_id: ListCollections(call_id), tuple)
        return tuple(Collection(self, path) for path in paths)

    def collection(self, name: str) -> Collection:
        """Return a collection.

        Args:
            name: `scope.name`, or `name` in the default scope.

        Raises:
            CollectionNotFoundError: It does not exist.
        """
        path = collection_path(name)
        if path not in self.ask(lambda call_id: ListCollections(call_id), tuple):
            raise CollectionNotFoundError(name)
        return Collection(self, path)

    def create_collection(self, name: str) -> Collection:
        """Return a collection, making it if it is not there.

        Raises:
            InvalidNameError: No collection may have that name.
        """
        path = collection_path(name)
        self.ask(lambda call_id: CreateCollection(call_id, path))
        return Collection(self, path)

    def delete_collection(self, name: str) -> None:
        """Remove a collection with all its documents.

        Raises:
            CollectionNotFoundError: It does not exist.
            InvalidNameError: It is the default collection, which stays.
        """
        path = collection_path(name)
        self.ask(lambda call_id: DeleteCollection(call_id, path))

    # --- blobs -----------------------------------------------------------------------

    def save_blob(
        self, stream: BinaryIO, content_type: str = "application/octet-stream"
    ) -> dict[str, object]:
        """Store what a stream gives and return the object that stands for it in a body.

        The stream is read to its end in pieces of 64 KiB.

        Spec: documents.md §5.1.
        """
        self._last_sink += 1
        sink, digest, length = self._last_sink, BlobDigest(), 0
        try:
            while data := stream.read(self._limits.blob_piece_bytes):
                digest.update(data)
                length += len(data)
                self.ask(lambda call_id, data=data: AppendBlob(call_id, sink, data))  # type: ignore[misc]
            self.ask(lambda call_id: FinishBlob(call_id, sink, digest.text(), length))
        except BaseException:
            self.ask(lambda call_id: DropBlob(call_id, sink))
            raise
        return {
            "@type": "blob",
            "digest": digest.text(),
            "length": length,
            "content_type": content_type,
        }

    def get_blob(self, properties: Mapping[str, object]) -> BinaryIO | None:
        """Return a readable stream of a blob's content, None if it is not stored.

        Args:
            properties: The object that stands for the blob in a body.
        """
        digest = properties.get("digest")
        if not isinstance(digest, str) or not is_blob_digest(digest):
            return None
        length: object = self.ask(lambda call_id: BlobLength(call_id, digest))
        if not isinstance(length, int):
            return None
        return io.BufferedReader(BlobReader(self, digest, length), self._limits.blob_piece_bytes)

    # --- upkeep ----------------------------------------------------------------------

    def backup(
        self,
        directory: Path | str,
        *,
        share_blobs: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Copy the database, as it is at one moment, into a folder; others go on meanwhile.

        Args:
            directory: A new folder.
            share_blobs: Whether blobs are linked, not copied: for a copy on the same
                file system that is read and removed, and costs no room.
            progress: Told now and then, in a thread, what is done of how much.
        """
        target = Path(directory)
        self.ask(lambda call_id: Backup(call_id, target, share_blobs, progress))

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> tuple[str, ...]:
        """Return what is damaged, in words; nothing if all is well.

        Args:
            progress: As for `backup`.
        """
        return self.ask(lambda call_id: Verify(call_id, progress), tuple)

    def compact(self) -> None:
        """Remove blobs that nobody needs, and give unused room back to the file system."""
        self.ask(lambda call_id: TidyUp(call_id))
        self.ask(lambda call_id: Compact(call_id))

    # --- for listeners -------------------------------------------------------------------

    def connect(
        self, answer: Callable[..., None], committed: Callable[[Committed], None]
    ) -> StoreConnection:
        """Return a way to ask the store without waiting; for sessions.

        Raises:
            StoreClosedError: The database is closed.
        """
        if not self._is_open:
            raise StoreClosedError(f'database "{self._name}" is closed')
        return StoreConnection(self._engine.connect(answer), self.on_commit(committed))

    def keep_bodies(self) -> None:
        """Keep bodies of replaced revisions from now on, to make deltas from."""
        self._engine.keep_bodies()

    def on_commit(self, committed: Callable[[Committed], None]) -> Callable[[], None]:
        """Have a function called after each commit; returns the way to end it."""
        return self._engine.add_commit_listener(committed)

    def on_close(self, closer: Callable[[], None]) -> Callable[[], None]:
        """Have a function called before the database closes; returns the way to end it."""
        self._closers.append(closer)

        def forget() -> None:
            if closer in self._closers:
                self._closers.remove(closer)

        return forget

    def ask(self, make: Callable[[int], StoreCall], kind: type[R] = object) -> R:  # type: ignore[assignment]
        """Ask the store and wait for the answer.

        Args:
            make: Makes the call from its number.
            kind: The type of the expected answer.

        Raises:
            EdgeSyncError: What the store answered.
        """
        (result,) = self.ask_all([make])
        if isinstance(result, EdgeSyncError):
            raise result
        assert isinstance(result, kind)
        return result

    def ask_all(self, makers: Sequence[Callable[[int], StoreCall]]) -> list[object]:
        """Ask the store many things at once; return its answers, errors among them."""
        if not self._is_open:
            raise StoreClosedError(f'database "{self._name}" is closed')
        calls: list[StoreCall] = []
        answers: list[AsyncResult[object]] = []
        for make in makers:
            self._last_call += 1
            calls.append(make(self._last_call))
            answers.append(AsyncResult())
            self._answers[self._last_call] = answers[-1]
        self._client.submit(calls)
        return [answer.get() for answer in answers]

    def _take_answers(self, *answers: StoreDone) -> None:
        for done in answers:
            self._answers.pop(done.call_id).set(done.result)

    def _take_report(self, report: Report) -> None:
        """Tell the operator what fails, and that it works again."""
        if not self._condition.note(report, time.monotonic()):
            return
        if report.error is None:
            log.info('database "%s": all that had failed works again', self._name)
        else:
            log.error('database "%s": %s; %s', self._name, report.error, report.error.hint)


class StoreConnection:
    """A session's way to the store."""

    def __init__(self, client: StoreClient, forget: Callable[[], None]) -> None:
        self._client = client
        self._forget = forget

    def submit(self, calls: list[StoreCall]) -> None:
        """Hand over calls; never waits."""
        self._client.submit(calls)

    def close(self) -> None:
        """Take no more answers, and drop half-written blobs."""
        self._forget()
        self._client.close()


class Collection:
    """A named set of documents of a database."""

    def __init__(self, database: Database, path: str) -> None:
        """Use `Database.collection`."""
        self._database = database
        self._path = path

    @property
    def database(self) -> Database:
        """The database it belongs to."""
        return self._database

    @property
    def path(self) -> str:
        """`scope.name`."""
        return self._path

    @property
    def scope(self) -> str:
        """The name of its scope."""
        return self._path.partition(".")[0]

    @property
    def name(self) -> str:
        """Its name within the scope."""
        return self._path.partition(".")[2]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Collection)
            and other._database is self._database
            and other._path == self._path
        )

    def __hash__(self) -> int:
        return hash((id(self._database), self._path))

    def __repr__(self) -> str:
        return f"<Collection {self._path} of {self._database.name}>"

    @property
    def count(self) -> int:
        """The number of documents that are not deleted."""
        return self._database.ask(lambda call_id: CountDocuments(call_id, self._path), int)

    @property
    def last_sequence(self) -> int:
        """The sequence of its last change; `changes` after it yields nothing yet."""
        return self._read_changes(2**62).last_sequence

    def get(self, doc_id: str) -> Document | None:
        """Return a document, None if it is absent or deleted."""
        found: object = self._database.ask(lambda call_id: ReadRev(call_id, self._path, doc_id))
        if not isinstance(found, StoredRev) or found.deleted:
            return None
        return _document(found)

    def documents(self, start: str = "") -> Iterator[Document]:
        """Yield all documents that are not deleted, in the order of their IDs.

        Args:
            start: The ID to begin with, or where it would be.
        """
        if start and (first := self.get(start)) is not None:
            yield first
        after = start
        while True:
            page = self._database.ask(
                lambda call_id, after=after: ListDocuments(call_id, self._path, after, PAGE),  # type: ignore[misc]
                tuple,
            )
            for stored in page:
                yield _document(stored)
            if len(page) < PAGE:
                return
            after = page[-1].doc_id

    def save(
        self,
        doc_id: str | None,
        body: Mapping[str, object],
        *,
        parent: str | None = None,
    ) -> Document:
        """Store a document; connected clients get it at once.

        Args:
            doc_id: 1 to 240 bytes; None makes a new one.
            body: What JSON can hold; blobs as `Database.save_blob` returns them. No
                top-level name begins with "_".
            parent: The revision this one replaces, as read before; None for a new
                document, also in place of a deleted one.

        Raises:
            ConflictError: `parent` is not the current revision, or the document exists
                and no parent was given: nothing was stored.
            InvalidDocIDError, InvalidBodyError, BodyTooLargeError: It may not be stored.
            BlobNotFoundError: The body refers to a blob that is not stored.
        """
        text = encode_body(body)
        return self._write(doc_id or _new_doc_id(), text, parent, deleted=False)

    def save_all(self, edits: Iterable[Edit]) -> tuple[Document | EdgeSyncError, ...]:
        """Store many changes at the price of one commit; each fails by itself.

        Returns:
            For each edit its document, or why it was not stored.
        """
        results: list[Document | EdgeSyncError | _Save] = [self._prepared(edit) for edit in edits]
        saves = [each for each in results if isinstance(each, _Save)]
        answers = iter(self._database.ask_all([save.call for save in saves]) if saves else ())
        return tuple(
            each.document(next(answers)) if isinstance(each, _Save) else each for each in results
        )

    def delete(self, doc_id: str, *, parent: str | None = None) -> Document:
        """Store a tombstone, which replicates like any revision.

        Args:
            doc_id: Of the document.
            parent: The revision to delete, as read before; None: whatever is current.

        Raises:
            NotFoundError: There is no such document.
            ConflictError: `parent` is not the current revision.
        """
        if parent is None:
            current = self.get(doc_id)
            parent = current.revision_id if current is not None else None
        return self._write(doc_id, b"{}", parent, deleted=True)

    def purge(self, doc_id: str) -> bool:
        """Forget a document and its history, here only; return whether there was one."""
        return self._database.ask(lambda call_id: PurgeDocument(call_id, self._path, doc_id), bool)

    def set_expiration(self, doc_id: str, at_s: float | None) -> bool:
        """Have a document purged at a time; return whether there is one.

        Args:
            doc_id: Of the document.
            at_s: Seconds since 1970, UTC; None: never.
        """
        return self._database.ask(
            lambda call_id: SetExpiration(call_id, self._path, doc_id, at_s), bool
        )

    def changes(self, since: int = 0) -> Iterator[Change]:
        """Yield the latest change of each document after a sequence, in order, to the end."""
        while True:
            page = self._read_changes(since)
            yield from page.changes
            if page.is_complete:
                return
            since = page.last_sequence

    def add_change_listener(
        self, listener: Callable[[tuple[Change, ...]], None]
    ) -> Callable[[], None]:
        """Have a function called with what changed, whoever changed it.

        Returns:
            A function that ends it.
        """
        return _ChangeListener(self, listener).stop

    def _read_changes(self, since: int) -> ChangesPage:
        return self._database.ask(
            lambda call_id: ReadChanges(call_id, self._path, since, PAGE, False, None), ChangesPage
        )

    def _write(self, doc_id: str, text: bytes, parent: str | None, *, deleted: bool) -> Document:
        save = self._checked(doc_id, text, parent, deleted)
        return save.stored(self._database.ask(save.call, Inserted))

    def _prepared(self, edit: Edit) -> _Save | EdgeSyncError:
        try:
            text = b"{}" if edit.deleted else encode_body(edit.body)
            return self._checked(edit.doc_id or _new_doc_id(), text, edit.parent, edit.deleted)
        except EdgeSyncError as error:
            return error

    def _checked(self, doc_id: str, text: bytes, parent: str | None, deleted: bool) -> _Save:
        check_doc_id(doc_id)
        body = parse_body(text, self._database._limits)
        parent_rev: RevID | None = parse_rev_id(parent) if parent else None
        blobs = tuple(blob.digest for blob in body.blobs)
        return _Save(self._path, doc_id, parent_rev, body.text, deleted, blobs)


class _Save(NamedTuple):
    """A change that may be stored."""

    collection: str
    doc_id: str
    parent: RevID | None
    text: bytes
    deleted: bool
    blobs: tuple[str, ...]

    def call(self, call_id: int) -> SaveRev:
        return SaveRev(call_id, *self)

    def document(self, answer: object) -> Document | EdgeSyncError:
        assert isinstance(answer, Inserted | EdgeSyncError)
        return answer if isinstance(answer, EdgeSyncError) else self.stored(answer)

    def stored(self, saved: Inserted) -> Document:
        value = MappingProxyType(orjson.loads(self.text))
        return Document(self.doc_id, saved.rev_id, saved.sequence, self.deleted, value)


class _ChangeListener:
    """Reads the changes feed on after commits, in a greenlet of its own."""

    def __init__(
        self, collection: Collection, listener: Callable[[tuple[Change, ...]], None]
    ) -> None:
        self._collection = collection
        self._listener = listener
        self._since = collection._read_changes(2**62).last_sequence
        self._latest = self._since
        self._is_running = False
        self._forget = collection.database.on_commit(self._committed)
        self._is_stopped = False

    def stop(self) -> None:
        """Call the listener no more."""
        self._is_stopped = True
        self._forget()

    def _committed(self, committed: Committed) -> None:
        self._latest = committed.sequences.get(self._collection.path, self._latest)
        if self._latest > self._since and not self._is_running:
            self._is_running = True
            gevent.spawn(self._tell)

    def _tell(self) -> None:
        try:
            while self._latest > self._since and not self._is_stopped:
                target = self._latest
                page = self._collection._read_changes(self._since)
                self._since = page.last_sequence if not page.is_complete else target
                if page.changes:
                    self._since = max(self._since, page.changes[-1].sequence)
                    self._listener(page.changes)
        except EdgeSyncError as error:
            log.warning("%s: changes can't be told: %s", self._collection, error)
        except Exception:  # the application's own code
            log.exception("%s: a change listener failed", self._collection)
        finally:
            self._is_running = False


class BlobReader(io.RawIOBase):
    """The content of a blob, read piece by piece."""

    def __init__(self, database: Database, digest: str, length: int) -> None:
        """Use `Database.get_blob`."""
        self._database = database
        self._digest = digest
        self._length = length
        self._offset = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go on reading elsewhere; return where that is from the beginning."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError("a blob has nothing before its beginning")
        self._offset = start + offset
        return self._offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; return the number of bytes, 0 at the end."""
        piece = self._database.ask(
            lambda call_id: ReadBlob(call_id, self._digest, self._offset, len(buffer)), BlobPiece
        )
        buffer[: len(piece.data)] = piece.data
        self._offset += len(piece.data)
        return len(piece.data)


def _document(stored: StoredRev) -> Document:
    return Document(
        stored.doc_id,
        stored.rev_id,
        stored.sequence,
        stored.deleted,
        MappingProxyType(orjson.loads(stored.body)),
    )


def _new_doc_id() -> str:
    """Return a random document ID. Spec: documents.md §7."""
    return "~" + base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
