"""Store the revisions a client pushes. Spec: replication.md §3.7, §5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

import orjson

from edgesync.blip.message import bool_property
from edgesync.documents.body import BlobRef, Body, parse_body
from edgesync.documents.names import check_doc_id
from edgesync.documents.rev_id import RevID, parse_history
from edgesync.documents.store_calls import FindMissingBlobs, Inserted, InsertRev
from edgesync.errors import EdgeSyncError, InvalidRevIDError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.incoming_blobs import BlobWanted, IncomingBlobs
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import PeerCollection, Request
from edgesync.replication.refusals import Refusal, refusal_for

NOOP: Final[Mapping[str, str]] = {"noop": "true"}


class State(Enum):
    """Where a pushed revision stands. Spec: replication.md §5."""

    FETCHING_BLOBS = auto()
    INSERTING = auto()
    ANSWERED = auto()


STEPS: Final[frozenset[tuple[State, State]]] = frozenset(
    {
        (State.FETCHING_BLOBS, State.INSERTING),
        (State.FETCHING_BLOBS, State.ANSWERED),  # a blob could not be had
        (State.INSERTING, State.ANSWERED),  # committed, or refused
    }
)


class IncomingRevs:
    """Take `rev` and `norev`; what is in the store's hands counts until it is answered."""

    def __init__(
        self,
        store: StorePort,
        peer: PeerPort,
        blobs: IncomingBlobs,
        limits: Limits,
        arrived: Callable[[str, str, str], None],
        pushing: Callable[[PeerCollection, str, RevID], None],
    ) -> None:
        self._store = store
        self._peer = peer
        self._blobs = blobs
        self._limits = limits
        self._arrived = arrived
        self._pushing = pushing
        self.bytes_inserting = 0
        self.bytes_awaiting_blobs = 0
        self.under_way = 0
        self.stored = 0

    def rev(self, request: Request, is_oversized: bool = False) -> None:
        """Take a `rev`; of an oversized one the body was thrown away."""
        properties = request.message.properties
        parsed = refusals.BODY_TOO_LARGE if is_oversized else self._parse(request)
        if isinstance(parsed, Refusal):
            self._finish(request, parsed)
        elif parsed is None:
            self._finish(request, None)
        else:
            history, body = parsed
            rev = _IncomingRev(request, history, body, bool_property(properties, "deleted"))
            self.under_way += 1
            if body.blobs:
                self._look_for_blobs(rev)
            else:
                self._insert(rev)

    def norev(self, request: Request) -> None:
        """Take a `norev`: the promised revision will not come. Spec: replication.md §3.10."""
        self._finish(request, None)

    def _parse(self, request: Request) -> tuple[tuple[RevID, ...], Body] | Refusal | None:
        """Return history and body; None if there is nothing to store."""
        properties = request.message.properties
        if "error" in properties:
            return None
        if "deltaSrc" in properties:
            return refusals.NO_DELTAS
        try:
            check_doc_id(properties.get("id", ""))
            history = parse_history(properties.get("rev", ""), properties.get("history", ""))
            if b'"_removed"' in request.body and _is_removal(request.body):
                return None
            return history, parse_body(request.body, self._limits)
        except InvalidRevIDError:
            return refusals.BAD_REVISION
        except EdgeSyncError as error:
            return refusal_for(error)

    def _look_for_blobs(self, rev: _IncomingRev) -> None:
        held = self.bytes_awaiting_blobs + len(rev.body.text)
        if held > self._limits.max_buffered_bytes:
            self._done(rev, refusals.STORE_UNAVAILABLE)
            return
        self.bytes_awaiting_blobs = held
        digests = tuple(blob.digest for blob in rev.body.blobs)
        call = FindMissingBlobs(self._store.new_id(), digests)
        self._store.ask(call, lambda missing: self._fetch(rev, missing))

    def _fetch(self, rev: _IncomingRev, missing: Answer) -> None:
        if isinstance(missing, EdgeSyncError):
            self._blobs_refused(rev, refusal_for(missing))
            return
        assert isinstance(missing, tuple)
        rev.missing = [blob for blob in rev.body.blobs if blob.digest in missing]
        self._fetch_next(rev)

    def _fetch_next(self, rev: _IncomingRev) -> None:
        """Fetch the blobs of a revision one after the other. Spec: replication.md §3.8."""
        if not rev.missing:
            self.bytes_awaiting_blobs -= len(rev.body.text)
            rev.go(State.INSERTING)
            self._insert(rev)
            return
        blob = rev.missing.pop()
        wanted = BlobWanted(rev.request.collection, rev.doc_id, blob)
        self._blobs.fetch(wanted, lambda refusal: self._fetched(rev, refusal))

    def _fetched(self, rev: _IncomingRev, refusal: Refusal | None) -> None:
        if refusal is None:
            self._fetch_next(rev)
        else:
            self._blobs_refused(rev, refusal)

    def _blobs_refused(self, rev: _IncomingRev, refusal: Refusal) -> None:
        self.bytes_awaiting_blobs -= len(rev.body.text)
        self._done(rev, refusal)

    def _insert(self, rev: _IncomingRev) -> None:
        body = rev.body
        collection = rev.request.collection
        self.bytes_inserting += len(body.text)
        self._pushing(collection, rev.doc_id, rev.history[0])
        call = InsertRev(
            self._store.new_id(),
            collection.path,
            rev.doc_id,
            rev.history,
            body.text,
            rev.deleted,
            tuple(blob.digest for blob in body.blobs),
        )
        self._store.ask(call, lambda inserted: self._inserted(rev, inserted))

    def _inserted(self, rev: _IncomingRev, inserted: Answer) -> None:
        self.bytes_inserting -= len(rev.body.text)
        if isinstance(inserted, Inserted):
            self.stored += inserted.is_new
            self._done(rev, None, is_known=not inserted.is_new)
        else:
            assert isinstance(inserted, EdgeSyncError)
            self._done(rev, refusal_for(inserted))

    def _done(self, rev: _IncomingRev, refusal: Refusal | None, *, is_known: bool = False) -> None:
        rev.go(State.ANSWERED)
        self.under_way -= 1
        self._finish(rev.request, refusal, is_known=is_known)

    def _finish(self, request: Request, refusal: Refusal | None, *, is_known: bool = False) -> None:
        message = request.message
        if refusal is not None:
            self._peer.refuse(message, refusal)
        else:
            self._peer.reply(message, NOOP if is_known else {})
        properties = message.properties
        self._arrived(request.collection.path, properties.get("id", ""), properties.get("rev", ""))


class _IncomingRev:
    """A pushed revision on its way into the store."""

    __slots__ = ("body", "deleted", "doc_id", "history", "missing", "request", "state")

    def __init__(
        self, request: Request, history: tuple[RevID, ...], body: Body, deleted: bool
    ) -> None:
        self.request = request
        self.doc_id = request.message.properties["id"]
        self.history = history
        self.body = body
        self.deleted = deleted
        self.missing: list[BlobRef] = []
        self.state = State.FETCHING_BLOBS if body.blobs else State.INSERTING

    def go(self, state: State) -> None:
        if (self.state, state) not in STEPS:
            raise RuntimeError(f"a revision cannot go from {self.state} to {state}")
        self.state = state


def _is_removal(body: bytes) -> bool:
    """Tell whether this is Sync Gateway's word for lost access. Spec: replication.md §5 step 3."""
    try:
        root = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(root, dict) and root.get("_removed") is True
