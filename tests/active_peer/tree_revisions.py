"""The form of revisions in protocol 2 and 3: tree IDs and their ancestors."""

from __future__ import annotations

import hashlib
import re
from typing import Final

Chain = tuple[str, ...]
"""A revision and its ancestors, newest first."""

MAX_KNOWN_ANCESTORS: Final = 10
_SYNTAX: Final = re.compile(r"([1-9][0-9]{0,9})-(?:[0-9a-f]{2})+", re.ASCII)


class TreeRevisions:
    """What a peer has to know about revision IDs; another form is another class like this.

    Spec: documents.md §1, §3; replication.md §3.7.3.
    """

    versioning = "rev-trees"
    max_history = 50

    def new(self, ancestors: Chain, deleted: bool, body: bytes) -> Chain:
        """Make a revision on top of others; equal content makes equal IDs."""
        parent = ancestors[0].encode() if ancestors else b""
        digest = hashlib.sha1(bytes([len(parent)]) + parent + bytes([deleted]) + body)
        generation = _generation(ancestors[0]) + 1 if ancestors else 1
        return (f"{generation}-{digest.hexdigest()}", *ancestors)

    def parse(self, rev: str, history: str) -> Chain:
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
        return chain

    def history(self, chain: Chain, known: str | None, max_history: int) -> str:
        """Write the property `history`, down to the revision that the other side has.

        If that one lies deeper than is wanted or kept here, it takes the last place.
        """
        ancestors = chain[1:]
        if known is None:
            return ",".join(ancestors[: max_history - 1])
        if known in ancestors:
            ancestors = ancestors[: ancestors.index(known)]
        return ",".join((*ancestors[: max_history - 2], known))

    def known_ancestors(self, chain: Chain, offered: str) -> list[str]:
        """List what can be an ancestor of an offered revision, for a reply to `changes`."""
        generation = _generation(offered)
        older = [rev_id for rev_id in chain if _generation(rev_id) < generation]
        return older[:MAX_KNOWN_ANCESTORS]

    def join(self, newer: Chain, older: Chain) -> Chain:
        """Continue a history that stops at a revision of another one; just `newer` if none does."""
        for place, rev_id in enumerate(newer):
            if rev_id in older:
                return newer[:place] + older[older.index(rev_id) :]
        return newer

    def order(self, rev_id: str) -> tuple[int, str]:
        """Return a key by which the higher revision wins."""
        return _generation(rev_id), rev_id.partition("-")[2]


def _generation(rev_id: str) -> int:
    return int(rev_id[: rev_id.index("-")])
