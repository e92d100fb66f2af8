"""The requests of a client as values, checked. Spec: replication.md §3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from edgesync.blip.message import IncomingMessage, bool_property, int_property
from edgesync.documents.names import collection_path
from edgesync.errors import InvalidNameError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.refusals import Refusal

DEFAULT_MAX_HISTORY: Final = 50
DEFAULT_MAX_HISTORY_V2: Final = 20


@dataclass(frozen=True, slots=True)
class PeerCollection:
    """A collection as this connection speaks of it. Spec: replication.md §1.1."""

    path: str
    """`scope.name`, as the store knows it."""
    index: str | None
    """Its place in `getCollections`; None in a session without collections."""

    def properties(self, profile: str) -> dict[str, str]:
        """Return the first properties of a request of ours."""
        if self.index is None:
            return {"Profile": profile}
        return {"Profile": profile, "collection": self.index}


class Request(NamedTuple):
    """A request that arrived whole, about a collection."""

    message: IncomingMessage
    body: bytes
    collection: PeerCollection


class GetCollections(NamedTuple):
    """Spec: replication.md §3.1."""

    checkpoint_ids: tuple[str, ...]
    paths: tuple[str, ...]


class SubChanges(NamedTuple):
    """Spec: replication.md §3.4."""

    since: int
    continuous: bool
    active_only: bool
    doc_ids: frozenset[str] | None
    takes_replacements: bool  # a newer revision in place of the promised one


class Proposal(NamedTuple):
    """An entry of `proposeChanges`, not yet checked. Spec: replication.md §3.6."""

    doc_id: str
    rev_id: str
    parent: str  # empty: none


def parse_get_collections(body: bytes, limits: Limits) -> GetCollections | Refusal:
    """Read the body of `getCollections`. Spec: replication.md §3.1."""
    root = _json(body)
    if not isinstance(root, dict):
        return _bad_collections("no root")
    ids, paths = root.get("checkpoint_ids"), root.get("collections")
    if not isinstance(ids, list):
        return _bad_collections("no checkpoint_ids")
    if not isinstance(paths, list) or not paths:
        return _bad_collections("no collections")
    if len(ids) != len(paths):
        return _bad_collections("mismatched checkpoint_ids and collections")
    if len(paths) > limits.max_collections:
        return _bad_collections("too many collections")
    if not all(isinstance(path, str) and path for path in paths):
        return _bad_collections("empty collection path")
    if not all(isinstance(name, str) and valid_checkpoint_id(name, limits) for name in ids):
        return _bad_collections("invalid checkpoint ID")
    full = tuple(_full_path(path) for path in paths)
    if len(set(full)) != len(full):
        return _bad_collections("duplicate collection path")
    return GetCollections(tuple(ids), full)


def _full_path(path: str) -> str:
    """Return `scope.name`; an impossible name stays as it is and is simply not offered."""
    try:
        return collection_path(path)
    except InvalidNameError:
        return path


def _bad_collections(what: str) -> Refusal:
    return Refusal("BLIP", 400, f"Invalid getCollections message: {what}")


def parse_sub_changes(
    message: IncomingMessage, body: bytes, versioning: str, limits: Limits
) -> SubChanges | Refusal:
    """Read a `subChanges`. Spec: replication.md §3.4."""
    properties = message.properties
    if "filter" in properties or "channels" in properties:
        return refusals.NO_FILTERS
    if properties.get("versioning", "rev-trees") != versioning:
        return refusals.WRONG_VERSIONING
    doc_ids = _doc_ids(body, limits)
    if isinstance(doc_ids, Refusal):
        return doc_ids
    return SubChanges(
        since=max(0, int_property(properties, "since") or 0),
        continuous=bool_property(properties, "continuous"),
        active_only=bool_property(properties, "activeOnly"),
        doc_ids=doc_ids,
        takes_replacements=bool_property(properties, "sendReplacementRevs"),
    )


def _doc_ids(body: bytes, limits: Limits) -> frozenset[str] | Refusal | None:
    root = _json(body) if body else {}
    if not isinstance(root, dict):
        return refusals.NOT_JSON
    doc_ids = root.get("docIDs")
    if doc_ids is None:
        return None
    if not isinstance(doc_ids, list) or not all(isinstance(doc_id, str) for doc_id in doc_ids):
        return refusals.NOT_JSON
    if len(doc_ids) > limits.max_doc_ids_filter:
        return refusals.TOO_MANY_ENTRIES
    return frozenset(doc_ids)


def parse_proposals(body: bytes, limits: Limits) -> list[Proposal | None] | Refusal:
    """Read the entries of `proposeChanges`; None stands for a malformed one.

    Spec: replication.md §3.6.
    """
    root = _json(body)
    if not isinstance(root, list):
        return refusals.NOT_JSON
    if len(root) > limits.max_proposals:
        return refusals.TOO_MANY_ENTRIES
    return [_proposal(entry) for entry in root]


def _proposal(entry: object) -> Proposal | None:
    if not isinstance(entry, list) or len(entry) < 2:
        return None
    doc_id, rev_id, *more = entry
    parent = (more[0] or "") if more else ""
    if isinstance(doc_id, str) and isinstance(rev_id, str) and isinstance(parent, str):
        return Proposal(doc_id, rev_id, parent)
    return None


class ChangesReply(NamedTuple):
    """What a client wants of the revisions we offered. Spec: replication.md §3.5."""

    wanted: list[list[str] | None]  # known revisions of each wanted entry, None: not wanted
    max_history: int  # revisions, the sent one included
    takes_deltas: bool  # said in the first reply of a connection only


def parse_changes_reply(
    properties: Mapping[str, str], body: bytes, default_max_history: int
) -> ChangesReply | Refusal:
    """Read the reply to a `changes`. Spec: replication.md §3.5."""
    root = _json(body) if body else []
    if not isinstance(root, list):
        return refusals.NOT_JSON
    wanted = [
        [rev for rev in entry if isinstance(rev, str)] if isinstance(entry, list) else None
        for entry in root
    ]
    max_history = int_property(properties, "maxHistory")
    return ChangesReply(
        wanted, max(1, max_history or default_max_history), bool_property(properties, "deltas")
    )


def valid_checkpoint_id(checkpoint_id: str, limits: Limits) -> bool:
    """Tell whether a checkpoint ID has a sane length. Spec: replication.md §7.1."""
    return 0 < len(checkpoint_id.encode()) <= limits.max_checkpoint_id_bytes


def _json(body: bytes) -> object:
    """Return the parsed body, None if it is no JSON."""
    try:
        root: object = orjson.loads(body)
        return root
    except orjson.JSONDecodeError:
        return None
