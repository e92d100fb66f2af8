"""Read documents beside the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import orjson

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    Checkpoint,
    CountDocuments,
    CurrentRev,
    DeltaBase,
    FindCurrentRevs,
    FindMissingBlobs,
    GetCheckpoint,
    ListCollections,
    ListDocuments,
    ReadBase,
    ReadChanges,
    ReadRev,
    StoreCall,
    StoredRev,
    StoreResult,
)
from edgesync.errors import CollectionNotFoundError
from edgesync.limits import KIB
from edgesync.storage.blobs import BlobFiles
from edgesync.storage.catalog import Catalog, find_collection
from edgesync.storage.changes import ChangesReader, Sequences
from edgesync.storage.kept_bodies import current_version, find_base
from edgesync.storage.local_docs import find_checkpoint

MANY: Final = 2
MAX_BYTES_AHEAD: Final = 16 * KIB
"""Of a document that is read together with others."""

_READ: Final = """SELECT id, doc_id, rev_id, sequence, deleted, parent, CAST(body AS BLOB), vector
    FROM document
    WHERE collection = ? AND doc_id = ? AND (expires_at IS NULL OR expires_at > ?)"""
# Many rows as one: each row that SQLite steps to gives Python's lock away, and getting it back
# from a busy hub takes longer than reading a document. Bodies are joined by NUL, which no JSON
# has. Large ones are read one by one, lest they be copied so often.
_READ_MANY: Final = """SELECT
    json_group_array(json_array(doc_id, rev_id, sequence, deleted, parent, vector,
        CASE WHEN parent IS NULL THEN NULL ELSE
            json((SELECT json_group_object(rev_id, parent) FROM revision
                  WHERE document = document.id))
        END)),
    CAST(group_concat(body, char(0)) AS BLOB)
    FROM document
    WHERE collection = ? AND doc_id IN (SELECT value FROM json_each(?))
        AND (expires_at IS NULL OR expires_at > ?) AND body_bytes <= ?"""
_LIST: Final = """SELECT id, doc_id, rev_id, sequence, deleted, parent, CAST(body AS BLOB), vector
    FROM document
    WHERE collection = ? AND doc_id > ? AND deleted = 0
        AND (expires_at IS NULL OR expires_at > ?)
    ORDER BY doc_id LIMIT ?"""
_CURRENT: Final = """SELECT json_group_array(json_array(doc_id, rev_id, deleted, vector))
    FROM document
    WHERE collection = ? AND doc_id IN (SELECT value FROM json_each(?))
        AND (expires_at IS NULL OR expires_at > ?)"""
# The first count needs the index alone, however large the documents are.
_COUNT: Final = """SELECT
    (SELECT count(*) FROM document INDEXED BY document_by_sequence
     WHERE collection = ?1 AND deleted = 0)
    - (SELECT count(*) FROM document INDEXED BY document_by_expiry
       WHERE expires_at <= ?2 AND collection = ?1 AND deleted = 0)"""

_Row = tuple[int, str, RevID, int, int, RevID | None, bytes, str]


class Reader:
    """The reading side of the database; used by one thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        catalog: Catalog,
        sequences: Sequences,
        blobs: BlobFiles,
        clock: Callable[[], float],
        note_checkpoint: Callable[[str], None],
    ) -> None:
        """Take a connection, and what the writer shares with readers.

        Args:
            connection: Of the reading thread.
            catalog: The collections.
            sequences: The counter of changes.
            blobs: The folder of blobs.
            clock: Returns seconds since 1970.
            note_checkpoint: Told the ID of each checkpoint that was read.
        """
        self._connection = connection
        self._documents = Documents(connection)
        self._changes = ChangesReader(connection, lambda: sequences.committed)
        self._catalog = catalog
        self._blobs = blobs
        self._clock = clock
        self._note_checkpoint = note_checkpoint

    def look_ahead(self, calls: Sequence[StoreCall]) -> None:
        """Read at once what calls will ask for, as far as that is possible."""
        doc_ids: dict[str, list[str]] = {}
        for call in calls:
            if isinstance(call, ReadRev) and not call.known:
                doc_ids.setdefault(call.collection, []).append(call.doc_id)
        self._documents.forget_ahead()
        for collection, wanted in doc_ids.items():
            # What fails here fails again when it is asked for, alone, and is told to who asks.
            with suppress(CollectionNotFoundError, sqlite3.Error, ValueError):
                number = find_collection(self._catalog.committed, collection)
                self._documents.read_ahead(number, wanted, self._clock())

    def answer(self, call: StoreCall) -> StoreResult:
        """Answer a question.

        Raises:
            CollectionNotFoundError: It is about a collection that is not there.
            sqlite3.Error: SQLite failed.
        """
        match call:
            case GetCheckpoint():
                return self._checkpoint(call.checkpoint_id)
            case FindMissingBlobs():
                return self._blobs.missing(call.digests)
            case ListCollections():
                return tuple(self._catalog.committed)
            case (
                ReadRev()
                | ReadBase()
                | FindCurrentRevs()
                | ReadChanges()
                | ListDocuments()
                | CountDocuments()
            ):
                return self._of_collection(call)
            case _:
                raise RuntimeError(f"{type(call).__name__} is no read")

    def _checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        found = find_checkpoint(self._connection, checkpoint_id)
        if found is not None:
            self._note_checkpoint(checkpoint_id)
        return found

    def _of_collection(
        self,
        call: ReadRev | ReadBase | FindCurrentRevs | ReadChanges | ListDocuments | CountDocuments,
    ) -> StoreResult:
        number = find_collection(self._catalog.committed, call.collection)
        now = self._clock()
        match call:
            case ReadRev():
                return self._documents.read(number, call, now)
            case ReadBase():
                return self._documents.base(number, call, now)
            case FindCurrentRevs():
                return self._documents.current_revs(number, call.doc_ids, now)
            case ReadChanges():
                return self._changes.read(call, number, now)
            case ListDocuments():
                return self._documents.page(number, call.after_doc_id, call.limit, now)
            case CountDocuments():
                return self._documents.count(number, now)


class Documents:
    """The documents as readers see them; what has expired is not there.

    Collections are given by their numbers, `now` in seconds since 1970.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._ahead: dict[tuple[int, str], StoredRev] = {}

    def read_ahead(self, collection: int, doc_ids: Sequence[str], now: float) -> None:
        """Read small documents that `read` will be asked for; they have no bases.

        Raises:
            sqlite3.Error, ValueError: A row is damaged; nothing was read.
        """
        if len(doc_ids) < MANY:
            return
        values = collection, orjson.dumps(doc_ids), now, MAX_BYTES_AHEAD
        text, joined = self._execute(_READ_MANY, values).fetchone()
        heads = orjson.loads(text)
        bodies = joined.split(b"\0") if joined is not None else []
        if len(heads) != len(bodies):
            raise ValueError("a body has a NUL")
        for head, body in zip(heads, bodies, strict=True):
            doc_id, rev_id, sequence, deleted, parent, vector, parents = head
            ancestors = _chain(parent, parents) if parents is not None else ()
            self._ahead[collection, doc_id] = StoredRev(
                doc_id, rev_id, sequence, deleted == 1, body, ancestors, vector, None
            )

    def forget_ahead(self) -> None:
        """Forget what was read and not asked for."""
        self._ahead.clear()

    def read(self, collection: int, call: ReadRev, now: float) -> StoredRev | None:
        """Return the current revision of a document with its ancestors, and a delta's base."""
        if not call.known and (ahead := self._ahead.pop((collection, call.doc_id), None)):
            return ahead
        row: _Row | None = self._execute(_READ, (collection, call.doc_id, now)).fetchone()
        if row is None:
            return None
        base = find_base(self._connection, row[0], call.known) if call.known else None
        return self._with_ancestors(row, base)

    def base(self, collection: int, call: ReadBase, now: float) -> DeltaBase | None:
        """Return the body of a live revision that a peer's delta is made against."""
        row: _Row | None = self._execute(_READ, (collection, call.doc_id, now)).fetchone()
        if row is None:
            return None
        document, _, rev_id, _, deleted, _, body, vector = row
        if call.rev in (rev_id, current_version(vector)):
            return DeltaBase(call.rev, body) if not deleted else None
        return find_base(self._connection, document, frozenset((call.rev,)))

    def page(
        self, collection: int, after_doc_id: str, limit: int, now: float
    ) -> tuple[StoredRev, ...]:
        """Return live documents by rising ID."""
        rows = self._execute(_LIST, (collection, after_doc_id, now, limit)).fetchall()
        return tuple(self._with_ancestors(row) for row in rows)

    def count(self, collection: int, now: float) -> int:
        """Return the number of live documents."""
        (number,) = self._execute(_COUNT, (collection, now)).fetchone()
        return int(number)

    def current_revs(
        self, collection: int, doc_ids: Sequence[str], now: float
    ) -> tuple[CurrentRev | None, ...]:
        """Return the current revision of each document, None where there is none."""
        (text,) = self._execute(_CURRENT, (collection, orjson.dumps(doc_ids), now)).fetchone()
        found = {
            doc_id: CurrentRev(rev_id, deleted == 1, vector)
            for doc_id, rev_id, deleted, vector in orjson.loads(text)
        }
        return tuple(map(found.get, doc_ids))

    def _with_ancestors(self, row: _Row, base: DeltaBase | None = None) -> StoredRev:
        document, doc_id, rev_id, sequence, deleted, parent, body, vector = row
        ancestors = self._ancestors(document, parent) if parent is not None else ()
        return StoredRev(doc_id, rev_id, sequence, deleted == 1, body, ancestors, vector, base)

    def _ancestors(self, document: int, parent: RevID | None) -> tuple[RevID, ...]:
        """Follow the parents as far as they are kept, newest first.

        A commit since the document was read may have added revisions, not
        changed the ones looked for.
        """
        rows = self._execute("SELECT rev_id, parent FROM revision WHERE document = ?", (document,))
        return _chain(parent, dict(rows.fetchall()))


def _chain(parent: RevID | None, parents: Mapping[RevID, RevID | None]) -> tuple[RevID, ...]:
    found: list[RevID] = []
    while parent is not None and parent in parents:
        found.append(parent)
        parent = parents[parent]
    return tuple(found)
