"""What a replicator or the public API asks of the store, and what comes back.

The shared words of `replication` and `storage`, which know nothing of each
other. A call carries the number that comes back in its `StoreDone`; the store
answers in any order. A failure comes back as a value: an `EdgeSyncError` in
place of the result. Collections are named by their path, `scope.name`.

The comment behind each call names the type of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from edgesync.documents.rev_id import RevID
from edgesync.documents.version_vector import RevIdentity
from edgesync.errors import EdgeSyncError

if TYPE_CHECKING:  # a name in a value; nothing here looks at files
    from pathlib import Path

DEFAULT_COLLECTION = "_default._default"

Progress = Callable[[int, int], None]
"""Told, on the thread that works, how much is done of how much."""


# --- results -----------------------------------------------------------------


class CurrentRev(NamedTuple):
    """The winner of a document's revision tree."""

    rev_id: RevID
    deleted: bool
    vector: str  # the same revision's version vector


class Change(NamedTuple):
    """An entry of the changes feed: the latest sequence of a document."""

    sequence: int
    doc_id: str
    rev_id: RevID
    deleted: bool
    body_bytes: int
    vector: str  # the same revision's version vector


class ChangesPage(NamedTuple):
    """A run of the changes feed, in rising sequence."""

    changes: tuple[Change, ...]
    last_sequence: int  # all up to here was looked at; where to go on
    is_complete: bool  # there was nothing beyond at that moment


class DeltaBase(NamedTuple):
    """A revision that a delta is made against, or to be applied to."""

    rev: str  # as it was asked for
    body: bytes


class StoredRev(NamedTuple):
    """The current revision of a document, whole."""

    doc_id: str
    rev_id: RevID
    sequence: int
    deleted: bool
    body: bytes  # JSON object in UTF-8
    ancestors: tuple[RevID, ...]  # newest first, without the revision itself
    vector: str  # the same revision's version vector
    base: DeltaBase | None  # the newest kept revision of those the peer has


class Inserted(NamedTuple):
    """A revision is durable."""

    rev_id: RevID
    sequence: int
    is_new: bool  # False: it was there already


class Checkpoint(NamedTuple):
    """A client's state, kept for it verbatim."""

    rev: str
    body: bytes


class BlobPiece(NamedTuple):
    """A part of a blob's content."""

    data: bytes
    is_last: bool


class StoreDone(NamedTuple):
    """The answer to the call of that number."""

    call_id: int
    result: StoreResult | EdgeSyncError


class Committed(NamedTuple):
    """A transaction is durable: the last sequence of each collection it changed."""

    sequences: Mapping[str, int]


# --- reads -------------------------------------------------------------------


class GetCheckpoint(NamedTuple):  # Checkpoint | None
    call_id: int
    checkpoint_id: str


class FindCurrentRevs(NamedTuple):  # tuple[CurrentRev | None, ...], parallel to doc_ids
    call_id: int
    collection: str
    doc_ids: tuple[str, ...]


class ReadChanges(NamedTuple):  # ChangesPage
    call_id: int
    collection: str
    since: int  # exclusive
    limit: int  # entries, at the most
    active_only: bool  # leave out tombstones
    doc_ids: frozenset[str] | None  # only these


class ReadRev(NamedTuple):  # StoredRev | None
    call_id: int
    collection: str
    doc_id: str
    known: frozenset[str] = frozenset()  # revisions the peer has, if it takes deltas


class ReadBase(NamedTuple):  # DeltaBase | None
    """Read the body of a live revision, the current or a kept one, for a delta."""

    call_id: int
    collection: str
    doc_id: str
    rev: str  # a tree ID or a version


class ProveBlob(NamedTuple):  # str | BlobNotFoundError
    """Compute what proves that somebody has a blob. Spec: replication.md §3.9."""

    call_id: int
    digest: str
    nonce: bytes


class FindMissingBlobs(NamedTuple):  # tuple[str, ...]: those of the digests the store lacks
    call_id: int
    digests: tuple[str, ...]


class ReadBlob(NamedTuple):  # BlobPiece | BlobNotFoundError
    call_id: int
    digest: str
    offset: int
    max_bytes: int


class ListDocuments(NamedTuple):  # tuple[StoredRev, ...]: live ones by rising ID
    call_id: int
    collection: str
    after_doc_id: str  # exclusive; empty: from the first
    limit: int  # entries, at the most


class CountDocuments(NamedTuple):  # int: live ones
    call_id: int
    collection: str


class ListCollections(NamedTuple):  # tuple[str, ...]: paths
    call_id: int


class BlobLength(NamedTuple):  # int | None: bytes; None: it is not stored
    call_id: int
    digest: str


# --- writes; answered when they are durable ------------------------------------


class InsertRev(NamedTuple):  # Inserted | ConflictError | BlobNotFoundError | ...
    """Insert a peer's revision, refusing conflicts. Spec: documents.md §3."""

    call_id: int
    collection: str
    doc_id: str
    history: tuple[RevID, ...]  # newest first, with the revision itself
    body: bytes
    deleted: bool
    blobs: tuple[str, ...]  # digests the body refers to; all must be stored
    closed_branch: tuple[RevID, ...] = ()  # a tombstone that ends our branch, and its history


class InsertVersion(NamedTuple):  # Inserted | ConflictError | BlobNotFoundError | ...
    """Insert a revision of a peer with version vectors. Spec: documents.md §9.4, §9.6."""

    call_id: int
    collection: str
    doc_id: str
    identity: RevIdentity  # with a vector
    body: bytes
    deleted: bool
    blobs: tuple[str, ...]


class SaveRev(NamedTuple):  # Inserted | ConflictError | ...
    """Make a revision of our own on top of `parent`, which must be current."""

    call_id: int
    collection: str
    doc_id: str
    parent: RevID | None  # None: there is no document, or a tombstone
    body: bytes
    deleted: bool
    blobs: tuple[str, ...]


class SetCheckpoint(NamedTuple):  # str, the new revision | CheckpointConflictError
    call_id: int
    checkpoint_id: str
    rev: str  # the stored revision; empty: none is stored
    body: bytes


class AppendBlob(NamedTuple):  # None
    """Write on to a blob that arrives, in order, into a sink of the caller's numbering."""

    call_id: int
    sink: int
    data: bytes


class FinishBlob(NamedTuple):  # None | BlobDigestError
    """Check the digest (and length), sync, and give the blob its name."""

    call_id: int
    sink: int
    digest: str
    length: int | None  # bytes, if the document says


class DropBlob(NamedTuple):  # None
    """Throw away what has come."""

    call_id: int
    sink: int


class PurgeDocument(NamedTuple):  # bool: whether there was one
    """Forget a document and its history. Spec: documents.md §4."""

    call_id: int
    collection: str
    doc_id: str


class SetExpiration(NamedTuple):  # bool: whether there is such a document
    """Have a document purged at a time. Spec: documents.md §4."""

    call_id: int
    collection: str
    doc_id: str
    at_s: float | None  # seconds since 1970, UTC; None: never


class CreateCollection(NamedTuple):  # None; it may be there already
    call_id: int
    collection: str


class DeleteCollection(NamedTuple):  # None | CollectionNotFoundError | InvalidNameError
    """Remove a collection with all its documents; the default one stays."""

    call_id: int
    collection: str


# --- upkeep ------------------------------------------------------------------


class TidyUp(NamedTuple):  # int: how many blobs were removed
    """Remove blobs that no document refers to any more, and checkpoints nobody uses."""

    call_id: int


class Backup(NamedTuple):  # None
    """Copy the database, as it is at one moment, into a new folder."""

    call_id: int
    target: Path
    share_blobs: bool = False  # link them: for a copy on the same file system, soon removed
    progress: Progress | None = None


class Verify(NamedTuple):  # tuple[str, ...]: what is damaged, in words
    call_id: int
    progress: Progress | None = None


class Compact(NamedTuple):  # None
    """Give unused room back to the file system; other writes wait meanwhile."""

    call_id: int


StoreCall = (
    GetCheckpoint
    | FindCurrentRevs
    | ReadChanges
    | ReadRev
    | FindMissingBlobs
    | ReadBlob
    | ReadBase
    | ProveBlob
    | InsertRev
    | InsertVersion
    | SaveRev
    | SetCheckpoint
    | AppendBlob
    | FinishBlob
    | DropBlob
    | ListDocuments
    | CountDocuments
    | ListCollections
    | BlobLength
    | PurgeDocument
    | SetExpiration
    | CreateCollection
    | DeleteCollection
    | TidyUp
    | Backup
    | Verify
    | Compact
)
StoreResult = (
    Checkpoint
    | tuple[CurrentRev | None, ...]
    | ChangesPage
    | StoredRev
    | DeltaBase
    | tuple[StoredRev, ...]
    | tuple[str, ...]
    | BlobPiece
    | Inserted
    | str
    | int
    | bool
    | None
)
