"""The form of revisions in protocol 4: version vectors, and tree IDs from before an upgrade."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from tests.active_peer.revision import Revision
from tests.active_peer.tree_revisions import TreeRevisions

COUNTER_BITS: Final = 0xFFFF
MAX_AHEAD_NS: Final = 120 * 1_000_000_000
_SYNTAX: Final = re.compile(r"([1-9a-f][0-9a-f]{10,15})@([A-Za-z0-9+/]{21}[AQgw])", re.ASCII)
_TREES: Final = TreeRevisions()


class VectorRevisions:
    """What a 4.x peer knows about revisions: who edited last, and what the edit contained.

    Revisions compare by their current versions alone. Documents from before the
    upgrade keep their tree IDs until they are edited.

    Spec: documents.md §9; replication.md §3.7.3.
    """

    versioning = "version-vectors"
    protocols: tuple[int, ...] = (4,)
    max_history = 1000

    def __init__(self, identity: str, clock: Callable[[], int] = time.time_ns) -> None:
        """Make the form of one database.

        Args:
            identity: What tells the database from others.
            clock: Returns nanoseconds since 1970.
        """
        digest = hashlib.sha256(identity.encode()).digest()[:16]
        self.source = base64.b64encode(digest).decode().rstrip("=")
        self._clock = clock
        self._last = 0

    # --- making -----------------------------------------------------------------------

    def _tick(self) -> str:
        now = self._clock() & ~COUNTER_BITS
        self._last = now if now > self._last else self._last + 1
        return f"{self._last:x}@{self.source}"

    def new(self, parent: Revision | None, deleted: bool, body: bytes) -> Revision:
        """Edit: our version in front of what there was."""
        chain = parent.chain if parent is not None else ()
        return Revision(self._tick(), _others(chain, {self.source}) + _tree_ids(chain))

    def keep_ours(self, ours: Revision, theirs: Revision, deleted: bool, body: bytes) -> Revision:
        """Put theirs behind ours, whose version stays."""
        if not ours.is_version:
            return self.new(theirs, deleted, body)
        return Revision(ours.rev_id, _others(ours.chain + theirs.chain, {_author(ours.rev_id)}))

    def keep_theirs(self, ours: Revision, theirs: Revision) -> Revision:
        """Put ours behind theirs, whose version stays."""
        author = {_author(theirs.rev_id)}
        return Revision(theirs.rev_id, _others(ours.chain + theirs.chain, author))

    def merge(self, ours: Revision, theirs: Revision, deleted: bool, body: bytes) -> Revision:
        """Make a version of our own out of both."""
        if not ours.is_version:
            return self.new(theirs, deleted, body)
        merged = sorted((ours.rev_id, theirs.rev_id), key=_time, reverse=True)
        authors = {self.source, *map(_author, merged)}
        return Revision(self._tick(), _others(ours.chain + theirs.chain, authors), tuple(merged))

    def join(self, newer: Revision, older: Revision) -> Revision:
        """Return the newer one: it says all that counts."""
        return newer

    def listed(self, kept: tuple[str, ...], offer: Revision) -> list[str]:
        """Name all. Spec: replication.md §3.5."""
        return list(kept)

    # --- comparing --------------------------------------------------------------------

    def has(self, ours: Revision, theirs: Revision) -> bool:
        """Whether their version went into ours."""
        return _contains(ours, theirs.rev_id)

    def replaces(self, theirs: Revision, ours: Revision) -> bool:
        """Whether our version went into theirs."""
        return _contains(theirs, ours.rev_id)

    def is_later(self, revision: Revision, known: str) -> bool:
        """Whether what is known went into it, or is a tree ID from before."""
        return _contains(revision, known) or (revision.is_version and "@" not in known)

    def trusts_server(self, ours: Revision) -> bool:
        """Whether it has a tree ID; versions must compare as newer. Spec: documents.md §9.5."""
        return not ours.is_version

    def wins(self, ours: Revision, theirs: Revision) -> bool:
        """Whether ours was written later; any version is later than a tree ID."""
        return _time(ours.rev_id) > _time(theirs.rev_id)

    def is_from_the_future(self, revision: Revision) -> bool:
        """Whether one of its times is more than two minutes ahead; if not, see it.

        Spec: documents.md §9.1.
        """
        latest = max(map(_time, revision.chain))
        if latest - self._clock() > MAX_AHEAD_NS:
            return True
        self._last = max(self._last, latest)
        return False

    # --- on the wire ------------------------------------------------------------------

    def parse(self, rev: str, history: str) -> Revision:
        """Read the properties `rev` and `history`.

        Raises:
            ValueError: A version is malformed, or an author is named twice.
        """
        if "@" not in rev:
            return _TREES.parse(rev, history)
        separator = ", " if ";" in history else "; "
        return self.parse_offer(rev + separator + history if history else rev)

    def parse_offer(self, text: str) -> Revision:
        """Read a vector; without a semicolon all versions are merged ones.

        Raises:
            ValueError: A version is malformed, or an author is named twice.
        """
        if "@" not in text:
            return _TREES.parse_offer(text)
        head, _, tail = text.partition(";")
        current, *merged = (part.strip() for part in head.split(","))
        older = tuple(part.strip() for part in tail.split(",")) if tail.strip() else ()
        revision = Revision(current, older, tuple(merged))
        _check(revision)
        return revision

    def proposal(self, revision: Revision) -> str:
        """Return the whole vector, or the tree ID."""
        if not revision.is_version:
            return revision.rev_id
        head = ", ".join((revision.rev_id, *revision.merged))
        if older := ", ".join(rev_id for rev_id in revision.older if "@" in rev_id):
            return f"{head}; {older}"
        return f"{head};" if revision.merged else head

    def history(self, revision: Revision, known: str | None, max_history: int) -> str:
        """Write the vector without the current version and the separator behind it."""
        if not revision.is_version:
            return ",".join(revision.older)
        older = ", ".join(revision.older)
        if revision.merged:
            return f"{', '.join(revision.merged)};{f' {older}' if older else ''}"
        return older


def _time(version: str) -> int:
    """Return the time of a version; that of a tree ID is before all of them."""
    return int(version.partition("@")[0], 16) if "@" in version else 0


def _author(version: str) -> str:
    return version.partition("@")[2]


def _contains(revision: Revision, rev_id: str) -> bool:
    if "@" not in rev_id:
        return rev_id in revision.chain
    author, time_ = _author(rev_id), _time(rev_id)
    return any(_author(known) == author and _time(known) >= time_ for known in revision.chain)


def _others(chain: Iterable[str], without: set[str]) -> tuple[str, ...]:
    """Return the latest version of each author, but for some, in descending time."""
    latest: dict[str, str] = {}
    for version in chain:
        author = _author(version)
        if author and author not in without:
            latest[author] = max(latest.get(author, ""), version, key=_time)
    return tuple(sorted(latest.values(), key=_time, reverse=True))


def _tree_ids(chain: Iterable[str]) -> tuple[str, ...]:
    return tuple(rev_id for rev_id in chain if "@" not in rev_id)


def _check(revision: Revision) -> None:
    versions = [rev_id for rev_id in revision.chain if "@" in rev_id]
    for version in versions:
        if not _SYNTAX.fullmatch(version):
            raise ValueError(f'"{version}" is not a version')
    for rev_id in _tree_ids(revision.chain):
        _TREES.parse_offer(rev_id)
    authors = [_author(version) for version in versions]
    if len(authors) - len(set(authors)) > (authors[0] in authors[1 : 1 + len(revision.merged)]):
        raise ValueError(f"the vector of {revision.rev_id} names an author twice")
