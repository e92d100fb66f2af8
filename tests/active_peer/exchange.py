"""Requests and replies over one BLIP connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO, Final, NamedTuple

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessagePiece, OutgoingMessage
from edgesync.limits import Limits
from tests.active_peer.failures import Refusal
from tests.active_peer.peer_blobs import PIECE_BYTES

FEED_BELOW_BYTES: Final = 2 * PIECE_BYTES
MAX_BLOB_BYTES: Final = 4 << 30


class Reply(NamedTuple):
    """What the server answered."""

    properties: Mapping[str, str]
    body: bytes
    refusal: Refusal | None


class Exchange:
    """Send requests and bring their replies home; stream blobs out."""

    def __init__(self, limits: Limits) -> None:
        self.connection = Connection(limits)
        self._receivers: dict[OutgoingMessage, Callable[[MessagePiece], None]] = {}
        self._uploads: list[_Upload] = []
        self._parts: dict[IncomingMessage, list[bytes]] = {}

    def request(
        self,
        properties: Mapping[str, str],
        body: bytes,
        then: Callable[[Reply], None],
        *,
        compressed: bool = False,
        urgent: bool = False,
    ) -> None:
        """Send a request; `then` gets the whole reply."""
        message = self.connection.send_request(
            properties, body, compressed=compressed, urgent=urgent
        )
        parts: list[bytes] = []

        def take(piece: MessagePiece) -> None:
            parts.append(piece.data)
            if piece.is_last:
                reply = piece.message
                whole = b"".join(parts)
                then(Reply(reply.properties, whole, refusal_of(reply, whole)))

        self._receivers[message] = take

    def fetch(
        self, properties: Mapping[str, str], on_piece: Callable[[MessagePiece], None]
    ) -> None:
        """Ask for a blob; its bytes go to `on_piece` as they come."""
        message = self.connection.send_request(properties, max_reply_bytes=MAX_BLOB_BYTES)
        self._receivers[message] = on_piece

    def notify(self, properties: Mapping[str, str], body: bytes = b"") -> None:
        """Send an urgent request that wants no reply."""
        self.connection.send_request(properties, body, urgent=True, noreply=True)

    def reply(
        self,
        request: IncomingMessage,
        properties: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        compressed: bool = False,
    ) -> None:
        """Answer a request."""
        self.connection.send_reply(request, properties or {}, body, compressed=compressed)

    def refuse(self, request: IncomingMessage, refusal: Refusal) -> None:
        """Answer a request with an error."""
        self.connection.send_error(request, *refusal)

    def upload(
        self, request: IncomingMessage, stream: BinaryIO, length: int, *, compressed: bool
    ) -> None:
        """Answer a request with a stream of a known length."""
        message = self.connection.send_reply(request, compressed=compressed, streamed=length > 0)
        if message is None or not length:
            stream.close()
            return
        self._uploads.append(_Upload(message, stream, length))
        self.feed()

    def feed(self) -> None:
        """Read on where a stream is about to run dry; called after every frame sent."""
        for upload in self._uploads:
            upload.feed()
        if any(upload.is_done for upload in self._uploads):
            self._uploads = [upload for upload in self._uploads if not upload.is_done]

    def receive_reply(self, piece: MessagePiece) -> None:
        """Give a piece of a reply to who waits for it."""
        request = piece.message.request
        assert request is not None
        receiver = self._receivers.pop(request) if piece.is_last else self._receivers[request]
        receiver(piece)

    def whole_request(self, piece: MessagePiece) -> bytes | None:
        """Join the pieces of a request; None while more are to come."""
        if piece.is_first and piece.is_last:
            return piece.data
        parts = self._parts.setdefault(piece.message, [])
        parts.append(piece.data)
        if not piece.is_last:
            return None
        del self._parts[piece.message]
        return b"".join(parts)

    @property
    def awaited_replies(self) -> int:
        """Requests of ours without a whole reply."""
        return len(self._receivers)

    @property
    def is_uploading(self) -> bool:
        """Whether a blob is being sent."""
        return bool(self._uploads)

    def close(self) -> None:
        """Let go of open files."""
        for upload in self._uploads:
            upload.stream.close()


class _Upload:
    def __init__(self, message: OutgoingMessage, stream: BinaryIO, length: int) -> None:
        self.stream = stream
        self._message = message
        self._left = length

    @property
    def is_done(self) -> bool:
        return not self._left

    def feed(self) -> None:
        while self._left and self._message.buffered_bytes < FEED_BELOW_BYTES:
            data = self.stream.read(min(PIECE_BYTES, self._left))
            if not data:
                raise OSError("a blob's file ends too early")
            self._left -= len(data)
            self._message.feed(data, not self._left)
        if not self._left:
            self.stream.close()


def refusal_of(message: IncomingMessage, body: bytes) -> Refusal | None:
    """Return what an error reply says, None if it is no error."""
    if not message.is_error:
        return None
    return Refusal(message.error_domain, message.error_code, body.decode("utf-8", "replace"))
