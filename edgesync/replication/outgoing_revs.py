"""Send the revisions a client asked for. Spec: replication.md §3.7, §3.10, §4."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from edgesync.blip.message import IncomingMessage, OutgoingMessage
from edgesync.documents.delta import make_delta
from edgesync.documents.store_calls import Change, ReadRev, StoredRev
from edgesync.errors import CollectionNotFoundError, EdgeSyncError, StoreDamagedError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.ports import Answer, PeerPort, Reply, StorePort
from edgesync.replication.profiles import PeerCollection, Request
from edgesync.replication.refusals import Refusal, refusal_for
from edgesync.replication.rev_forms import RevForm

GONE = 404
SUPERSEDED = 410
UNREADABLE = 500
NONE_KNOWN: Final[frozenset[str]] = frozenset()  # one for all: an empty one has 216 bytes


class WantedRev(NamedTuple):
    """A revision that the client answered our `changes` for."""

    collection: PeerCollection
    change: Change
    known: frozenset[str]  # revisions of the document that the client has
    max_history: int  # revisions to name, the sent one included
    takes_deltas: bool
    takes_replacement: bool  # a newer revision in place of this one
    settled: Callable[[str], None]  # called with the document's ID when it is through


class OutgoingRevs:
    """Read and send what is wanted, in order, within the windows of replication.md §4.

    A wanted revision is waiting, then being read, then read, then in
    transmission, then unanswered. What is being read or beyond counts with its
    size, so that memory is bounded however large the documents are.
    """

    def __init__(
        self, store: StorePort, peer: PeerPort, limits: Limits, form: RevForm, makes_deltas: bool
    ) -> None:
        self._store = store
        self._peer = peer
        self._limits = limits
        self._form = form
        self._makes_deltas = makes_deltas
        self._waiting: deque[WantedRev] = deque()
        self._reading = 0
        self._read: deque[tuple[WantedRev, StoredRev]] = deque()
        self._in_transmission: list[OutgoingMessage] = []
        self._unanswered = 0
        self._unanswered_bytes = 0
        self.sent = 0

    @property
    def queued(self) -> int:
        """Revisions that have not begun to be sent."""
        return len(self._waiting) + self._reading + len(self._read)

    @property
    def is_busy(self) -> bool:
        """Whether anything is to be sent or answered."""
        return bool(self._unanswered or self._waiting or self._reading or self._read)

    def send(self, wanted: WantedRev) -> None:
        """Queue a revision; it will be followed by exactly one `rev` or `norev`."""
        self._waiting.append(wanted)

    def end(self) -> None:
        """Forget what is wanted; nothing will be sent any more."""
        self._waiting.clear()
        self._read.clear()

    def get_rev(self, request: Request) -> None:
        """Give a connected client a document, outside of all windows. Spec: replication.md §8."""
        doc_id = request.message.properties.get("id", "")
        call = ReadRev(self._store.new_id(), request.collection.path, doc_id)
        self._store.ask(call, lambda found: self._give(request.message, found))

    def _give(self, message: IncomingMessage, found: Answer) -> None:
        if isinstance(found, EdgeSyncError):
            self._peer.refuse(message, refusal_for(found))
        elif not isinstance(found, StoredRev) or found.deleted:
            self._peer.refuse(message, refusals.NO_DOCUMENT)
        else:
            rev, _ = self._form.sent(found, frozenset(), 1)
            if message.properties.get("ifNotRev") == rev:
                self._peer.refuse(message, refusals.NOT_MODIFIED)
            else:
                self._peer.reply(message, {"rev": rev}, found.body, compressed=True)

    def pump(self) -> None:
        """Read and send as far as the windows allow; called before calls go to the store."""
        if self._in_transmission:
            self._in_transmission = [m for m in self._in_transmission if not m.is_sent]
        while self._read and len(self._in_transmission) < self._limits.max_revs_in_transmission:
            self._transmit(*self._read.popleft())
        while self._waiting and self._may_read():
            self._read_next()

    def _may_read(self) -> bool:
        under_way = self._reading + len(self._read)
        return (
            under_way < 2 * self._limits.max_revs_in_transmission
            and self._unanswered_bytes < self._limits.max_rev_bytes_unanswered
        )

    def _read_next(self) -> None:
        wanted = self._waiting.popleft()
        self._reading += 1
        self._unanswered_bytes += wanted.change.body_bytes
        bases = wanted.known if self._makes_deltas and wanted.takes_deltas else NONE_KNOWN
        call = ReadRev(self._store.new_id(), wanted.collection.path, wanted.change.doc_id, bases)
        self._store.ask(call, lambda found: self._take(wanted, found))

    def _take(self, wanted: WantedRev, found: Answer) -> None:
        self._reading -= 1
        if isinstance(found, StoredRev) and (
            found.rev_id == wanted.change.rev_id or wanted.takes_replacement
        ):
            self._read.append((wanted, found))
            return
        if found is None or isinstance(found, CollectionNotFoundError):
            error = GONE
        elif isinstance(found, StoredRev):
            error = SUPERSEDED  # the newer one is offered when the feed comes to it
        elif isinstance(found, StoreDamagedError):
            error = UNREADABLE  # for good; the operator is told by the store
        else:
            # Passing trouble: a `norev` would count as done for the client, a lost
            # connection makes it come back.
            assert isinstance(found, EdgeSyncError)
            raise found
        self._say_no(wanted, error)

    def _say_no(self, wanted: WantedRev, error: int) -> None:
        change = wanted.change
        properties = wanted.collection.properties("norev")
        properties["id"] = change.doc_id
        properties["rev"] = self._form.short(change)
        properties["sequence"] = str(change.sequence)
        properties["error"] = str(error)
        self._peer.notify(properties, b"")
        self._unanswered_bytes -= change.body_bytes
        wanted.settled(change.doc_id)

    def _transmit(self, wanted: WantedRev, rev: StoredRev) -> None:
        """Send a revision, as a delta if that is shorter."""
        self.sent += 1
        delta = self._delta(rev)
        if delta is None or rev.base is None:
            self._send_whole(wanted, rev)
            return
        properties = self._properties(wanted, rev)
        properties["deltaSrc"] = rev.base.rev

        def answered(reply: Reply) -> None:
            if reply.refusal is not None and _asks_for_whole(reply.refusal):
                self._unanswered -= 1
                self._send_whole(wanted, rev)
            else:
                self._answered(wanted, reply)

        self._send(properties, delta, answered)

    def _send_whole(self, wanted: WantedRev, rev: StoredRev) -> None:
        properties = self._properties(wanted, rev)
        self._send(properties, rev.body, lambda reply: self._answered(wanted, reply))

    def _send(self, properties: dict[str, str], body: bytes, then: Callable[[Reply], None]) -> None:
        self._unanswered += 1
        message = self._peer.request(properties, body, then, compressed=True)
        self._in_transmission.append(message)

    def _properties(self, wanted: WantedRev, rev: StoredRev) -> dict[str, str]:
        properties = wanted.collection.properties("rev")
        properties["id"] = rev.doc_id
        name, older = self._form.sent(rev, wanted.known, wanted.max_history)
        properties["rev"] = name
        # What was announced, also for a replacement: else the client's checkpoint stays behind.
        properties["sequence"] = str(wanted.change.sequence)
        if rev.rev_id != wanted.change.rev_id:
            properties["replacedRev"] = self._form.short(wanted.change)
        if rev.deleted:
            properties["deleted"] = "1"
        if older:
            properties["history"] = older
        return properties

    def _delta(self, rev: StoredRev) -> bytes | None:
        """Return the body as a delta, None if the body is to be sent whole.

        Spec: replication.md §4; documents.md §8.2.
        """
        limits = self._limits
        too_small = len(rev.body) < limits.min_delta_body_bytes
        if rev.base is None or rev.deleted or too_small:
            return None
        if max(len(rev.body), len(rev.base.body)) > limits.max_delta_body_bytes:
            return None
        delta = orjson.dumps(make_delta(orjson.loads(rev.base.body), orjson.loads(rev.body)))
        return delta if len(delta) < len(rev.body) else None

    def _answered(self, wanted: WantedRev, _reply: Reply) -> None:
        """Settle, whatever the answer: an error is final. Spec: replication.md §3.7.2."""
        self._unanswered -= 1
        self._unanswered_bytes -= wanted.change.body_bytes
        wanted.settled(wanted.change.doc_id)


def _asks_for_whole(refusal: Refusal) -> bool:
    """Tell whether a delta could not be applied. Spec: replication.md §3.7.2."""
    return (refusal.domain, refusal.code) in (("HTTP", 422), ("LiteCore", 31), ("LiteCore", 32))
