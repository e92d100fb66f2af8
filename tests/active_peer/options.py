"""What a synchronisation is to do, and what came of it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tests.active_peer.failures import DocumentFailure
from tests.active_peer.peer_database import (
    DEFAULT_COLLECTION,
    ConflictPolicy,
    KeepConflict,
    PeerCollection,
    RemoteState,
    ServerRev,
)
from tests.active_peer.revision import Revision, RevisionForm

VERSION_VECTORS = 4
"""The first protocol that speaks of them."""
OLD_MAX_HISTORY = 20
"""Of protocol 2. Spec: replication.md §9."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """What to do on a connection."""

    push: bool = True
    pull: bool = True
    continuous: bool = False
    """Go on until stopped."""
    collections: tuple[str, ...] = (DEFAULT_COLLECTION,)
    """Paths, `scope.name`."""
    use_collections: bool | None = None
    """Whether to begin with `getCollections`; None: as 3.1 to 3.3, unless it is the default
    collection alone. Spec: replication.md §1.1."""
    doc_ids: frozenset[str] | None = None
    """Only these documents."""
    conflicts: ConflictPolicy = KeepConflict.DEFAULT
    batch: int = 200
    """Entries of a `proposeChanges`, and what is asked for in `subChanges`."""
    protocols: tuple[int, ...] = ()
    """What to offer, best first; empty: what goes with the form of the database. The one
    agreed on decides about collections, and about what came with 3 and 4."""
    deltas: bool = True
    """Whether to take deltas, and to send them to a server that takes them."""

    def offered(self, form: RevisionForm) -> tuple[int, ...]:
        """Return the protocols to offer for a database."""
        return self.protocols or form.protocols

    def agreed(self, protocol: int) -> SyncOptions:
        """Return the options of a session that speaks a protocol."""
        return replace(self, protocols=(protocol,))

    @property
    def protocol(self) -> int:
        """The protocol that is spoken."""
        return self.protocols[0]

    @property
    def names_collections(self) -> bool:
        """Whether messages carry a collection."""
        if self.protocol >= VERSION_VECTORS:
            return True
        if self.use_collections is not None:
            return self.use_collections
        return self.collections != (DEFAULT_COLLECTION,)

    def checkpoint_id(self, identity: str, remote_id: str, collection: str) -> str:
        """Return the name of a checkpoint. Spec: replication.md §7.1."""
        parts: list[object] = [identity, remote_id]
        if collection != DEFAULT_COLLECTION:
            parts += (collection, self.push, self.pull)
        if self.doc_ids is not None:
            parts.append(sorted(self.doc_ids))
        make = hashlib.sha1 if collection == DEFAULT_COLLECTION else hashlib.sha256
        return "cp-" + base64.b64encode(make(json.dumps(parts).encode()).digest()).decode()


@dataclass(slots=True)
class Result:
    """What a synchronisation did; it grows while it runs."""

    pushed: int = 0
    """Revisions that the server took."""
    already_there: int = 0
    """Revisions that the server had before they were offered."""
    pulled: int = 0
    """Revisions that the server sent and that were stored."""
    conflicts: int = 0
    """Conflicts that were resolved."""
    bytes_pushed: int = 0
    """Bodies and deltas sent, before compression."""
    bytes_pulled: int = 0
    """Bodies and deltas that came."""
    deltas_pushed: int = 0
    deltas_pulled: int = 0
    push_errors: list[DocumentFailure] = field(default_factory=list)
    pull_errors: list[DocumentFailure] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What the server should not have done; a real client may hang or break on it."""
    protocol: str = ""
    """The subprotocol agreed on."""
    fingerprint: str = ""
    """SHA-256 of the server's certificate in hex, empty without TLS."""
    seconds: float = 0.0

    def failed_ids(self) -> set[str]:
        """Return the documents that could not be pushed or pulled."""
        return {failure.doc_id for failure in [*self.push_errors, *self.pull_errors]}


@dataclass(frozen=True, slots=True)
class CollectionLink:
    """A collection as this connection speaks of it."""

    collection: PeerCollection
    index: str | None
    server_revs: dict[str, ServerRev]
    """What the server is known to have, by document ID."""

    def properties(self, profile: str) -> dict[str, str]:
        """Return the first properties of a request about it."""
        if self.index is None:
            return {"Profile": profile}
        return {"Profile": profile, "collection": self.index}

    def server_rev(self, doc_id: str) -> str | None:
        """Return what the server is known to have of a document."""
        known = self.server_revs.get(doc_id)
        return known.rev_id if known is not None else None

    def note_server_rev(self, doc_id: str, revision: Revision, body: bytes | None) -> None:
        """Remember what the server has, unless it is known to have something newer.

        Args:
            doc_id: Of which document.
            revision: What it has.
            body: For deltas; None: it is not known here, or a tombstone.
        """
        known, rev_id = self.server_revs.get(doc_id), revision.rev_id
        if known is None or self.collection.form.is_later(revision, known.rev_id):
            if known is not None and body is None and known.rev_id == rev_id:
                return
            self.server_revs[doc_id] = ServerRev(rev_id, body)

    @property
    def wire_path(self) -> str:
        """Its name in `getCollections`. Spec: replication.md §3.1."""
        return self.collection.path.removeprefix("_default.")


def link_all(
    collections: Iterable[PeerCollection], state: RemoteState, *, named: bool
) -> list[CollectionLink]:
    """Return the collections with their places in `getCollections`."""
    return [
        CollectionLink(collection, str(place) if named else None, state.of(collection.path))
        for place, collection in enumerate(collections)
    ]
