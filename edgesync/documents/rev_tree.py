"""The revision tree of one document. Spec: documents.md §2, §3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgesync.documents.rev_id import RevID, order
from edgesync.errors import ConflictError


class Rev(NamedTuple):
    """A revision as a node of the tree."""

    rev_id: RevID
    parent: RevID | None
    deleted: bool


class RevTree:
    """All revisions known of a document; at most one of its leaves is live.

    We refuse conflicts, so a tree is a chain, or a chain beside others that end
    in tombstones. The store keeps the current revision apart and asks for a tree
    only when the chain is not simply prolonged.
    """

    def __init__(self, doc_id: str, revs: Iterable[Rev] = ()) -> None:
        """Take the stored revisions; a parent that is not among them was pruned."""
        self._doc_id = doc_id
        self._revs = {rev.rev_id: rev for rev in revs}

    @property
    def leaves(self) -> list[Rev]:
        """The revisions without a child."""
        parents = {rev.parent for rev in self._revs.values()}
        return [rev for rev in self._revs.values() if rev.rev_id not in parents]

    @property
    def winner(self) -> Rev | None:
        """The current revision, None of an empty tree: live before deleted, then the higher ID.

        Spec: documents.md §2.
        """
        return max(self.leaves, key=lambda rev: (not rev.deleted, order(rev.rev_id)), default=None)

    def insert(
        self, history: Sequence[RevID], deleted: bool, *, branches: bool = False
    ) -> tuple[Rev, ...]:
        """Add a revision with the ancestors that are missing here.

        Args:
            history: The revision and its ancestors, newest first.
            deleted: Whether the revision is a tombstone.
            branches: Whether it may branch off anywhere, if all leaves are tombstones.

        Returns:
            What was added, newest first; nothing if the revision was known.

        Raises:
            ConflictError: It would leave more than one live leaf, or branch off
                below a leaf; nothing was added.

        Spec: documents.md §3.
        """
        known = self._first_known(history)
        if known == 0:
            return ()
        ancestor = history[known] if known < len(history) else None
        if not (branches and all(leaf.deleted for leaf in self.leaves)):
            self._refuse_conflict(ancestor, deleted)
        parents = (*history[1:known], ancestor)
        added = tuple(
            Rev(rev_id, parent, deleted and rev_id == history[0])
            for rev_id, parent in zip(history[:known], parents, strict=True)
        )
        self._revs.update((rev.rev_id, rev) for rev in added)
        return added

    def _first_known(self, history: Sequence[RevID]) -> int:
        return next(
            (place for place, rev_id in enumerate(history) if rev_id in self._revs), len(history)
        )

    def _refuse_conflict(self, ancestor: RevID | None, deleted: bool) -> None:
        leaves = self.leaves
        if ancestor is None:
            # A document may begin anew over tombstones (§3.3), over nothing else.
            fits = all(leaf.deleted for leaf in leaves)
        else:
            others = (leaf for leaf in leaves if leaf.rev_id != ancestor)
            fits = any(leaf.rev_id == ancestor for leaf in leaves) and (
                deleted or all(leaf.deleted for leaf in others)
            )
        if not fits:
            winner = self.winner
            raise ConflictError(self._doc_id, winner.rev_id if winner else "")

    def ancestors(self, rev_id: RevID) -> tuple[RevID, ...]:
        """Return the ancestors of a revision that are kept, newest first."""
        found: list[RevID] = []
        rev = self._revs.get(rev_id)
        while rev is not None and rev.parent is not None:
            rev = self._revs.get(rev.parent)
            if rev is not None:
                found.append(rev.rev_id)
        return tuple(found)

    def prune(self, max_depth: int) -> tuple[RevID, ...]:
        """Drop what is deeper below every leaf; return what was dropped.

        Args:
            max_depth: How many revisions of a branch stay, at least 1: its leaf does.

        Spec: documents.md §2.
        """
        kept: set[RevID] = set()
        for leaf in self.leaves:
            kept.add(leaf.rev_id)
            kept.update(self.ancestors(leaf.rev_id)[: max_depth - 1])
        dropped = tuple(rev_id for rev_id in self._revs if rev_id not in kept)
        for rev_id in dropped:
            del self._revs[rev_id]
        return dropped
