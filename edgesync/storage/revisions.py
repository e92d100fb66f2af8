"""Decide what becomes of revisions: a peer's, our own, purged and expired ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from edgesync.documents.rev_id import RevID, new_rev_id
from edgesync.documents.rev_tree import RevTree
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
    VersionVector,
    compare_incoming,
    is_same_merge,
    parse_vector,
    with_older,
)
from edgesync.errors import (
    BlobNotFoundError,
    CollectionNotFoundError,
    ConflictError,
    NotFoundError,
)
from edgesync.limits import Limits
from edgesync.storage.blobs import BlobFiles
from edgesync.storage.catalog import Catalog
from edgesync.storage.changes import Sequences
from edgesync.storage.document_rows import CurrentRow, DocumentRows, PlacedRev
from edgesync.storage.kept_bodies import KeptBodies
from edgesync.storage.versions import Versions, tree_id_for

PRUNING_SLACK: Final = 10
"""Revisions above the depth that are pruned together: loading a tree costs more than they do."""
EXPIRED_AT_A_TIME: Final = 100
NEVER: Final = float("-inf")
"""A time at which nothing has expired."""

_Insert = InsertRev | InsertVersion


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
        blobs: BlobFiles,
        limits: Limits,
    ) -> None:
        """Take the writer's connection, and what else a revision changes."""
        self._rows = DocumentRows(connection, blobs)
        self._catalog = catalog
        self._sequences = sequences
        self._versions = versions
        self._kept = kept
        self._blobs = blobs
        self._max_depth = limits.max_revs_depth

    # --- many at once ------------------------------------------------------------------

    def look_ahead(self, calls: Iterable[_Insert]) -> None:
        """Prepare for a run of insertions, after which comes `finish_run`."""
        doc_ids: dict[str, list[str]] = {}
        for call in calls:
            doc_ids.setdefault(call.collection, []).append(call.doc_id)
        for collection, wanted in doc_ids.items():
            with suppress(CollectionNotFoundError):  # each of them is told so
                self._rows.look_ahead(self._catalog.number(collection), wanted)

    def finish_run(self) -> None:
        """Write what a run of insertions has left to be written at once."""
        self._rows.add_waiting()

    def roll_back(self) -> None:
        """Forget a run that failed."""
        self._rows.roll_back()

    # --- a peer's revisions ----------------------------------------------------------

    def insert(self, call: InsertRev, now: float) -> Inserted:
        """Insert a peer's revision.

        Raises:
            ConflictError: It does not follow the current revision.
            BlobNotFoundError: A blob it refers to is not stored.
            CollectionNotFoundError: There is no such collection.

        Spec: documents.md §3.
        """
        current = self._find(call.collection, call.doc_id, now)
        if current is not None:
            if current.rev_id == call.history[0]:
                return Inserted(current.rev_id, current.sequence, False)
            if call.closed_branch and self._is_switch(call, current):
                return self._switch_branch(call, current)
        return self._place(call, current, call.history)

    def _is_switch(self, call: InsertRev, current: CurrentRow) -> bool:
        """Tell whether a client has ended our branch, and goes on with one of another remote.

        Tries both steps on a tree aside, as the first must not be written if the second
        is refused.

        Raises:
            ConflictError: Our branch would stay alive.

        Spec: replication.md §3.7.4.
        """
        if current.rev_id not in call.closed_branch or current.rev_id in call.history:
            return False
        tree = RevTree(call.doc_id, self._rows.tree(current.id))
        tree.insert(call.closed_branch, True)
        return bool(tree.insert(call.history, call.deleted, branches=True))

    def _switch_branch(self, call: InsertRev, current: CurrentRow) -> Inserted:
        self._require_blobs(call.blobs)
        tombstone = call._replace(history=call.closed_branch, body=b"{}", deleted=True, blobs=())
        if current.rev_id != tombstone.history[0]:
            self._place(tombstone, current, tombstone.history)
        closed = self._find(call.collection, call.doc_id, NEVER)
        assert closed is not None
        return self._graft(call, closed, call.history, branches=True)

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
        older = call.identity.legacy
        unseen: VersionVector | None = None
        if current is not None:
            ours = parse_vector(current.vector)
            if not self._is_newer(call, vector, current, ours):
                return Inserted(current.rev_id, current.sequence, False)
            if not vector.contains(ours.current):
                unseen = ours
            older = (current.rev_id,)
        self._versions.admit(call.doc_id, vector)
        rev_id = tree_id_for(vector, older[0] if older else None)
        text = str(vector)
        if unseen is not None:
            # The client accepts a revision it never saw, and that may be on its way to it. If
            # both then called the outcome by versions they know, they could differ and not
            # notice; a version of ours in front is news to the client, too.
            text = self._versions.next(str(with_older(vector, unseen)))
        return self._place(call, current, (rev_id, *older), text)

    def _is_newer(
        self, call: InsertVersion, vector: VersionVector, current: CurrentRow, ours: VersionVector
    ) -> bool:
        """Tell whether a version replaces the current revision; False: there is nothing to do.

        Raises:
            ConflictError: Neither contains the other.

        Spec: documents.md §9.4.
        """
        place = CurrentVector(ours, current.rev_id, current.deleted == 1)
        order = compare_incoming(call.identity, place)
        if order is not Order.CONFLICT:
            return order is Order.NEWER
        # Two clients that resolved a conflict alike have made the same revision.
        if (
            is_same_merge(vector, ours)
            and call.deleted == current.deleted
            and call.body == self._rows.body(current.id)
        ):
            return False
        raise ConflictError(call.doc_id, current.vector)

    # --- our own -----------------------------------------------------------------------

    def save(self, call: SaveRev, now: float) -> Inserted:
        """Make a revision of our own.

        Raises:
            ConflictError: `parent` is not the current revision.
            NotFoundError: A document was to be deleted that is not there.
            BlobNotFoundError: A blob it refers to is not stored.
            CollectionNotFoundError: There is no such collection.
        """
        current = self._find(call.collection, call.doc_id, now)
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
        made = InsertRev(
            call.call_id,
            call.collection,
            call.doc_id,
            history,
            call.body,
            call.deleted,
            call.blobs,
        )
        return self._place(made, current, history)

    # --- the three ways a revision is placed ---------------------------------------

    def _find(self, collection: str, doc_id: str, now: float) -> CurrentRow | None:
        """Return a document's row; one that has expired is purged, and None."""
        current = self._rows.find(self._catalog.number(collection), doc_id)
        if current is None:
            return None
        if current.expires_at is not None and current.expires_at <= now:
            self._purge(current.id)
            return None
        return current

    def _require_blobs(self, digests: Sequence[str]) -> None:
        for digest in digests:
            if not self._blobs.has(digest):
                raise BlobNotFoundError(digest)

    def _place(
        self,
        call: _Insert,
        current: CurrentRow | None,
        history: tuple[RevID, ...],
        vector: str | None = None,
    ) -> Inserted:
        """Put a revision where it belongs; without a vector it gets one of ours."""
        if current is not None and (current.leaves > 1 or current.rev_id not in history):
            return self._graft(call, current, history, vector)
        self._require_blobs(call.blobs)
        if vector is None:
            vector = self._versions.next(current.vector if current is not None else None)
        rev = PlacedRev(history, vector, call.body, call.deleted, call.blobs)
        if current is None:
            return self._create(call, rev)
        return self._prolong(call, current, rev)

    def _create(self, call: _Insert, rev: PlacedRev) -> Inserted:
        """Store the first revision that comes of a document."""
        if len(rev.history) > self._max_depth:
            rev = rev._replace(history=rev.history[: self._max_depth])
        sequence = self._sequences.take(call.collection)
        self._rows.add(self._catalog.number(call.collection), call.doc_id, sequence, rev)
        return Inserted(rev.history[0], sequence, True)

    def _prolong(self, call: _Insert, current: CurrentRow, rev: PlacedRev) -> Inserted:
        """Put a revision on top of the current one, where all revisions are one chain."""
        rows, document = self._rows, current.id
        added = rev.history[: rev.history.index(current.rev_id)]
        self._set_aside(current, is_leaf=False)
        if len(added) > 1:
            rows.add_ancestors(document, added[1:], current.rev_id)
        revisions = current.revisions + len(added)
        sequence = self._sequences.take(call.collection)
        rows.replace_current(document, sequence, rev, 1, revisions)
        rows.let_go_of_blobs(document)
        if rev.blobs:
            rows.refer_to(document, rev.blobs)
        if revisions >= self._max_depth + PRUNING_SLACK:
            self._prune(document, call.doc_id, sequence)
        return Inserted(added[0], sequence, True)

    def _graft(
        self,
        call: _Insert,
        current: CurrentRow,
        history: tuple[RevID, ...],
        vector: str | None = None,
        *,
        branches: bool = False,
    ) -> Inserted:
        """Let the whole tree decide about a revision: known, branch, or conflict."""
        rows, document = self._rows, current.id
        tree = RevTree(call.doc_id, rows.tree(document))
        added = tree.insert(history, call.deleted, branches=branches)
        if not added:
            return Inserted(history[0], current.sequence, False)
        self._require_blobs(call.blobs)
        vector = vector or self._versions.next(current.vector)
        rev = PlacedRev(history, vector, call.body, call.deleted, call.blobs)
        leaves, winner = tree.leaves, tree.winner
        assert winner is not None
        size = current.revisions + len(added)
        if winner.rev_id != current.rev_id:
            self._set_aside(current, any(leaf.rev_id == current.rev_id for leaf in leaves))
        rows.add_ancestors(document, history[1 : len(added)], added[-1].parent)
        sequence = self._sequences.take(call.collection)
        if winner.rev_id == history[0]:
            rows.replace_current(document, sequence, rev, len(leaves), size)
        else:
            rows.add_leaf(document, rev)
            rows.count_tree(document, sequence, len(leaves), size)
            if winner.rev_id != current.rev_id:
                # An old tombstone, as the live branch was deleted. It gets the vector of
                # that edit: by its own, clients would take it for older than what they have.
                rows.restore(document, winner.rev_id, vector)
        rows.refer_anew(document)
        if size >= len(leaves) * self._max_depth + PRUNING_SLACK:
            self._prune(document, call.doc_id, sequence)
        return Inserted(history[0], sequence, True)

    def _set_aside(self, current: CurrentRow, is_leaf: bool) -> None:
        self._kept.keep(current.id, current.vector, current.body_bytes)
        self._rows.set_aside(current.id, is_leaf)

    def _prune(self, document: int, doc_id: str, sequence: int) -> None:
        revs = self._rows.tree(document)
        tree = RevTree(doc_id, revs)
        dropped = tree.prune(self._max_depth)
        self._rows.drop_revisions(document, dropped)
        self._rows.count_tree(document, sequence, len(tree.leaves), len(revs) - len(dropped))

    # --- purge and expiry ---------------------------------------------------------------

    def purge(self, call: PurgeDocument, now: float) -> bool:
        """Forget a document and its history; return whether there was one.

        Spec: documents.md §4.
        """
        current = self._find(call.collection, call.doc_id, now)
        if current is None:
            return False
        self._purge(current.id)
        return True

    def _purge(self, document: int) -> None:
        self._kept.forget(document)
        self._rows.remove(document)

    def set_expiration(self, call: SetExpiration, now: float) -> bool:
        """Set or clear when a document is to be purged; return whether it is there."""
        current = self._find(call.collection, call.doc_id, now)
        if current is None:
            return False
        self._rows.set_expiration(current.id, call.at_s)
        return True

    def purge_expired(self, now: float) -> None:
        """Purge documents whose time has come, some at a time."""
        for document in self._rows.expired(now, EXPIRED_AT_A_TIME):
            self._purge(document)

    def next_expiry(self) -> float | None:
        """Return when the next document expires, in seconds since 1970; None: none does."""
        return self._rows.next_expiry()


def _is_repeated(call: SaveRev, current: CurrentRow) -> bool:
    """Tell whether the current revision is just what is to be saved, as after a lost answer."""
    if call.parent is not None and call.parent != current.parent:
        return False
    return new_rev_id(current.parent, call.deleted, call.body) == current.rev_id
