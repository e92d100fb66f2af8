"""Write documents: insert a peer's revisions, save our own, purge, expire."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from edgesync.documents.rev_id import RevID, new_rev_id
from edgesync.documents.rev_tree import Rev, RevTree
from edgesync.documents.store_calls import (
    Inserted,
    InsertRev,
    InsertVersion,
    PurgeDocument,
    SaveRev,
    SetExpiration,
)
from edgesync.documents.version_vector import (
    CurrentVector,
    Order,
    compare_incoming,
    parse_vector,
    with_older,
)
from edgesync.errors import BlobNotFoundError, ConflictError, NotFoundError
from edgesync.limits import Limits
from edgesync.storage.catalog import Catalog
from edgesync.storage.changes import Sequences
from edgesync.storage.kept_bodies import KeptBodies
from edgesync.storage.versions import Versions, tree_id_for

PRUNING_SLACK: Final = 10
"""Revisions above the depth that are pruned together: loading a tree costs more than they do."""
EXPIRED_AT_A_TIME: Final = 100
NEVER: Final = float("-inf")
"""A time at which nothing has expired."""

_CURRENT: Final = """SELECT id, rev_id, sequence, parent, deleted, leaves, revisions, expires_at,
    vector, body_bytes FROM document WHERE collection = ? AND doc_id = ?"""
_ADD_DOCUMENT: Final = """INSERT INTO document (collection, doc_id, sequence, rev_id, parent,
    deleted, leaves, revisions, vector, body_bytes, body)
    VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, CAST(? AS TEXT))"""
_REPLACE_CURRENT: Final = """UPDATE document SET sequence = ?, rev_id = ?, parent = ?,
    deleted = ?, leaves = ?, revisions = ?, vector = ?, body_bytes = ?,
    body = CAST(? AS TEXT) WHERE id = ?"""
_KEEP_ANCESTOR: Final = """INSERT INTO revision
    SELECT id, rev_id, parent, deleted, vector, NULL FROM document WHERE id = ?"""
_KEEP_LEAF: Final = """INSERT INTO revision
    SELECT id, rev_id, parent, deleted, vector, body FROM document WHERE id = ?"""
_ADD_REVISION: Final = """INSERT INTO revision (document, rev_id, parent, deleted, vector, body)
    VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT))"""
_RESTORE_LEAF: Final = """UPDATE document SET (rev_id, parent, deleted, vector, body, body_bytes)
    = (SELECT rev_id, parent, deleted, vector, body, length(CAST(body AS BLOB))
       FROM revision WHERE document = ?1 AND rev_id = ?2) WHERE id = ?1"""
_COUNT_TREE: Final = "UPDATE document SET sequence = ?, leaves = ?, revisions = ? WHERE id = ?"
_DROP_REVISION: Final = "DELETE FROM revision WHERE document = ? AND rev_id = ?"
_DROP_BODY: Final = "UPDATE revision SET body = NULL WHERE document = ? AND rev_id = ?"


class _Current(NamedTuple):
    """A row of `document`, without the body."""

    id: int
    rev_id: RevID
    sequence: int
    parent: RevID | None
    deleted: int
    leaves: int
    revisions: int
    expires_at: float | None
    vector: str
    body_bytes: int


class _Placed(NamedTuple):
    """A revision on its way into the tree, with the vector it will have."""

    history: tuple[RevID, ...]  # newest first, with the revision itself
    vector: str
    body: bytes
    deleted: bool
    blobs: tuple[str, ...]


class Revisions:
    """The documents as the writer sees them.

    Each call checks everything before it writes anything, so that a refused one
    leaves the transaction as it was.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        catalog: Catalog,
        sequences: Sequences,
        versions: Versions,
        kept: KeptBodies,
        has_blob: Callable[[str], bool],
        limits: Limits,
    ) -> None:
        self._execute = connection.cursor().execute
        self._execute_many = connection.executemany
        self._catalog = catalog
        self._sequences = sequences
        self._versions = versions
        self._kept = kept
        self._has_blob = has_blob
        self._max_depth = limits.max_revs_depth

    def insert(self, call: InsertRev, now: float) -> Inserted:
        """Insert a peer's revision.

        Raises:
            ConflictError: It does not follow the current revision.
            BlobNotFoundError: A blob it refers to is not stored.
            CollectionNotFoundError: There is no such collection.

        Spec: documents.md §3.
        """
        current = self._find(call.collection, call.doc_id, now)
        if current is not None and current.rev_id == call.history[0]:
            return Inserted(current.rev_id, current.sequence, False)
        if call.closed_branch:
            current = self._close_branch(call, current)
        return self._place(call, current, call.history)

    def insert_version(self, call: InsertVersion, now: float) -> Inserted:
        """Insert a revision of a peer with version vectors.

        Raises:
            ConflictError: It does not contain the current revision.
            ClockBehindError: It is from the future.
            BlobNotFoundError: A blob it refers to is not stored.
            CollectionNotFoundError: There is no such collection.

        Spec: documents.md §9.4, §9.6.
        """
        current = self._find(call.collection, call.doc_id, now)
        vector = call.identity.vector
        assert vector is not None
        if current is not None:
            ours = CurrentVector(parse_vector(current.vector), current.rev_id, current.deleted == 1)
            match compare_incoming(call.identity, ours):
                case Order.SAME | Order.OLDER:
                    return Inserted(current.rev_id, current.sequence, False)
                case Order.CONFLICT:
                    raise ConflictError(call.doc_id, current.vector)
            if not vector.contains(ours.vector.current):
                vector = with_older(vector, ours.vector)
        self._versions.admit(call.doc_id, vector)
        legacy = call.identity.legacy
        parent = current.rev_id if current is not None else (legacy[0] if legacy else None)
        rev_id = tree_id_for(vector, parent)
        older = (parent,) if current is not None and parent is not None else legacy
        return self._place(call, current, (rev_id, *older), str(vector))

    def _find(self, collection: str, doc_id: str, now: float) -> _Current | None:
        return self._current(self._catalog.number(collection), doc_id, now)

    def _place(
        self,
        call: InsertRev | InsertVersion,
        current: _Current | None,
        history: tuple[RevID, ...],
        vector: str | None = None,
    ) -> Inserted:
        """Put a revision where it belongs; without a vector it gets one of ours."""
        if current is not None and (current.leaves > 1 or current.rev_id not in history):
            return self._graft(call, current, history, vector)
        self._require_blobs(call.blobs)
        if vector is None:
            vector = self._versions.next(current.vector if current is not None else None)
        placed = _Placed(history, vector, call.body, call.deleted, call.blobs)
        if current is None:
            return self._create(call, placed)
        return self._prolong(call, current, placed)

    def _close_branch(self, call: InsertRev, current: _Current | None) -> _Current | None:
        """End our branch with the client's tombstone: its own revision is on another one.

        Spec: replication.md §3.7.4.
        """
        if current is None or current.rev_id not in call.closed_branch[1:]:
            return current
        if not set(call.history).isdisjoint(call.closed_branch[:-1]):
            return current
        tombstone = call._replace(
            history=call.closed_branch, body=b"{}", deleted=True, blobs=(), closed_branch=()
        )
        self._require_blobs(call.blobs)
        self._place(tombstone, current, call.closed_branch)
        return self._current(self._catalog.number(call.collection), call.doc_id, NEVER)

    def save(self, call: SaveRev, now: float) -> Inserted:
        """Make a revision of our own.

        Raises:
            ConflictError: `parent` is not the current revision.
            NotFoundError: A document was to be deleted that is not there.
            BlobNotFoundError: A blob it refers to is not stored.
            CollectionNotFoundError: There is no such collection.
        """
        collection = self._catalog.number(call.collection)
        current = self._current(collection, call.doc_id, now)
        if current is not None and _is_repeated(call, current):
            return Inserted(current.rev_id, current.sequence, False)
        if call.deleted and (current is None or current.deleted):
            raise NotFoundError(f'there is no document "{call.doc_id}"')
        parent = call.parent
        if parent is None and current is not None and current.deleted:
            parent = current.rev_id
        if parent != (current.rev_id if current is not None else None):
            raise ConflictError(call.doc_id, current.rev_id if current is not None else "")
        rev_id = new_rev_id(parent, call.deleted, call.body)
        history = (rev_id, parent) if parent is not None else (rev_id,)
        return self.insert(
            InsertRev(
                call.call_id,
                call.collection,
                call.doc_id,
                history,
                call.body,
                call.deleted,
                call.blobs,
            ),
            now,
        )

    def _current(self, collection: int, doc_id: str, now: float) -> _Current | None:
        """Return a document's row; one that has expired is purged, and None."""
        row = self._execute(_CURRENT, (collection, doc_id)).fetchone()
        if row is None:
            return None
        current = _Current._make(row)
        if current.expires_at is not None and current.expires_at <= now:
            self._purge(current.id)
            return None
        return current

    def _require_blobs(self, digests: Sequence[str]) -> None:
        for digest in digests:
            if not self._has_blob(digest):
                raise BlobNotFoundError(digest)

    # --- the three ways a revision is placed ---------------------------------------

    def _create(self, call: InsertRev | InsertVersion, placed: _Placed) -> Inserted:
        """Store the first revision that comes of a document."""
        history = placed.history[: self._max_depth]
        parent = history[1] if len(history) > 1 else None
        sequence = self._sequences.take(call.collection)
        cursor = self._execute(
            _ADD_DOCUMENT,
            (
                self._catalog.number(call.collection),
                call.doc_id,
                sequence,
                history[0],
                parent,
                placed.deleted,
                len(history),
                placed.vector,
                len(placed.body),
                placed.body,
            ),
        )
        document = cursor.lastrowid
        assert document is not None
        if parent is not None:
            self._add_ancestors(document, history[1:], None)
        if placed.blobs:
            self._refer_to(document, placed.blobs)
        return Inserted(history[0], sequence, True)

    def _prolong(
        self, call: InsertRev | InsertVersion, current: _Current, placed: _Placed
    ) -> Inserted:
        """Put a revision on top of the current one, where all revisions are one chain."""
        added = placed.history[: placed.history.index(current.rev_id)]
        self._kept.keep(current.id, current.vector, current.body_bytes)
        self._execute(_KEEP_ANCESTOR, (current.id,))
        if len(added) > 1:
            self._add_ancestors(current.id, added[1:], current.rev_id)
        revisions = current.revisions + len(added)
        sequence = self._replace_current(call, current, placed, leaves=1, revisions=revisions)
        self._execute("DELETE FROM blob_reference WHERE document = ?", (current.id,))
        if placed.blobs:
            self._refer_to(current.id, placed.blobs)
        if revisions >= self._max_depth + PRUNING_SLACK:
            self._prune(current.id, call.doc_id, sequence)
        return Inserted(added[0], sequence, True)

    def _graft(
        self,
        call: InsertRev | InsertVersion,
        current: _Current,
        history: tuple[RevID, ...],
        vector: str | None,
    ) -> Inserted:
        """Let the whole tree decide about a revision: known, branch, or conflict."""
        tree = RevTree(call.doc_id, self._load(current.id))
        branches = isinstance(call, InsertRev) and bool(call.closed_branch)
        added = tree.insert(history, call.deleted, branches=branches)
        rev_id = history[0]
        if not added:
            return Inserted(rev_id, current.sequence, False)
        self._require_blobs(call.blobs)
        vector = vector or self._versions.next(current.vector)
        placed = _Placed(history, vector, call.body, call.deleted, call.blobs)
        leaves = tree.leaves
        winner = tree.winner
        assert winner is not None
        size = current.revisions + len(added)
        if winner.rev_id != current.rev_id:
            is_leaf = any(leaf.rev_id == current.rev_id for leaf in leaves)
            self._kept.keep(current.id, current.vector, current.body_bytes)
            self._execute(_KEEP_LEAF if is_leaf else _KEEP_ANCESTOR, (current.id,))
        self._add_ancestors(current.id, [rev.rev_id for rev in added[1:]], added[-1].parent)
        if added[-1].parent is not None:  # it may have been a leaf
            self._execute(_DROP_BODY, (current.id, added[-1].parent))
        if winner.rev_id == rev_id:
            sequence = self._replace_current(
                call, current, placed, leaves=len(leaves), revisions=size
            )
        else:
            row = (current.id, rev_id, added[0].parent, call.deleted, vector, call.body)
            self._execute(_ADD_REVISION, row)
            sequence = self._sequences.take(call.collection)
            self._execute(_COUNT_TREE, (sequence, len(leaves), size, current.id))
            if winner.rev_id != current.rev_id:
                self._execute(_RESTORE_LEAF, (current.id, winner.rev_id))
                self._execute(_DROP_REVISION, (current.id, winner.rev_id))
        self._refer_to(current.id, call.blobs)
        if size >= len(leaves) * self._max_depth + PRUNING_SLACK:
            self._prune(current.id, call.doc_id, sequence)
        return Inserted(rev_id, sequence, True)

    # --- pieces of these -------------------------------------------------------------

    def _replace_current(
        self,
        call: InsertRev | InsertVersion,
        current: _Current,
        placed: _Placed,
        *,
        leaves: int,
        revisions: int,
    ) -> int:
        sequence = self._sequences.take(call.collection)
        self._execute(
            _REPLACE_CURRENT,
            (
                sequence,
                placed.history[0],
                placed.history[1] if len(placed.history) > 1 else None,
                placed.deleted,
                leaves,
                revisions,
                placed.vector,
                len(placed.body),
                placed.body,
                current.id,
            ),
        )
        return sequence

    def _add_ancestors(
        self, document: int, rev_ids: Sequence[RevID], parent_of_last: RevID | None
    ) -> None:
        """Store revisions of which nothing is known but their place, newest first."""
        parents = (*rev_ids[1:], parent_of_last)
        self._execute_many(
            _ADD_REVISION,
            [
                (document, rev_id, parent, 0, None, None)
                for rev_id, parent in zip(rev_ids, parents, strict=False)
            ],
        )

    def _refer_to(self, document: int, digests: Sequence[str]) -> None:
        self._execute_many(
            "INSERT OR IGNORE INTO blob_reference VALUES (?, ?)",
            [(document, digest) for digest in digests],
        )

    def _load(self, document: int) -> list[Rev]:
        rows = self._execute(
            """SELECT rev_id, parent, deleted FROM document WHERE id = ?1
            UNION ALL SELECT rev_id, parent, deleted FROM revision WHERE document = ?1""",
            (document,),
        ).fetchall()
        return [Rev(rev_id, parent, deleted == 1) for rev_id, parent, deleted in rows]

    def _prune(self, document: int, doc_id: str, sequence: int) -> None:
        tree = RevTree(doc_id, self._load(document))
        dropped = tree.prune(self._max_depth)
        self._execute_many(_DROP_REVISION, [(document, rev_id) for rev_id in dropped])
        (size,) = self._execute(
            "SELECT count(*) + 1 FROM revision WHERE document = ?", (document,)
        ).fetchone()
        self._execute(_COUNT_TREE, (sequence, len(tree.leaves), size, document))

    # --- purge and expiry ---------------------------------------------------------------

    def purge(self, call: PurgeDocument, now: float) -> bool:
        """Forget a document and its history; return whether there was one.

        Spec: documents.md §4.
        """
        current = self._current(self._catalog.number(call.collection), call.doc_id, now)
        if current is None:
            return False
        self._purge(current.id)
        return True

    def _purge(self, document: int) -> None:
        self._execute("DELETE FROM revision WHERE document = ?", (document,))
        self._execute("DELETE FROM blob_reference WHERE document = ?", (document,))
        self._kept.forget(document)
        self._execute("DELETE FROM document WHERE id = ?", (document,))

    def set_expiration(self, call: SetExpiration, now: float) -> bool:
        """Set or clear when a document is to be purged; return whether it is there."""
        current = self._current(self._catalog.number(call.collection), call.doc_id, now)
        if current is None:
            return False
        self._execute("UPDATE document SET expires_at = ? WHERE id = ?", (call.at_s, current.id))
        return True

    def purge_expired(self, now: float) -> None:
        """Purge documents whose time has come, some at a time."""
        rows = self._execute(
            "SELECT id FROM document WHERE expires_at <= ? LIMIT ?", (now, EXPIRED_AT_A_TIME)
        ).fetchall()
        for (document,) in rows:
            self._purge(document)

    def next_expiry(self) -> float | None:
        """Return when the next document expires, in seconds since 1970; None: none does."""
        (at_s,) = self._execute(
            "SELECT min(expires_at) FROM document WHERE expires_at IS NOT NULL"
        ).fetchone()
        return None if at_s is None else float(at_s)


def _is_repeated(call: SaveRev, current: _Current) -> bool:
    """Tell whether the current revision is just what is to be saved, as after a lost answer."""
    if call.parent is not None and call.parent != current.parent:
        return False
    return new_rev_id(current.parent, call.deleted, call.body) == current.rev_id
