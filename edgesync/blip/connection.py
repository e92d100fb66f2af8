"""Both directions of a connection, as `replication` uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from edgesync.blip.frame import (
    ACK_OF_REPLY,
    ACK_OF_REQUEST,
    COMPRESSED,
    NOREPLY,
    TYPE_MASK,
    URGENT,
    FrameHeader,
    decode_varint,
    parse_header,
)
from edgesync.blip.inbox import Inbox
from edgesync.blip.message import (
    Arrival,
    IncomingMessage,
    MessagePiece,
    MessageType,
    OutgoingMessage,
)
from edgesync.blip.outbox import Outbox
from edgesync.errors import ProtocolError
from edgesync.limits import Limits

NO_PROPERTIES: Final[Mapping[str, str]] = {}
_LAST_OF_MESSAGES: Final = int(MessageType.ERR)
_WHOLE: Final = Arrival.WHOLE
_ANSWERED: Final = Arrival.ANSWERED
_REPLY: Final = int(MessageType.RPY)


class Connection:
    """Speak BLIP with one peer.

    Frames of the peer go into `receive`, which gives pieces of messages; frames
    for the peer come out of `frame_to_send`, and belong on the wire in that
    order. After a `ProtocolError` every call raises it again.

    Spec: blip.md §2 to §7.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox = Inbox(limits)
        self._outbox = Outbox(self._inbox.expect_reply)
        self._failure: str | None = None  # not the error: it refers to the frames of this

    # --- what arrives ----------------------------------------------------------------

    def receive(self, frame: bytes) -> Iterator[MessagePiece]:
        """Take a frame; the pieces are inflated as they are taken, and all must be taken.

        Raises:
            ProtocolError: The peer broke the rules, which can also turn out while the
                pieces are taken; final.
            RuntimeError: Pieces of the frame before were not taken.

        Spec: blip.md §7.
        """
        self._check()
        inbox = self._inbox
        try:
            header = parse_header(frame)
            if header.flags & TYPE_MASK <= _LAST_OF_MESSAGES:
                piece = inbox.receive(frame, header)
            else:
                self._receive_ack(frame, header)
                return iter(())
        except ProtocolError as error:
            self._failure = str(error)
            raise
        if inbox.is_midway:
            return self._go_on(piece)
        return iter(()) if piece is None else iter((piece,))

    def _receive_ack(self, frame: bytes, header: FrameHeader) -> None:
        kind = header.flags & TYPE_MASK
        if kind in (ACK_OF_REQUEST, ACK_OF_REPLY):
            received_bytes, _ = decode_varint(frame, header.payload_start)
            self._outbox.receive_ack(kind == ACK_OF_REPLY, header.number, received_bytes)
        # A frame of another type counts for nothing: §2.1.

    def _go_on(self, piece: MessagePiece | None) -> Iterator[MessagePiece]:
        if piece is not None:
            yield piece
        while self._inbox.is_midway:
            try:
                piece = self._inbox.go_on()
            except ProtocolError as error:
                self._failure = str(error)
                raise
            if piece is not None:
                yield piece

    # --- what leaves -----------------------------------------------------------------

    def send_request(
        self,
        properties: Mapping[str, str],
        body: bytes = b"",
        *,
        compressed: bool = False,
        urgent: bool = False,
        noreply: bool = False,
        max_reply_bytes: int | None = None,
    ) -> OutgoingMessage:
        """Queue a request; requests leave in the order of these calls.

        Args:
            properties: Its operation is in `Profile`.
            body: All of it.
            compressed: Whether to deflate it.
            urgent: Whether it goes ahead of what is under way. Spec: blip.md §4.
            noreply: Whether it wants no reply.
            max_reply_bytes: The limit of the reply's body; `Limits.max_message_bytes`
                if None.
        """
        self._check()
        flags = COMPRESSED * compressed | URGENT * urgent | NOREPLY * noreply
        if max_reply_bytes is None:
            max_reply_bytes = self._limits.max_message_bytes
        message = OutgoingMessage(0, flags, properties, body, max_reply_bytes=max_reply_bytes)
        self._outbox.add(message)
        return message

    def send_reply(
        self,
        request: IncomingMessage,
        properties: Mapping[str, str] = NO_PROPERTIES,
        body: bytes = b"",
        *,
        compressed: bool = False,
        streamed: bool = False,
    ) -> OutgoingMessage | None:
        """Queue the reply to a whole request; None if it wants none.

        Args:
            request: What it answers, as urgently as it was asked.
            properties: Often none.
            body: All of it, or its beginning.
            compressed: Whether to deflate it.
            streamed: Whether `OutgoingMessage.feed` brings more of the body.

        Raises:
            RuntimeError: The request is no request, not whole, or answered.

        Spec: blip.md §6.
        """
        flags = _REPLY | COMPRESSED if compressed else _REPLY
        return self._reply(request, flags, properties, body, streamed)

    def send_error(
        self, request: IncomingMessage, domain: str, code: int, text: str
    ) -> OutgoingMessage | None:
        """Queue an error reply to a whole request; None if it wants none.

        Raises:
            RuntimeError: As `send_reply`.

        Spec: blip.md §6.
        """
        properties = {"Error-Domain": domain, "Error-Code": str(code)}
        return self._reply(
            request, int(MessageType.ERR), properties, text.encode(errors="replace"), False
        )

    def _reply(
        self,
        request: IncomingMessage,
        flags: int,
        properties: Mapping[str, str],
        body: bytes,
        streamed: bool,
    ) -> OutgoingMessage | None:
        self._check()
        if request.request is not None or request.arrival is not _WHOLE:
            raise RuntimeError(f"{request!r} cannot be answered: {request.arrival.name}")
        request.arrival = _ANSWERED
        if request.noreply:
            return None
        if request.urgent:
            flags |= URGENT
        message = OutgoingMessage(request.number, flags, properties, body, streamed=streamed)
        self._outbox.add(message)
        return message

    def frame_to_send(self) -> bytes | None:
        """Make one frame, ACKs first; None if nothing can go now."""
        self._check()
        if self._inbox.has_acks:
            return self._inbox.take_ack()
        return self._outbox.next_frame()

    def rest(self) -> None:
        """Free what only speed needs, as nothing will be sent for a while."""
        self._outbox.rest()

    def end(self) -> None:
        """Forget what has not left; nothing will be sent any more."""
        self._outbox.end()

    @property
    def has_output(self) -> bool:
        """Whether `frame_to_send` would return a frame."""
        return self._failure is None and (self._inbox.has_acks or self._outbox.has_frame)

    @property
    def queued_messages(self) -> int:
        """Messages whose last frame has not left, those that wait for ACKs or data included."""
        return self._outbox.unsent_messages

    @property
    def awaiting_replies(self) -> int:
        """Requests of ours that want a reply and have not got all of it."""
        return self._outbox.unsent_requests + self._inbox.awaited_replies

    def _check(self) -> None:
        if self._failure is not None:
            raise ProtocolError(f"the connection has failed before: {self._failure}")
