"""Store the revisions a client pushes. Spec: replication.md §3.7, §5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from typing import Final

import orjson

from edgesync.documents.body import Body, parse_body
from edgesync.documents.delta import apply_delta
from edgesync.documents.names import check_doc_id
from edgesync.documents.store_calls import DeltaBase, Inserted, ReadBase
from edgesync.errors import EdgeSyncError, InvalidDeltaError, InvalidRevIDError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.incoming_blobs import BlobsWanted, IncomingBlobs
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import PeerCollection, Request
from edgesync.replication.refusals import Refusal, refusal_for
from edgesync.replication.rev_forms import Identity, RevForm, insert_call

NOOP: Final[Mapping[str, str]] = {"noop": "true"}
NO_BODY: Final = Body(b"", ())


class State(IntEnum):
    """Where a pushed revision stands. Spec: replication.md §5.

    Numbers, as each revision is looked up in `STEPS` twice: they are hashed in C.
    """

    ARRIVED = auto()
    FETCHING_BASE = auto()
    FETCHING_BLOBS = auto()
    INSERTING = auto()
    ANSWERED = auto()


STEPS: Final[frozenset[tuple[State, State]]] = frozenset(
    {
        (State.ARRIVED, State.FETCHING_BASE),
        (State.ARRIVED, State.FETCHING_BLOBS),
        (State.ARRIVED, State.INSERTING),
        (State.ARRIVED, State.ANSWERED),  # the body may not be stored, or there is none
        (State.FETCHING_BASE, State.FETCHING_BLOBS),
        (State.FETCHING_BASE, State.INSERTING),
        (State.FETCHING_BASE, State.ANSWERED),  # 422: the whole body follows; or as above
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
        form: RevForm,
        takes_deltas: bool,
        arrived: Callable[[str, str, str], None],
        pushing: Callable[[PeerCollection, str, str], None],
    ) -> None:
        self._store = store
        self._peer = peer
        self._blobs = blobs
        self._limits = limits
        self._form = form
        self._takes_deltas = takes_deltas
        self._arrived = arrived
        self._pushing = pushing
        self.bytes_inserting = 0
        self.bytes_waiting = 0
        self.stored = 0

    def rev(self, request: Request, is_oversized: bool = False) -> None:
        """Take a `rev`; of an oversized one the body was thrown away."""
        properties = request.message.properties
        try:
            check_doc_id(properties.get("id", ""))
            identity = self._form.identify(properties)
        except InvalidRevIDError:
            self._finish(request, refusals.BAD_REVISION)
        except EdgeSyncError as error:
            self._finish(request, refusal_for(error))
        else:
            if is_oversized:
                self._finish(request, refusals.BODY_TOO_LARGE)
            elif "error" in properties:
                self._finish(request, None)  # the peer could not read it: §3.7
            elif "deltaSrc" in properties:
                self._fetch_base(_IncomingRev(request, identity))
            else:
                self._take_body(_IncomingRev(request, identity), request.body)

    def norev(self, request: Request) -> None:
        """Take a `norev`: the promised revision will not come. Spec: replication.md §3.10."""
        self._finish(request, None)

    # --- deltas ----------------------------------------------------------------------

    def _fetch_base(self, rev: _IncomingRev) -> None:
        """Get what a delta is to be applied to. Spec: documents.md §8.2."""
        if not self._takes_deltas:
            self._done(rev, refusals.NO_DELTAS)
        elif self._hold(rev, rev.request.body):
            rev.go(State.FETCHING_BASE)
            source = rev.request.message.properties["deltaSrc"]
            path = rev.request.collection.path
            call = ReadBase(self._store.new_id(), path, rev.doc_id, source)
            self._store.ask(call, lambda base: self._apply(rev, base))

    def _apply(self, rev: _IncomingRev, base: Answer) -> None:
        self.bytes_waiting -= len(rev.request.body)
        if isinstance(base, EdgeSyncError):
            self._done(rev, refusal_for(base))
        elif not isinstance(base, DeltaBase):
            self._done(rev, refusals.NO_BASE)
        else:
            whole = _with_delta(base.body, rev.request.body)
            if whole is None:
                self._done(rev, refusals.BAD_DELTA)
            else:
                self._take_body(rev, whole)

    # --- blobs -----------------------------------------------------------------------

    def _take_body(self, rev: _IncomingRev, text: bytes) -> None:
        try:
            rev.body = parse_body(text, self._limits)
        except EdgeSyncError as error:
            self._done(rev, refusal_for(error))
            return
        if rev.body.text is not text and _tells_of_lost_access(text):
            self._done(rev, None)
        elif not rev.body.blobs:
            rev.go(State.INSERTING)
            self._insert(rev)
        elif self._hold(rev, rev.body.text):
            rev.go(State.FETCHING_BLOBS)
            wanted = BlobsWanted(rev.request.collection, rev.doc_id, rev.body.blobs)
            self._blobs.obtain(wanted, lambda refusal: self._have_blobs(rev, refusal))

    def _have_blobs(self, rev: _IncomingRev, refusal: Refusal | None) -> None:
        self.bytes_waiting -= len(rev.body.text)
        if refusal is not None:
            self._done(rev, refusal)
        else:
            rev.go(State.INSERTING)
            self._insert(rev)

    def _hold(self, rev: _IncomingRev, text: bytes) -> bool:
        """Keep a text while the store or the peer is asked; refuse it if that is too much."""
        if self.bytes_waiting + len(text) > self._limits.max_buffered_bytes:
            self._done(rev, refusals.STORE_UNAVAILABLE)
            return False
        self.bytes_waiting += len(text)
        return True

    # --- the store ---------------------------------------------------------------------

    def _insert(self, rev: _IncomingRev) -> None:
        request, body = rev.request, rev.body
        properties = request.message.properties
        path = request.collection.path
        try:
            call = insert_call(self._store.new_id(), path, properties, rev.identity, body)
        except InvalidRevIDError:
            self._done(rev, refusals.BAD_REVISION)
            return
        self.bytes_inserting += len(body.text)
        self._pushing(request.collection, rev.doc_id, self._form.key(rev.identity))
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
        self._finish(rev.request, refusal, is_known=is_known)

    def _finish(self, request: Request, refusal: Refusal | None, *, is_known: bool = False) -> None:
        message = request.message
        if refusal is not None:
            self._peer.refuse(message, refusal)
        else:
            self._peer.reply(message, NOOP if is_known else {})
        properties = message.properties
        path = request.collection.path
        self._arrived(path, properties.get("id", ""), properties.get("rev", ""))


class _IncomingRev:
    """A pushed revision on its way into the store."""

    __slots__ = ("body", "doc_id", "identity", "request", "state")

    def __init__(self, request: Request, identity: Identity) -> None:
        self.request = request
        self.doc_id = request.message.properties["id"]
        self.identity = identity
        self.body = NO_BODY
        self.state = State.ARRIVED

    def go(self, state: State) -> None:
        if (self.state, state) not in STEPS:
            raise RuntimeError(f"a revision cannot go from {self.state!r} to {state!r}")
        self.state = state


def _tells_of_lost_access(text: bytes) -> bool:
    """Tell whether there is nothing to store. Spec: replication.md §5 step 3.

    Args:
        text: A body of which reserved properties were stripped.
    """
    root: object = orjson.loads(text)
    return isinstance(root, dict) and root.get("_removed") is True


def _with_delta(base: bytes, delta: bytes) -> bytes | None:
    """Return the document that a delta makes of its base, None if it makes none."""
    try:
        parsed: object = orjson.loads(delta)
        if not isinstance(parsed, dict):
            return None
        return orjson.dumps(apply_delta(orjson.loads(base), parsed))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, InvalidDeltaError):
        return None  # it cannot encode what is nested 255 deep
