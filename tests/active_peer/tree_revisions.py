"""The form of revisions in protocol 2 and 3: tree IDs and their ancestors."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from tests.active_peer.revision import Revision

MAX_KNOWN_ANCESTORS: Final = 10
_SYNTAX: Final = re.compile(r"([1-9][0-9]{0,9})-(?:[0-9a-f]{2})+", re.ASCII)


class TreeRevisions:
    """What a peer up to 3.4 knows about revisions.

    Spec: documents.md §1, §3; replication.md §3.7.3.
    """

    versioning = "rev-trees"
    protocols: tuple[int, ...] = (3,)
    max_history = 50

    def new(self, parent: Revision | None, deleted: bool, body: bytes) -> Revision:
        """Make a revision on top of another; equal content makes equal IDs."""
        name = parent.rev_id.encode() if parent is not None else b""
        digest = hashlib.sha1(bytes([len(name)]) + name + bytes([deleted]) + body)
        generation = _generation(parent.rev_id) + 1 if parent is not None else 1
        return Revision(
            f"{generation}-{digest.hexdigest()}", parent.chain if parent is not None else ()
        )

    def parse(self, rev: str, history: str) -> Revision:
        """Read the properties `rev` and `history`.

        Raises:
            ValueError: An ID is malformed, or the generations do not descend.
        """
        chain = (rev, *(text.strip() for text in history.split(","))) if history else (rev,)
        for rev_id in chain:
            if not _SYNTAX.fullmatch(rev_id):
                raise ValueError(f'"{rev_id}" is not a tree revision ID')
        generations = [_generation(rev_id) for rev_id in chain]
        if generations != sorted(set(generations), reverse=True):
            raise ValueError(f"the history of {rev} does not descend")
        return Revision(rev, chain[1:])

    def parse_offer(self, text: str) -> Revision:
        """Read an entry of `changes`."""
        return self.parse(text, "")

    def proposal(self, revision: Revision) -> str:
        """Return its ID."""
        return revision.rev_id

    def history(self, revision: Revision, known: str | None, max_history: int) -> str:
        """Write the property `history`, down to the revision that the other side has.

        If that one lies deeper than is wanted or kept here, it takes the last place. It is
        none of the ancestors if the server has gone another way meanwhile.
        """
        ancestors = revision.older
        if known in ancestors:
            ancestors = ancestors[: ancestors.index(known)]
        elif known is None or not ancestors or _generation(known) >= _generation(ancestors[-1]):
            return ",".join(ancestors[: max_history - 1])
        return ",".join((*ancestors[: max_history - 2], known))

    def listed(self, kept: tuple[str, ...], offer: Revision) -> list[str]:
        """Name what can be an ancestor, at most ten. Spec: replication.md §3.5."""
        generation = _generation(offer.rev_id)
        older = [rev_id for rev_id in kept if _generation(rev_id) < generation]
        return older[:MAX_KNOWN_ANCESTORS]

    def has(self, ours: Revision, theirs: Revision) -> bool:
        """Whether theirs is in our history."""
        return theirs.rev_id in ours.chain

    def replaces(self, theirs: Revision, ours: Revision) -> bool:
        """Whether ours is in their history."""
        return ours.rev_id in theirs.chain

    def is_later(self, revision: Revision, known: str) -> bool:
        """Whether it has the higher ID; a history may be cut off."""
        return _order(known) < _order(revision.rev_id)

    def trusts_server(self, ours: Revision) -> bool:
        """Whether it does not matter where theirs comes from: always."""
        return True

    def join(self, newer: Revision, older: Revision) -> Revision:
        """Continue a history that stops at a revision of another one; no change if none does."""
        chain = newer.chain
        for place, rev_id in enumerate(chain):
            if rev_id in older.chain:
                whole = chain[:place] + older.chain[older.chain.index(rev_id) :]
                return Revision(whole[0], whole[1:])
        return newer

    def wins(self, ours: Revision, theirs: Revision) -> bool:
        """Whether ours has the higher ID."""
        return _order(ours.rev_id) > _order(theirs.rev_id)

    def keep_ours(self, ours: Revision, theirs: Revision, deleted: bool, body: bytes) -> Revision:
        """Make a child of theirs."""
        return self.new(theirs, deleted, body)

    def keep_theirs(self, ours: Revision, theirs: Revision) -> Revision:
        """Drop our branch."""
        return theirs

    def merge(self, ours: Revision, theirs: Revision, deleted: bool, body: bytes) -> Revision:
        """Make a child of theirs."""
        return self.new(theirs, deleted, body)


def _order(rev_id: str) -> tuple[int, str]:
    return _generation(rev_id), rev_id.partition("-")[2]


def _generation(rev_id: str) -> int:
    return int(rev_id[: rev_id.index("-")])
