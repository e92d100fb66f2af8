"""Version vectors: what a revision of protocol version 4 knows of other peers.

A version is a peer's edit, `<time>@<source>`; a vector holds the latest
version of each peer that went into a revision, the current one first. One
vector descends from another if it contains the other's current version, so
two revisions compare without their histories. A client upgraded from 3.x has
tree IDs left: they follow the versions, newest first, and `RevIdentity` is
the two together.

Values here are parsed; on the wire and in the store they are `str()` of them.
Spec: documents.md §9.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal, NamedTuple

from edgesync.documents.rev_id import RevID, generation, parse_history
from edgesync.errors import InvalidRevIDError

# Clients take no other times.
MIN_TIME: Final = 0x100_0000_0000
MAX_TIME: Final = 0x7FFF_FFFF_FFFF_FFFF
# A vector has one for each peer that ever edited the document: usually some, in a fleet dozens.
MAX_VERSIONS: Final = 1000
# Room for `MAX_VERSIONS`, and less than the properties of a message may have.
MAX_TEXT_BYTES: Final = 64 * 1024
# The author of versions that stand for tree IDs. Spec: documents.md §9.5.
TREE_SOURCE: Final = "Revision+Tree+Encoding"

# The last of 22 characters carries two bits; the four unused ones must be zero.
_VERSION: Final = re.compile(r"([1-9a-f][0-9a-f]{0,15})@([A-Za-z0-9+/]{21}[AQgw])", re.ASCII)
_NO_SOURCE: Final = "A" * 22
_SEPARATOR: Final = re.compile(r"[,;] ?")


class Version(NamedTuple):
    """An edit of one peer. Sorts by time."""

    time: int  # nanoseconds since 1970, the low 16 bits a counter
    source: str  # the peer's database, 22 characters of base64

    def __str__(self) -> str:
        return f"{self.time:x}@{self.source}"


@dataclass(frozen=True, slots=True)
class VersionVector:
    """The versions that a revision is made of. Spec: documents.md §9.1."""

    current: Version
    """The edit that made the revision."""
    merged: tuple[Version, ...] = ()
    """The current versions of the revisions it merged, if any."""
    older: tuple[Version, ...] = ()
    """The latest version of every other peer, in descending time."""

    @property
    def versions(self) -> tuple[Version, ...]:
        """All versions, the current one first."""
        return (self.current, *self.merged, *self.older)

    @property
    def latest_time(self) -> int:
        """The highest time in it, for `HybridClock.see` and `is_too_far_ahead`."""
        return max(self.versions).time

    def time_of(self, source: str) -> int:
        """Return the time of a peer's latest version in it, 0 if there is none.

        A merge may name the current author twice; the current version, which
        comes first, is the later one.
        """
        return next((time for time, author in self.versions if author == source), 0)

    def contains(self, version: Version) -> bool:
        """Tell whether the version went into it. Spec: documents.md §9.2."""
        return self.time_of(version.source) >= version.time

    def __str__(self) -> str:
        return _join(self, ())


@dataclass(frozen=True, slots=True)
class RevIdentity:
    """What a version-4 peer calls a revision: a vector, tree IDs, or both.

    Spec: documents.md §9.5.
    """

    vector: VersionVector | None
    """None: the revision has a tree ID only."""
    legacy: tuple[RevID, ...] = ()
    """Tree IDs, newest first: the revision's own if it has no vector, and its ancestors'."""

    def __str__(self) -> str:
        return ", ".join(self.legacy) if self.vector is None else _join(self.vector, self.legacy)


def _join(vector: VersionVector, legacy: Iterable[RevID]) -> str:
    head = ", ".join(map(str, (vector.current, *vector.merged)))
    if tail := ", ".join((*map(str, vector.older), *legacy)):
        return f"{head}; {tail}"
    # Without a semicolon at all a reader could not tell a merge from a history.
    return f"{head};" if vector.merged else head


def split_rev(text: str) -> tuple[str, str]:
    """Return the properties `rev` and `history` of what `str` made of a revision.

    Spec: replication.md §3.7.3.
    """
    rev, *history = _SEPARATOR.split(text, maxsplit=1)
    return rev, "".join(history)


# --- reading -------------------------------------------------------------------


def parse_version(text: str) -> Version:
    """Read `<time>@<source>`.

    Raises:
        InvalidRevIDError: It is not of that form, or the time is none that
            clients accept.

    Spec: documents.md §9.1.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise InvalidRevIDError(f'"{text[:100]}" is not a version')
    return _version(match)


def _version(match: re.Match[str]) -> Version:
    time, source = int(match[1], 16), match[2]
    if source == _NO_SOURCE:
        raise InvalidRevIDError(f'"{match[0]}" is not a version')
    if not MIN_TIME <= time <= MAX_TIME:
        raise InvalidRevIDError(f'the time of version "{match[0]}" is out of range')
    return Version(time, source)


def parse_identity(text: str) -> RevIdentity:
    """Read a version, a vector, tree IDs, or a vector followed by tree IDs.

    Without a semicolon all versions are taken for those of a merge.

    Raises:
        InvalidRevIDError: It is none of these, is too long, names an author
            twice, or its tree IDs do not descend.

    Spec: documents.md §9.1, §9.5.
    """
    if match := _VERSION.fullmatch(text):  # nearly all that clients send: one peer's document
        return RevIdentity(VersionVector(_version(match)))
    if len(text) > MAX_TEXT_BYTES:
        raise InvalidRevIDError(f"a version vector of {len(text)} bytes is too long")
    head, _, tail = text.partition(";")
    if ";" in tail:
        raise InvalidRevIDError(f'version vector "{text[:100]}" has two semicolons')
    current = head.split(",")
    parts = [part.strip(" ") for part in current + (tail.split(",") if tail.strip(" ") else [])]
    if len(parts) > MAX_VERSIONS:
        raise InvalidRevIDError(f"a version vector of {len(parts)} versions is too long")
    first_legacy = next((i for i, part in enumerate(parts) if "@" not in part), len(parts))
    vector = _vector([parse_version(part) for part in parts[:first_legacy]], len(current))
    if first_legacy == len(parts):
        return RevIdentity(vector)
    return RevIdentity(
        vector, parse_history(parts[first_legacy], ",".join(parts[first_legacy + 1 :]))
    )


def parse_vector(text: str) -> VersionVector:
    """Read a version vector without tree IDs, such as one of the store.

    Raises:
        InvalidRevIDError: As for `parse_identity`, or it has tree IDs.

    Spec: documents.md §9.1.
    """
    identity = parse_identity(text)
    if identity.vector is None or identity.legacy:
        raise InvalidRevIDError(f'"{text[:100]}" is not a version vector')
    return identity.vector


def parse_rev(rev: str, history: str) -> RevIdentity:
    """Put together what a `rev` message says of its revision.

    The separator behind the current version was cut off with it: in a history
    with a semicolon it was the comma of a merge, else the one semicolon. That
    holds for a history of tree IDs, too.

    Args:
        rev: The property `rev`.
        history: The property `history`, possibly empty.

    Raises:
        InvalidRevIDError: The two make no revision; see `parse_identity`.

    Spec: replication.md §3.7.3.
    """
    if "@" not in rev:
        return RevIdentity(None, parse_history(rev, history))
    if not history:
        return parse_identity(rev)
    return parse_identity(rev + (", " if ";" in history else "; ") + history)


def _vector(versions: Sequence[Version], current_count: int) -> VersionVector | None:
    if not versions:
        return None
    merged, older = versions[1:current_count], versions[current_count:]
    vector = VersionVector(versions[0], tuple(merged), tuple(older))
    _check_authors(vector)
    return vector


def _check_authors(vector: VersionVector) -> None:
    """Refuse an author named twice, but for an earlier version of the current one in a merge."""
    cv = vector.current
    authors = [version.source for version in vector.versions]
    repeated = len(authors) - len(set(authors))
    allowed = [time for time, source in vector.merged if source == cv.source and time < cv.time]
    if repeated > 1 or repeated != len(allowed):
        raise InvalidRevIDError(f"the vector of version {cv} names an author twice")


# --- comparing -----------------------------------------------------------------


class Order(Enum):
    """How the first of two revisions stands to the second."""

    SAME = auto()
    NEWER = auto()
    OLDER = auto()
    CONFLICT = auto()


def compare(a: VersionVector, b: VersionVector) -> Order:
    """Compare two vectors by their current versions; the rest may differ.

    Spec: documents.md §9.2.
    """
    if a.current == b.current:
        return Order.SAME
    a_knows_b, b_knows_a = a.contains(b.current), b.contains(a.current)
    if a_knows_b == b_knows_a:
        return Order.CONFLICT
    return Order.NEWER if a_knows_b else Order.OLDER


def compare_identities(a: RevIdentity, b: RevIdentity) -> Order:
    """Compare two revisions that may have tree IDs.

    As the table of LiteCore, but for equal current versions: there they are a
    conflict if the tree IDs differ, here the same, as the edit is the same.

    Spec: documents.md §9.5.
    """
    by_legacy = _compare_legacy(a.legacy, b.legacy)
    if a.vector is None or b.vector is None:
        if _stands_for(a, b) or _stands_for(b, a):
            return Order.SAME
        return _combine(_compare_presence(a.vector, b.vector), by_legacy)
    by_vector = compare(a.vector, b.vector)
    if by_vector is Order.SAME:
        return Order.SAME
    # Who has both is no older or newer than who never had tree IDs: their
    # common past, if there is one, cannot be seen.
    if bool(a.legacy) != bool(b.legacy):
        return Order.CONFLICT
    return _combine(by_vector, by_legacy)


def is_same_merge(a: VersionVector, b: VersionVector) -> bool:
    """Tell whether both merge the same versions: the same revision, if the bodies agree.

    Spec: documents.md §9.4 step 3.
    """
    return bool(a.merged) and set(a.merged) == set(b.merged)


def tree_version(rev_id: RevID) -> Version | None:
    """Return the version that stands for a tree ID; None if its generation is too high.

    Spec: documents.md §9.5.
    """
    digest = rev_id.partition("-")[2][:10].ljust(10, "0")
    time = generation(rev_id) << 40 | int(digest, 16)
    return Version(time, TREE_SOURCE) if time <= MAX_TIME else None


def _compare_presence(a: object, b: object) -> Order:
    """Compare two lists or vectors of which one may be missing: who has it is newer."""
    if bool(a) == bool(b):
        return Order.SAME
    return Order.NEWER if a else Order.OLDER


def _compare_legacy(a: Sequence[RevID], b: Sequence[RevID]) -> Order:
    """Compare two histories by their latest common ancestor."""
    if not a or not b:
        return _compare_presence(a, b)
    places = {rev_id: place for place, rev_id in enumerate(b)}
    in_a = next((place for place, rev_id in enumerate(a) if rev_id in places), None)
    if in_a is None:
        return Order.CONFLICT
    in_b = places[a[in_a]]
    if in_a and in_b:
        return Order.CONFLICT
    if in_a or in_b:
        return Order.NEWER if in_a else Order.OLDER
    return Order.SAME


def _combine(x: Order, y: Order) -> Order:
    if x is Order.SAME or x is y:
        return y
    return x if y is Order.SAME else Order.CONFLICT


def _stands_for(version: RevIdentity, tree: RevIdentity) -> bool:
    """Tell whether the one's current version is the other's tree ID in disguise."""
    if version.vector is None or tree.vector is not None or not tree.legacy:
        return False
    return version.vector.current == tree_version(tree.legacy[0])


# --- making --------------------------------------------------------------------


def source_id(random_bytes: bytes) -> str:
    """Return the source ID of a new database, made of 16 random bytes, not all zero.

    Spec: documents.md §9.1.
    """
    if len(random_bytes) != 16 or not any(random_bytes):
        raise ValueError("a source ID is made of 16 bytes that are not all zero")
    return base64.b64encode(random_bytes).decode("ascii").rstrip("=")


def edited(vector: VersionVector | None, version: Version) -> VersionVector:
    """Return the vector of an edit, `version`, of the revision that has `vector`.

    Args:
        vector: None for a new document.
        version: Later than what its author has in the vector, as from a
            `HybridClock` that has seen it.

    Spec: documents.md §9.3.
    """
    if vector is None:
        return VersionVector(version)
    if vector.contains(version):
        raise ValueError(f"version {version} is not later than {vector}")
    times = _times(vector)
    times.pop(version.source, None)
    return VersionVector(version, (), _in_order(times, MAX_VERSIONS - 1))


def with_older(vector: VersionVector, other: VersionVector) -> VersionVector:
    """Return a vector that also contains what `other` does, behind its own versions.

    For a client's revision that replaces ours although the client never saw
    the vector that we gave to ours: to who took that one it must be newer.
    Each author has the later of the two times; the current version stays.

    Spec: documents.md §9.6.
    """
    cv = vector.current
    others = _times(other)
    others.pop(cv.source, None)
    merged = tuple(
        Version(max(time, others.pop(source, 0)), source) for time, source in vector.merged
    )
    times = {source: max(time, others.pop(source, 0)) for time, source in vector.older}
    return VersionVector(cv, merged, _in_order(times | others, MAX_VERSIONS - 1 - len(merged)))


def _times(vector: VersionVector) -> dict[str, int]:
    """Return each author's latest time."""
    return {source: time for time, source in reversed(vector.versions)}


def _in_order(times: dict[str, int], limit: int) -> tuple[Version, ...]:
    """Return the versions in descending time, without the oldest beyond the limit.

    What could not be read again must not be made.
    """
    versions = sorted((Version(time, source) for source, time in times.items()), reverse=True)
    return tuple(versions[:limit])


# --- deciding ------------------------------------------------------------------


class CurrentVector(NamedTuple):
    """The current revision of a document, in both forms. Spec: documents.md §9.6."""

    vector: VersionVector
    tree_id: RevID
    deleted: bool


def decide_version(
    current: CurrentVector | None, proposed: RevIdentity, parent: RevIdentity | None
) -> Literal[0, 304, 409]:
    """Return the status of a proposed version: 0 send it, 304 known, 409 conflict.

    Beyond what LiteCore's listener accepts we take what contains our current
    revision, or names its tree ID as the parent; a document that we lack is
    taken with any parent, so that a client can re-send what we lost.

    Args:
        current: None if there is no document.
        proposed: Must have a vector; a proposed tree ID goes by the tree's rules.
        parent: What the client thinks is current here; None: no document.

    Spec: replication.md §3.6, decision for version vectors; documents.md §9.6.
    """
    vector = _vector_of(proposed)
    if current is None:
        return 0
    if vector.current == current.vector.current:
        return 304
    if current.deleted if parent is None else _is_current(parent, current):
        return 0
    if current.vector.contains(vector.current):
        return 304
    if vector.contains(current.vector.current) or _descends_in_tree(proposed, current):
        return 0
    return 409


def compare_incoming(rev: RevIdentity, current: CurrentVector) -> Order:
    """Compare a client's `rev` with the current revision: NEWER replaces it.

    Besides the vectors that count here: a tree ID in the history that is our
    current revision's, and a document that was made anew over our tombstone,
    with no author in common. In both cases store it `with_older`.

    Args:
        rev: Must have a vector; a tree ID goes by the tree's rules.

    Spec: documents.md §9.4, §9.6, §3.3.
    """
    vector = _vector_of(rev)
    order = compare(vector, current.vector)
    if order is Order.CONFLICT and (
        _descends_in_tree(rev, current)
        or (current.deleted and not _times(vector).keys() & _times(current.vector).keys())
    ):
        return Order.NEWER
    return order


def _vector_of(rev: RevIdentity) -> VersionVector:
    if rev.vector is None:
        raise ValueError(f"{rev} is not a version; a tree ID goes by the rules of trees")
    return rev.vector


def _is_current(rev: RevIdentity, current: CurrentVector) -> bool:
    """Tell whether it names our current revision, in whichever form."""
    if rev.vector is not None:
        return rev.vector.current in (current.vector.current, tree_version(current.tree_id))
    return _descends_in_tree(RevIdentity(None, rev.legacy[:1]), current)


def _descends_in_tree(rev: RevIdentity, current: CurrentVector) -> bool:
    """Tell whether our current revision is among its tree IDs."""
    return current.tree_id in rev.legacy or (
        current.vector.current.source == TREE_SOURCE
        and any(tree_version(rev_id) == current.vector.current for rev_id in rev.legacy)
    )
