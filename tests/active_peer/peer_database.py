"""Documents of a peer, in memory: what an application saves and a replicator moves."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple

from tests.active_peer.peer_blobs import PeerBlobs, blob_properties, find_blobs
from tests.active_peer.progress import Checkpoint
from tests.active_peer.revision import Revision, RevisionForm
from tests.active_peer.tree_revisions import TreeRevisions
from tests.active_peer.vector_revisions import VectorRevisions

DEFAULT_COLLECTION: Final = "_default._default"
Body = dict[str, object]


class KeepConflict(Enum):
    """Whose revision survives a conflict."""

    DEFAULT = auto()  # a deletion, else the higher tree ID or the later version
    LOCAL = auto()
    REMOTE = auto()


MergeConflict = Callable[[str, Body | None, Body | None], Body | KeepConflict | None]
"""(document ID, our body, the server's body) -> the body to keep, or whose; None: deleted."""
ConflictPolicy = KeepConflict | MergeConflict


class Taken(Enum):
    """What became of a pulled revision."""

    STORED = auto()
    KNOWN = auto()
    RESOLVED = auto()  # a conflict is settled


@dataclass(frozen=True, slots=True)
class PeerDocument:
    """A document's current revision."""

    doc_id: str
    sequence: int
    revision: Revision
    deleted: bool
    body: bytes

    @property
    def rev_id(self) -> str:
        """What it is called: a tree ID or a version."""
        return self.revision.rev_id


class ServerRev(NamedTuple):
    """What the server is known to have of a document."""

    rev_id: str
    body: bytes | None = None  # to make and apply deltas with; None: a tombstone, or not known


@dataclass(slots=True)
class RemoteState:
    """What a database knows about one server."""

    revs: dict[str, dict[str, ServerRev]] = field(default_factory=dict)
    """Collection and document ID to the revision that the server is known to have."""
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    """By checkpoint ID."""

    def of(self, collection: str) -> dict[str, ServerRev]:
        """Return the known revisions of a collection."""
        return self.revs.setdefault(collection, {})


class PeerCollection:
    """The documents of one collection; made by `PeerDatabase.collection`."""

    def __init__(self, path: str, changed: Callable[[], None], form: RevisionForm) -> None:
        self.path = path
        self.form = form
        self._changed = changed
        self._documents: dict[str, PeerDocument] = {}
        self._log: list[str] = []  # the document of each sequence, from 1

    # --- for an application ---------------------------------------------------------

    def save(self, doc_id: str, body: Mapping[str, object]) -> str:
        """Make a new revision; return its ID."""
        return self._edit(doc_id, encode_body(body), deleted=False)

    def delete(self, doc_id: str) -> str:
        """Make a tombstone; return its ID.

        Raises:
            KeyError: There is no such document.
        """
        if self._documents[doc_id].deleted:
            raise KeyError(doc_id)
        return self._edit(doc_id, b"{}", deleted=True)

    def get(self, doc_id: str) -> Body | None:
        """Return the body, None if there is no such document or it is deleted."""
        document = self._documents.get(doc_id)
        return None if document is None or document.deleted else decode_body(document.body)

    def document(self, doc_id: str) -> PeerDocument | None:
        """Return the current revision, tombstones too."""
        return self._documents.get(doc_id)

    def documents(self) -> Iterator[PeerDocument]:
        """Yield all current revisions, tombstones too, by document ID."""
        yield from (self._documents[doc_id] for doc_id in sorted(self._documents))

    def ids(self) -> list[str]:
        """List the documents that are not deleted."""
        return [document.doc_id for document in self.documents() if not document.deleted]

    def purge(self, doc_id: str) -> None:
        """Forget a document and its history."""
        del self._documents[doc_id]

    def digest(self, *, revisions: bool = False) -> str:
        """Return a hash over the live documents.

        Args:
            revisions: Whether revision IDs and tombstones count too.
        """
        sha256 = hashlib.sha256()
        for document in self.documents():
            if document.deleted and not revisions:
                continue
            line: list[object] = [document.doc_id, decode_body(document.body)]
            if revisions:
                line += (document.rev_id, document.deleted)
            sha256.update(json.dumps(line, sort_keys=True).encode() + b"\n")
        return sha256.hexdigest()

    def __len__(self) -> int:
        return sum(not document.deleted for document in self._documents.values())

    # --- for a replicator -----------------------------------------------------------

    @property
    def last_sequence(self) -> int:
        """The sequence of the latest change, 0 if there was none."""
        return len(self._log)

    @property
    def is_empty(self) -> bool:
        """Whether there are not even tombstones."""
        return not self._documents

    def store(self, doc_id: str, revision: Revision, body: bytes, *, deleted: bool) -> None:
        """Replace the current revision."""
        self._log.append(doc_id)
        kept = replace(revision, older=revision.older[: self.form.max_history - 1])
        self._documents[doc_id] = PeerDocument(doc_id, len(self._log), kept, deleted, body)
        self._changed()

    def _edit(self, doc_id: str, body: bytes, *, deleted: bool) -> str:
        document = self._documents.get(doc_id)
        parent = document.revision if document is not None else None
        revision = self.form.new(parent, deleted, body)
        self.store(doc_id, revision, body, deleted=deleted)
        return revision.rev_id

    def changes_since(self, sequence: int) -> Iterator[PeerDocument]:
        """Yield current revisions in the order of their sequences."""
        log, documents = self._log, self._documents
        while sequence < len(log):
            document = documents.get(log[sequence])
            sequence += 1
            if document is not None and document.sequence == sequence:
                yield document

    def take(
        self,
        doc_id: str,
        revision: Revision,
        body: bytes,
        *,
        deleted: bool,
        server_rev: str | None,
        policy: ConflictPolicy,
    ) -> Taken:
        """Store a revision of the server.

        Args:
            doc_id: Of which document.
            revision: What it is.
            body: The JSON object.
            deleted: Whether it is a tombstone.
            server_rev: What the server was known to have so far.
            policy: What to do if ours does not go into this one.

        Spec: replication.md §3.6, "Client on 409"; documents.md §9.3.
        """
        form, document = self.form, self._documents.get(doc_id)
        if document is None:
            self.store(doc_id, revision, body, deleted=deleted)
            return Taken.STORED
        ours = document.revision
        if form.has(ours, revision):
            return Taken.KNOWN
        whole = form.join(revision, ours)
        is_unchanged = document.rev_id == server_rev and form.trusts_server(ours)
        if form.replaces(revision, ours) or is_unchanged:
            self.store(doc_id, whole, body, deleted=deleted)
            return Taken.STORED
        self._resolve(document, PeerDocument(doc_id, 0, whole, deleted, body), policy)
        return Taken.RESOLVED

    def _resolve(self, ours: PeerDocument, theirs: PeerDocument, policy: ConflictPolicy) -> None:
        form, both = self.form, (ours.revision, theirs.revision)
        if isinstance(policy, KeepConflict):
            decision: Body | KeepConflict | None = policy
        else:
            decision = policy(ours.doc_id, _live_body(ours), _live_body(theirs))
        if not isinstance(decision, KeepConflict):
            deleted, body = decision is None, encode_body(decision or {})
            self.store(ours.doc_id, form.merge(*both, deleted, body), body, deleted=deleted)
        elif (ours.deleted and theirs.deleted) or not self._keeps_ours(ours, theirs, decision):
            kept = form.keep_theirs(*both)
            self.store(ours.doc_id, kept, theirs.body, deleted=theirs.deleted)
        else:
            kept = form.keep_ours(*both, ours.deleted, ours.body)
            self.store(ours.doc_id, kept, ours.body, deleted=ours.deleted)

    def _keeps_ours(self, ours: PeerDocument, theirs: PeerDocument, keep: KeepConflict) -> bool:
        if keep is not KeepConflict.DEFAULT:
            return keep is KeepConflict.LOCAL
        if ours.deleted != theirs.deleted:
            return ours.deleted
        return self.form.wins(ours.revision, theirs.revision)

    def restore(self, documents: list[PeerDocument]) -> None:
        """Take over documents with their sequences, as a saved state has them."""
        self._documents = {document.doc_id: document for document in documents}
        self._log = [""] * max((document.sequence for document in documents), default=0)
        for document in documents:
            self._log[document.sequence - 1] = document.doc_id


class PeerDatabase:
    """Collections, blobs, and what is known of servers.

    A replicator holds `lock` while it works; an application that edits beside it
    calls `save` and `delete` here, which take it.
    """

    def __init__(
        self,
        blob_folder: Path | None = None,
        *,
        identity: str = "",
        versions: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Make an empty database.

        Args:
            blob_folder: Where blobs become files; in memory if None.
            identity: What tells it from other databases; random if empty.
            versions: Whether it has version vectors, as from 4.0 on.
            clock: Returns nanoseconds since 1970, for versions.
        """
        self._clock = clock
        self.identity = identity or str(uuid.uuid4())
        self.blobs = PeerBlobs(blob_folder)
        self.form: RevisionForm = TreeRevisions()
        self.lock = threading.RLock()
        self.remotes: dict[str, RemoteState] = {}
        self._collections: dict[str, PeerCollection] = {}
        self._listeners: list[Callable[[], None]] = []
        if versions:
            self.upgrade()

    def upgrade(self) -> None:
        """Go over to version vectors; documents keep their tree IDs until they are edited.

        Spec: documents.md §9.5.
        """
        self.form = VectorRevisions(self.identity, self._clock)
        for collection in self._collections.values():
            collection.form = self.form

    @property
    def default_collection(self) -> PeerCollection:
        """The collection `_default._default`."""
        return self.collection()

    @property
    def collections(self) -> list[PeerCollection]:
        """All that were ever asked for."""
        return list(self._collections.values())

    def collection(self, path: str = DEFAULT_COLLECTION) -> PeerCollection:
        """Return a collection by `scope.name` or `name`, made if it is missing."""
        full = path if "." in path else f"_default.{path}"
        if full not in self._collections:
            self._collections[full] = PeerCollection(full, self._changed, self.form)
        return self._collections[full]

    def remote(self, remote_id: str) -> RemoteState:
        """Return what is known of a server."""
        return self.remotes.setdefault(remote_id, RemoteState())

    def save(
        self, doc_id: str, body: Mapping[str, object], collection: str = DEFAULT_COLLECTION
    ) -> str:
        """Make a new revision of a document; return its ID."""
        with self.lock:
            return self.collection(collection).save(doc_id, body)

    def delete(self, doc_id: str, collection: str = DEFAULT_COLLECTION) -> str:
        """Make a tombstone of a document; return its ID."""
        with self.lock:
            return self.collection(collection).delete(doc_id)

    def get(self, doc_id: str, collection: str = DEFAULT_COLLECTION) -> Body | None:
        """Return a body, None if there is no such document or it is deleted."""
        with self.lock:
            return self.collection(collection).get(doc_id)

    def digest(self, collection: str = DEFAULT_COLLECTION, *, revisions: bool = False) -> str:
        """Return a hash over the live documents, to compare two databases by."""
        with self.lock:
            return self.collection(collection).digest(revisions=revisions)

    def save_blob(
        self, source: bytes | Path, content_type: str = "application/octet-stream"
    ) -> dict[str, object]:
        """Store a blob; return what a document holds in its place."""
        digest, length = self.blobs.add(source)
        return blob_properties(digest, length, content_type)

    def missing_blobs(self, collection: str = DEFAULT_COLLECTION) -> list[str]:
        """List the digests that live documents name and that are not here."""
        with self.lock:
            return [
                blob.digest
                for document in self.collection(collection).documents()
                for blob in find_blobs(document.body)
                if blob.digest not in self.blobs
            ]

    def add_change_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function after each change; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def encode_body(body: Mapping[str, object]) -> bytes:
    """Return a body as canonical JSON."""
    text = json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def decode_body(body: bytes) -> Body:
    """Read a body.

    Raises:
        ValueError: It is no JSON object.
    """
    root = json.loads(body)
    if not isinstance(root, dict):
        raise ValueError("a document's body is not a JSON object")
    return root


def _live_body(document: PeerDocument) -> Body | None:
    return None if document.deleted else decode_body(document.body)
