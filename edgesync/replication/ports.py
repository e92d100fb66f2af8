"""The two ways out of a replicator: to the peer and to the store.

Both keep the continuation of what was asked until the answer comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessagePiece, OutgoingMessage
from edgesync.documents.store_calls import StoreCall, StoreDone, StoreResult
from edgesync.errors import EdgeSyncError, ProtocolError
from edgesync.limits import Limits
from edgesync.replication.refusals import Refusal

Answer = StoreResult | EdgeSyncError
NO_PROPERTIES: Final[Mapping[str, str]] = {}


class Reply(NamedTuple):
    """What the peer answered to a request of ours."""

    properties: Mapping[str, str]
    body: bytes
    refusal: Refusal | None  # an error reply


class StorePort:
    """Collect the calls to the store and bring each answer home."""

    def __init__(self) -> None:
        self._last_id = 0
        self._calls: list[StoreCall] = []
        self._continuations: dict[int, Callable[[Answer], None]] = {}

    def new_id(self) -> int:
        """Return the number for the next call."""
        self._last_id += 1
        return self._last_id

    def ask(self, call: StoreCall, then: Callable[[Answer], None]) -> None:
        """Queue a call; `then` gets its result, or the error in its place."""
        self._continuations[call.call_id] = then
        self._calls.append(call)

    def take_calls(self) -> list[StoreCall]:
        """Hand over what was asked since the last time."""
        calls, self._calls = self._calls, []
        return calls

    def answer(self, done: StoreDone) -> None:
        """Continue where the answer was waited for."""
        self._continuations.pop(done.call_id)(done.result)

    def end(self) -> None:
        """Forget what is waited for; no answer will come any more."""
        self._calls.clear()
        self._continuations.clear()

    @property
    def unanswered(self) -> int:
        """How many calls the store has not answered."""
        return len(self._continuations)


class PeerPort:
    """Send requests and replies to the peer, and bring its replies home."""

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._receivers: dict[OutgoingMessage, Callable[[MessagePiece], None]] = {}
        self.unanswered_requests = 0

    def request(
        self,
        properties: Mapping[str, str],
        body: bytes,
        then: Callable[[Reply], None],
        *,
        compressed: bool = False,
        urgent: bool = False,
    ) -> OutgoingMessage:
        """Send a request whose reply is small; `then` gets it whole."""
        message = self._connection.send_request(
            properties,
            body,
            compressed=compressed,
            urgent=urgent,
            max_reply_bytes=self._limits.max_reply_bytes,
        )
        self._receivers[message] = _ReplyCollector(then)
        return message

    def fetch(
        self, properties: Mapping[str, str], on_piece: Callable[[MessagePiece], None]
    ) -> OutgoingMessage:
        """Ask for a blob; its bytes go to `on_piece` as they come."""
        message = self._connection.send_request(
            properties, max_reply_bytes=self._limits.max_blob_bytes
        )
        self._receivers[message] = on_piece
        return message

    def notify(self, properties: Mapping[str, str], body: bytes, *, urgent: bool = False) -> None:
        """Send a request that wants no reply."""
        self._connection.send_request(properties, body, urgent=urgent, noreply=True)

    def take_reply(self, piece: MessagePiece) -> None:
        """Give a piece of a reply to whoever waits for it.

        Raises:
            ProtocolError: Nobody does.
        """
        request = piece.message.request
        receiver = self._receivers.get(request) if request is not None else None
        if request is None or receiver is None:
            raise ProtocolError(f"reply {piece.message.number} answers nothing")
        if piece.is_last:
            del self._receivers[request]
        receiver(piece)

    def accept(self, request: IncomingMessage) -> None:
        """Count a request that will have to be answered."""
        if not request.noreply:
            self.unanswered_requests += 1

    def reply(
        self,
        request: IncomingMessage,
        properties: Mapping[str, str] = NO_PROPERTIES,
        body: bytes = b"",
        *,
        compressed: bool = False,
        streamed: bool = False,
    ) -> OutgoingMessage | None:
        """Answer a request; None if it wanted no answer."""
        message = self._connection.send_reply(
            request, properties, body, compressed=compressed, streamed=streamed
        )
        if message is not None:
            self.unanswered_requests -= 1
        return message

    def refuse(self, request: IncomingMessage, refusal: Refusal) -> None:
        """Answer a request with an error."""
        if self._connection.send_error(request, *refusal) is not None:
            self.unanswered_requests -= 1

    def end(self) -> None:
        """Forget what is waited for; no reply will come any more."""
        self._receivers.clear()

    @property
    def awaiting_replies(self) -> int:
        """How many requests of ours the peer has not answered."""
        return len(self._receivers)


class _ReplyCollector:
    """Join a small reply; the connection enforces its size."""

    __slots__ = ("_parts", "_then")

    def __init__(self, then: Callable[[Reply], None]) -> None:
        self._then = then
        self._parts: list[bytes] | None = None  # nearly all replies are one piece

    def __call__(self, piece: MessagePiece) -> None:
        message, body, is_first, is_last = piece
        if not (is_first and is_last):
            self._parts = self._parts or []
            self._parts.append(body)
        if is_last:
            if self._parts is not None:
                body = b"".join(self._parts)
            refusal = refusal_of(message, body) if message.is_error else None
            self._then(Reply(message.properties, body, refusal))


def refusal_of(message: IncomingMessage, body: bytes) -> Refusal:
    """Return what an error reply says."""
    text = body[:1000].decode("utf-8", "replace")
    return Refusal(message.error_domain, message.error_code, text)
