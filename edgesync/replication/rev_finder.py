"""Answer a client's offers: which revisions we want. Spec: replication.md §3.6, §3.13."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import orjson

from edgesync.blip.message import bool_property
from edgesync.documents.names import check_doc_id
from edgesync.documents.rev_id import parse_rev_id
from edgesync.documents.store_calls import CurrentRev, FindCurrentRevs
from edgesync.errors import DocumentError, EdgeSyncError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import Proposal, Request, parse_proposals
from edgesync.replication.refusals import Refusal, refusal_for

SEND_IT: Final = 0
KNOWN: Final = 304
CONFLICT: Final = 409
MALFORMED: Final = 400


def decide(current: CurrentRev | None, proposal: Proposal) -> int:
    """Return the status of a proposed tree revision: send it, known, or conflict.

    Accepts a proposal with a parent for a document we do not have, so that a
    client can re-send what we lost.

    Spec: replication.md §3.6, decision for rev trees.
    """
    if current is None or current.rev_id == proposal.parent:
        return SEND_IT
    if current.rev_id == proposal.rev_id:
        return KNOWN
    if not proposal.parent and current.deleted:
        return SEND_IT
    return CONFLICT


def is_well_formed(proposal: Proposal) -> bool:
    """Tell whether the IDs of a proposal could be stored."""
    try:
        check_doc_id(proposal.doc_id)
        parse_rev_id(proposal.rev_id)
    except DocumentError:
        return False
    return True


class RevFinder:
    """Answer `proposeChanges`, while fewer than 200 accepted revisions are to come."""

    def __init__(self, store: StorePort, peer: PeerPort, limits: Limits) -> None:
        self._store = store
        self._peer = peer
        self._limits = limits
        self._waiting: deque[tuple[Request, list[Proposal | None]]] = deque()
        self._promised: set[tuple[str, str, str]] = set()

    def propose_changes(self, request: Request) -> None:
        """Take a `proposeChanges`."""
        proposals = parse_proposals(request.body, self._limits)
        if isinstance(proposals, Refusal):
            self._peer.refuse(request.message, proposals)
        elif not request.message.noreply:
            self._waiting.append((request, proposals))
            self._look_up_next()

    def changes(self, request: Request) -> None:
        """Take a `changes`: the client shall propose instead. Spec: replication.md §3.13."""
        self._peer.refuse(request.message, refusals.MUST_PROPOSE)

    def arrived(self, collection: str, doc_id: str, rev_id: str) -> None:
        """Note that an accepted revision is stored, refused, or will not come."""
        self._promised.discard((collection, doc_id, rev_id))
        self._look_up_next()

    @property
    def is_busy(self) -> bool:
        """Whether the client waits for a decision."""
        return bool(self._waiting)

    def _look_up_next(self) -> None:
        while self._waiting and len(self._promised) < self._limits.max_rev_requests_outstanding:
            request, proposals = self._waiting.popleft()
            checked = [p if p is not None and is_well_formed(p) else None for p in proposals]
            doc_ids = tuple(proposal.doc_id for proposal in checked if proposal is not None)
            call = FindCurrentRevs(self._store.new_id(), request.collection.path, doc_ids)
            self._promise(request, checked)
            self._store.ask(call, lambda found, r=request, c=checked: self._answer(r, c, found))  # type: ignore[misc]

    def _promise(self, request: Request, proposals: Sequence[Proposal | None]) -> None:
        """Count all as accepted until the store tells which are."""
        path = request.collection.path
        self._promised.update((path, p.doc_id, p.rev_id) for p in proposals if p is not None)

    def _answer(
        self, request: Request, proposals: Sequence[Proposal | None], found: Answer
    ) -> None:
        path = request.collection.path
        if isinstance(found, EdgeSyncError) or not isinstance(found, tuple):
            for proposal in proposals:
                if proposal is not None:
                    self._promised.discard((path, proposal.doc_id, proposal.rev_id))
            error = found if isinstance(found, EdgeSyncError) else EdgeSyncError("no answer")
            self._peer.refuse(request.message, refusal_for(error))
            return
        with_rev = bool_property(request.message.properties, "conflictIncludesRev")
        entries: list[object] = []
        current_revs = iter(found)
        for proposal in proposals:
            if proposal is None:
                entries.append(MALFORMED)
                continue
            current = next(current_revs)
            assert current is None or isinstance(current, CurrentRev)
            status = decide(current, proposal)
            if status != SEND_IT:
                self._promised.discard((path, proposal.doc_id, proposal.rev_id))
            entries.append(_entry(status, current, with_rev))
        self._reply(request, entries)
        self._look_up_next()

    def _reply(self, request: Request, entries: list[object]) -> None:
        while entries and entries[-1] == SEND_IT:
            entries.pop()
        self._peer.reply(
            request.message,
            {"blobs": "true", "maxHistory": str(self._limits.max_revs_depth)},
            orjson.dumps(entries),
            compressed=True,
        )


def _entry(status: int, current: CurrentRev | None, with_rev: bool) -> object:
    """Return the reply's entry; the object form only for who asked. Spec: replication.md §3.6."""
    if status == CONFLICT and with_rev and current is not None:
        return {"status": CONFLICT, "rev": current.rev_id}
    return status
