"""The inbox: frames of the peer become pieces of messages."""

from __future__ import annotations

from typing import Final

from edgesync.blip.frame import (
    ACK_OF_REPLY,
    ACK_OF_REQUEST,
    MAX_VARINT_BYTES,
    MORE_COMING,
    TYPE_MASK,
    FrameDecoder,
    FrameHeader,
    decode_varint,
    encode_ack,
    is_cut_varint,
)
from edgesync.blip.message import (
    Arrival,
    IncomingMessage,
    MessagePiece,
    OutgoingMessage,
    decode_properties,
)
from edgesync.errors import ProtocolError
from edgesync.limits import Limits

ACK_EVERY_BYTES: Final = 50_000
"""Spec: blip.md §5.2."""
# Each look at a member through its class costs as much as ten of these.
_IN_PROPERTIES: Final = Arrival.IN_PROPERTIES
_IN_BODY: Final = Arrival.IN_BODY
_WHOLE: Final = Arrival.WHOLE


class Inbox:
    """Join frames to messages, keep their numbers, and say what to acknowledge.

    A frame is taken as by a `FrameDecoder`: the first piece comes from
    `receive`; while `is_midway`, the next from `go_on`. Either returns None if
    there is nothing to give yet, as the properties are still cut off.

    Spec: blip.md §2.2, §2.3, §5.2, §7.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = FrameDecoder(limits)
        self._last_request = 0
        # Messages of which the last frame has not come, by number.
        self._requests: dict[int, IncomingMessage] = {}
        self._replies: dict[int, IncomingMessage] = {}
        self._awaited: dict[int, OutgoingMessage] = {}
        self._acks: dict[tuple[int, int], int] = {}  # (number, kind): counted bytes
        # The frame at hand, while midway:
        self._message: IncomingMessage | None = None
        self._is_last_frame = False

    @property
    def is_midway(self) -> bool:
        """Whether the last frame has more to give."""
        return self._decoder.is_midway

    @property
    def awaited_replies(self) -> int:
        """How many sent requests have no complete reply."""
        return len(self._awaited)

    @property
    def has_acks(self) -> bool:
        """Whether `take_ack` may be called."""
        return bool(self._acks)

    def take_ack(self) -> bytes:
        """Return the next ACK frame. A later count for a message replaces one not taken."""
        key = next(iter(self._acks))
        number, kind = key
        return encode_ack(number, kind, self._acks.pop(key))

    def expect_reply(self, request: OutgoingMessage) -> None:
        """Await the reply to a request whose last frame has left."""
        self._awaited[request.number] = request

    def receive(self, frame: bytes, header: FrameHeader) -> MessagePiece | None:
        """Take a frame of a message.

        Raises:
            ProtocolError: blip.md §7; final.
            RuntimeError: The frame before has more to give.
        """
        if self._message is not None:
            raise RuntimeError("the pieces of the frame before were not taken")
        number, flags, start = header
        table = self._replies if flags & TYPE_MASK else self._requests
        message = table.get(number) if table else None
        if message is None:
            message = self._begin(number, flags)
        self._count(message, len(frame) - start)
        self._is_last_frame = is_last = not flags & MORE_COMING
        if not is_last:
            table[number] = message
            self._check_open_messages()
        elif table:
            table.pop(number, None)
        decoder = self._decoder
        data = decoder.begin(frame, header)
        if not decoder.is_midway:
            return self._deliver(message, data, is_last)
        self._message = message
        return self._deliver(message, data, is_last=False)

    def go_on(self) -> MessagePiece | None:
        """Take the next piece of the frame at hand.

        Raises:
            ProtocolError: blip.md §7; final.
            RuntimeError: There is none.
        """
        message = self._message
        if message is None:
            raise RuntimeError("no frame is at hand")
        data = self._decoder.go_on()
        if self._decoder.is_midway:
            return self._deliver(message, data, is_last=False)
        self._message = None
        return self._deliver(message, data, self._is_last_frame)

    def _begin(self, number: int, flags: int) -> IncomingMessage:
        """Check the number of a new message. Spec: blip.md §2.2."""
        if not flags & TYPE_MASK:
            if number != self._last_request + 1:
                raise ProtocolError(f"request {number} follows request {self._last_request}")
            self._last_request = number
            return IncomingMessage(number, flags, None, self._limits.max_message_bytes)
        request = self._awaited.get(number)
        if request is None:
            raise ProtocolError(f"reply {number} answers no request of ours")
        return IncomingMessage(number, flags, request, request.max_reply_bytes)

    def _check_open_messages(self) -> None:
        if len(self._requests) + len(self._replies) > self._limits.max_open_messages:
            raise ProtocolError(
                f"more than {self._limits.max_open_messages} messages are under way"
            )

    def _count(self, message: IncomingMessage, counted_bytes: int) -> None:
        """Keep the account of a message's bytes. Spec: blip.md §5.2."""
        message.wire_bytes += counted_bytes
        message.unacked_bytes += counted_bytes
        if message.unacked_bytes >= ACK_EVERY_BYTES:
            message.unacked_bytes = 0
            kind = ACK_OF_REQUEST if message.request is None else ACK_OF_REPLY
            self._acks[message.number, kind] = message.wire_bytes

    def _deliver(self, message: IncomingMessage, data: bytes, is_last: bool) -> MessagePiece | None:
        is_first = message.arrival is _IN_PROPERTIES
        if is_first:
            body = self._read_properties(message, data)
            if body is None:
                if is_last:
                    raise ProtocolError(f"message {message.number} ends inside its properties")
                return None
            data = body
        elif not data and not is_last:
            return None
        message.body_bytes += len(data)
        if message.body_bytes > message.max_body_bytes:
            raise ProtocolError(
                f"the body of message {message.number} has more than {message.max_body_bytes} bytes"
            )
        if is_last:
            message.arrival = _WHOLE
            if message.request is not None:
                del self._awaited[message.number]
        return MessagePiece(message, data, is_first, is_last)

    def _read_properties(self, message: IncomingMessage, data: bytes) -> bytes | None:
        """Return where the body begins in what has come; None if it has not."""
        source: bytes | bytearray = data
        if message.head is not None:
            message.head += data
            source = message.head
        if len(source) < MAX_VARINT_BYTES and is_cut_varint(source):
            message.head = bytearray(source)
            return None
        length, start = decode_varint(source, 0)
        if length > self._limits.max_properties_bytes:
            raise ProtocolError(f"message {message.number} has {length} bytes of properties")
        end = start + length
        if len(source) < end:
            if message.head is None:
                message.head = bytearray(data)
            return None
        message.properties = decode_properties(source[start:end], self._limits.max_properties)
        message.head = None
        message.arrival = _IN_BODY
        return bytes(source[end:])
