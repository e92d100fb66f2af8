"""The two forms of revision IDs: trees up to protocol 3, version vectors from 4 on.

A session speaks one of them; what comes in the other form is allowed only
where an upgraded client still has it. Spec: blip.md §1.3; replication.md §3.6, §3.7.3;
documents.md §9.5, §9.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from edgesync.blip.message import bool_property
from edgesync.documents.body import Body
from edgesync.documents.rev_id import RevID, parse_history, parse_rev_id
from edgesync.documents.store_calls import (
    Change,
    CurrentRev,
    InsertRev,
    InsertVersion,
    StoredRev,
)
from edgesync.documents.version_vector import (
    CurrentVector,
    RevIdentity,
    decide_version,
    parse_identity,
    parse_rev,
    parse_vector,
    split_rev,
)
from edgesync.replication.profiles import Proposal

SEND_IT: Final = 0
KNOWN: Final = 304
CONFLICT: Final = 409

Identity = tuple[RevID, ...] | RevIdentity


class Verdict(NamedTuple):
    """The answer to a proposal."""

    status: int  # 0: send it, 304: known, 409: conflict
    current: str  # our current revision in the proposal's form, empty if there is none


NEW: Final = Verdict(SEND_IT, "")


class RevForm(Protocol):
    """How a session names revisions."""

    versioning: str
    """Its name in `subChanges`."""

    names_max_history: bool
    """Whether replies say how much history is wanted."""

    def decide(self, current: CurrentRev | None, proposal: Proposal) -> Verdict:
        """Answer an entry of `proposeChanges`.

        Raises:
            InvalidRevIDError: It names no revision.
        """

    def identify(self, properties: Mapping[str, str]) -> Identity:
        """Read what a `rev` message brings.

        Raises:
            InvalidRevIDError: It names no revision.
        """

    def key(self, identity: Identity) -> str:
        """Return a revision in the form that `changes` calls it by, in short."""

    def offer(self, change: Change) -> str:
        """Return what `changes` calls a revision."""

    def short(self, change: Change) -> str:
        """Return what `rev` and `norev` call it."""

    def sent(self, rev: StoredRev, known: frozenset[str], max_history: int) -> tuple[str, str]:
        """Return the properties `rev` and `history`."""


class TreeForm:
    """Tree revision IDs. Spec: documents.md §1."""

    versioning = "rev-trees"
    names_max_history = True

    def decide(self, current: CurrentRev | None, proposal: Proposal) -> Verdict:
        """Answer by the tree's rules. Spec: replication.md §3.6, decision for rev trees."""
        parse_rev_id(proposal.rev_id)
        return decide_tree(current, proposal)

    def identify(self, properties: Mapping[str, str]) -> Identity:
        """Return the revision and its ancestors, newest first."""
        return parse_history(properties.get("rev", ""), properties.get("history", ""))

    def key(self, identity: Identity) -> str:
        """Return its tree ID."""
        assert isinstance(identity, tuple)
        return identity[0]

    def offer(self, change: Change) -> str:
        """Return its tree ID."""
        return change.rev_id

    def short(self, change: Change) -> str:
        """Return its tree ID."""
        return change.rev_id

    def sent(self, rev: StoredRev, known: frozenset[str], max_history: int) -> tuple[str, str]:
        """Return the tree ID and its ancestors."""
        return rev.rev_id, history(rev.ancestors, known, max_history) if rev.ancestors else ""


class VersionForm:
    """Version vectors; clients are never given a tree ID. Spec: documents.md §9.5, §9.6."""

    versioning = "version-vectors"
    names_max_history = False

    def decide(self, current: CurrentRev | None, proposal: Proposal) -> Verdict:
        """Answer by the vectors, or for a tree ID of an upgraded client by the tree."""
        proposed = parse_identity(proposal.rev_id)
        if proposed.vector is None:
            return decide_tree(current, proposal._replace(rev_id=proposed.legacy[0]))
        parent = parse_identity(proposal.parent) if proposal.parent else None
        known = _vector_of(current) if current is not None else None
        status = decide_version(known, proposed, parent)
        return Verdict(status, current.vector if current is not None else "")

    def identify(self, properties: Mapping[str, str]) -> Identity:
        """Return the vector; for a tree ID of an upgraded client the tree's history."""
        rev, older = properties.get("rev", ""), properties.get("history", "")
        identity = parse_rev(rev, older)
        return identity.legacy if identity.vector is None else identity

    def key(self, identity: Identity) -> str:
        """Return its current version, or its tree ID."""
        if isinstance(identity, RevIdentity):
            return str(identity.vector.current) if identity.vector is not None else ""
        return identity[0]

    def offer(self, change: Change) -> str:
        """Return its whole vector."""
        return change.vector

    def short(self, change: Change) -> str:
        """Return its current version."""
        return current_version(change.vector)

    def sent(self, rev: StoredRev, known: frozenset[str], max_history: int) -> tuple[str, str]:
        """Return the current version, and the rest of the vector."""
        return split_rev(rev.vector)


def decide_tree(current: CurrentRev | None, proposal: Proposal) -> Verdict:
    """Return the status of a proposed tree revision.

    Accepts a proposal with a parent for a document we do not have, so that a
    client can re-send what we lost.

    Spec: replication.md §3.6, decision for rev trees.
    """
    if current is None:
        return NEW
    if current.rev_id == proposal.rev_id:
        return Verdict(KNOWN, current.rev_id)
    follows = current.rev_id == proposal.parent or (not proposal.parent and current.deleted)
    return Verdict(SEND_IT if follows else CONFLICT, current.rev_id)


def _vector_of(current: CurrentRev) -> CurrentVector:
    return CurrentVector(parse_vector(current.vector), current.rev_id, current.deleted)


def current_version(vector: str) -> str:
    """Return the first version of a vector that we have written ourselves."""
    return vector.partition(";")[0].partition(",")[0]


def history(ancestors: tuple[RevID, ...], known: frozenset[str], max_history: int) -> str:
    """Return the property `history`: ancestors down to the first that the client has.

    If that one lies beyond the wanted length, it takes the last place.

    Spec: replication.md §3.7.3.
    """
    room = max_history - 1
    chain: list[str] = []
    for ancestor in ancestors:
        if ancestor in known:
            return ",".join([*chain[: max(room - 1, 0)], ancestor])
        chain.append(ancestor)
    return ",".join(chain[:room])


def insert_call(
    call_id: int,
    collection: str,
    properties: Mapping[str, str],
    identity: Identity,
    body: Body,
) -> InsertRev | InsertVersion:
    """Return the call that stores a peer's revision.

    Raises:
        InvalidRevIDError: `deleted_branch` is no history.
    """
    doc_id = properties.get("id", "")
    deleted = bool_property(properties, "deleted")
    blobs = tuple([blob.digest for blob in body.blobs]) if body.blobs else ()
    if isinstance(identity, RevIdentity):
        return InsertVersion(call_id, collection, doc_id, identity, body.text, deleted, blobs)
    closed = closed_branch(properties) if "deleted_branch" in properties else ()
    return InsertRev(call_id, collection, doc_id, identity, body.text, deleted, blobs, closed)


def closed_branch(properties: Mapping[str, str]) -> tuple[RevID, ...]:
    """Return the tombstone that ends our branch, and its history. Spec: replication.md §3.7.4."""
    newest, _, older = properties.get("deleted_branch", "").partition(",")
    return parse_history(newest.strip(), older) if newest else ()
