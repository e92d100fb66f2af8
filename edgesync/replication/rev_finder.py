"""Answer a client's offers: which revisions we want. Spec: replication.md §3.6, §3.13."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import orjson

from edgesync.blip.message import bool_property
from edgesync.documents.names import check_doc_id
from edgesync.documents.store_calls import CurrentRev, FindCurrentRevs
from edgesync.errors import EdgeSyncError, InvalidDocIDError, InvalidRevIDError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import Proposal, Request, parse_proposals
from edgesync.replication.refusals import Refusal, refusal_for
from edgesync.replication.rev_forms import CONFLICT, SEND_IT, RevForm

MALFORMED: Final = 400


class RevFinder:
    """Answer `proposeChanges`, while fewer than 200 accepted revisions are to come."""

    def __init__(
        self, store: StorePort, peer: PeerPort, limits: Limits, form: RevForm, takes_deltas: bool
    ) -> None:
        self._store = store
        self._peer = peer
        self._limits = limits
        self._form = form
        self._reply_properties = {"blobs": "true"}
        if takes_deltas:
            self._reply_properties["deltas"] = "true"
        if form.names_max_history:
            self._reply_properties["maxHistory"] = str(limits.max_revs_depth)
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
        self._promised.discard((collection, doc_id, _short(rev_id)))
        self._look_up_next()

    @property
    def is_busy(self) -> bool:
        """Whether the client waits for a decision."""
        return bool(self._waiting)

    def _look_up_next(self) -> None:
        while self._waiting and len(self._promised) < self._limits.max_rev_requests_outstanding:
            self._look_up(*self._waiting.popleft())

    def _look_up(self, request: Request, proposals: list[Proposal | None]) -> None:
        """Ask for the current revisions; till the answer all count as accepted."""
        path = request.collection.path
        checked = [p if p is not None and has_valid_id(p) else None for p in proposals]
        self._promised.update((path, p.doc_id, _short(p.rev_id)) for p in checked if p is not None)
        doc_ids = tuple(proposal.doc_id for proposal in checked if proposal is not None)
        call = FindCurrentRevs(self._store.new_id(), path, doc_ids)
        self._store.ask(call, lambda found: self._answer(request, checked, found))

    def _answer(
        self, request: Request, proposals: Sequence[Proposal | None], found: Answer
    ) -> None:
        path = request.collection.path
        if isinstance(found, EdgeSyncError):
            self._forget(path, proposals)
            self._peer.refuse(request.message, refusal_for(found))
            return
        assert isinstance(found, tuple)
        with_rev = bool_property(request.message.properties, "conflictIncludesRev")
        entries: list[object] = []
        current_revs = iter(found)
        for proposal in proposals:
            if proposal is None:
                entries.append(MALFORMED)
                continue
            current = next(current_revs)
            assert current is None or isinstance(current, CurrentRev)
            entry = self._entry(current, proposal, with_rev)
            if entry != SEND_IT:
                self._forget(path, [proposal])
            entries.append(entry)
        self._reply(request, entries)
        self._look_up_next()

    def _entry(self, current: CurrentRev | None, proposal: Proposal, with_rev: bool) -> object:
        """Return the entry of the reply; the object form only for who asked."""
        try:
            verdict = self._form.decide(current, proposal)
        except InvalidRevIDError:
            return MALFORMED
        if verdict.status == CONFLICT and with_rev and verdict.current:
            return {"status": CONFLICT, "rev": verdict.current}
        return verdict.status

    def _forget(self, path: str, proposals: Sequence[Proposal | None]) -> None:
        for proposal in proposals:
            if proposal is not None:
                self._promised.discard((path, proposal.doc_id, _short(proposal.rev_id)))

    def _reply(self, request: Request, entries: list[object]) -> None:
        while entries and entries[-1] == SEND_IT:
            entries.pop()
        self._peer.reply(
            request.message, self._reply_properties, orjson.dumps(entries), compressed=True
        )


def has_valid_id(proposal: Proposal) -> bool:
    """Tell whether the document could be stored under its ID."""
    try:
        check_doc_id(proposal.doc_id)
    except InvalidDocIDError:
        return False
    return True


def _short(rev_id: str) -> str:
    """Return what its `rev` will call a proposed revision: of a vector the current version."""
    if "," not in rev_id and ";" not in rev_id:
        return rev_id
    return rev_id.partition(";")[0].partition(",")[0]
