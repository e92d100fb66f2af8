"""Messages: properties and body, as they arrive and as they leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, IntEnum, auto
from itertools import chain
from typing import Final, NamedTuple

from edgesync.blip.frame import COMPRESSED, NOREPLY, TYPE_MASK, URGENT, encode_varint
from edgesync.errors import ProtocolError
from edgesync.limits import KIB

LARGEST_FRAME_BYTES: Final = 16 * KIB
"""Of the frames we send, header and checksum included. Spec: blip.md §2.4."""

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)


class MessageType(IntEnum):
    """Request, reply and error reply. Spec: blip.md §2.1."""

    MSG = 0
    RPY = 1
    ERR = 2


MESSAGE_TYPES: Final = (MessageType.MSG, MessageType.RPY, MessageType.ERR)


class Arrival(Enum):
    """How far an incoming message has come, in this order; ANSWERED is for requests."""

    IN_PROPERTIES = auto()
    IN_BODY = auto()
    WHOLE = auto()
    ANSWERED = auto()


class Departure(Enum):
    """Where an outgoing message stands.

        QUEUED    it takes turns
        STARVED   its streamed body lacks data for a frame; `feed` queues it again
        PAUSED    too much of it is unacknowledged; an ACK queues it again, or finds it STARVED
        SENT      its last frame has left

    Spec: blip.md §4, §5.1.
    """

    QUEUED = auto()
    STARVED = auto()
    PAUSED = auto()
    SENT = auto()


_STARVED: Final = Departure.STARVED

# --- properties ----------------------------------------------------------------


def encode_properties(properties: Mapping[str, str]) -> bytes:
    """Return the beginning of a message: the length of its properties, and these.

    Raises:
        ValueError: A NUL is in a key or value, or it is not Unicode.

    Spec: blip.md §2.3.
    """
    if not properties:
        return b"\x00"
    text = "\0".join(chain.from_iterable(properties.items())) + "\0"
    if text.count("\0") != 2 * len(properties):
        raise ValueError(f"a property has a NUL: {properties}")
    block = text.encode()
    return encode_varint(len(block)) + block


def decode_properties(block: bytes | bytearray, max_properties: int) -> dict[str, str]:
    """Read the properties of a message, without their length. Of equal keys the first counts.

    Raises:
        ProtocolError: They are not whole pairs of strings in UTF-8, or too many.

    Spec: blip.md §2.3.
    """
    if not block:
        return {}
    try:
        strings = block.decode().split("\0")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the properties of a message are not UTF-8: {error}") from error
    if strings.pop():
        raise ProtocolError("the properties of a message do not end with NUL")
    if len(strings) % 2:
        raise ProtocolError("a property of a message has no value")
    if len(strings) > 2 * max_properties:
        raise ProtocolError(f"a message has {len(strings) // 2} properties, limit {max_properties}")
    pairs = iter(strings)
    properties = dict(zip(pairs, pairs))  # noqa: B905  even, and "strict" costs more than the rest
    if 2 * len(properties) == len(strings):
        return properties
    pairs = iter(strings)
    return _first_of_each(zip(pairs, pairs, strict=False))


def _first_of_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    properties: dict[str, str] = {}
    for key, value in pairs:
        properties.setdefault(key, value)
    return properties


def bool_property(properties: Mapping[str, str], name: str) -> bool:
    """Read a boolean property; a missing one is false. Spec: blip.md §2.3."""
    value = properties.get(name)
    if value is None:
        return False
    return value.lower() in ("true", "yes") or bool(int_property(properties, name))


def int_property(properties: Mapping[str, str], name: str) -> int | None:
    """Read an integer property of 64 bits; None if missing or anything else.

    Spec: blip.md §2.3.
    """
    value = properties.get(name)
    if value is None or not _INTEGER.fullmatch(value):
        return None
    number = int(value)
    return number if -(2**63) <= number < 2**63 else None


# --- messages --------------------------------------------------------------------


class IncomingMessage:
    """A message of the peer: all but its body, which comes in `MessagePiece`s.

    Attributes:
        number: The peer's number of its request, or ours of the one it answers.
        type: Request, reply or error reply.
        properties: Empty until the first piece.
        urgent: Whether it goes ahead of others.
        noreply: Whether no reply may be sent.
        compressed: Whether its first frame was.
        request: Our request that it answers, None if it is a request.
        wire_bytes: Payload as transmitted plus checksums, so far. Spec: blip.md §5.
        arrival, unacked_bytes, body_bytes, max_body_bytes, head: The inbox's.
    """

    __slots__ = (
        "arrival",
        "body_bytes",
        "compressed",
        "head",
        "max_body_bytes",
        "noreply",
        "number",
        "properties",
        "request",
        "type",
        "unacked_bytes",
        "urgent",
        "wire_bytes",
    )

    def __init__(
        self, number: int, flags: int, request: OutgoingMessage | None, max_body_bytes: int
    ) -> None:
        self.number = number
        self.type = MESSAGE_TYPES[flags & TYPE_MASK]
        self.properties: dict[str, str] = {}
        self.urgent = flags & URGENT != 0
        self.noreply = flags & NOREPLY != 0
        self.compressed = flags & COMPRESSED != 0
        self.request = request
        self.wire_bytes = 0
        self.unacked_bytes = 0
        self.body_bytes = 0
        self.max_body_bytes = max_body_bytes
        self.head: bytearray | None = None  # of the properties, while they are cut off
        self.arrival = Arrival.IN_PROPERTIES

    @property
    def profile(self) -> str:
        """What a request asks for."""
        return self.properties.get("Profile", "")

    @property
    def is_error(self) -> bool:
        """Whether it is an error reply."""
        return self.type is MessageType.ERR

    @property
    def error_domain(self) -> str:
        """Whose `error_code` it is. Spec: blip.md §6."""
        return self.properties.get("Error-Domain", "BLIP")

    @property
    def error_code(self) -> int:
        """The code of an error reply, 0 if it has none. Spec: blip.md §6."""
        return int_property(self.properties, "Error-Code") or 0

    def __repr__(self) -> str:
        return f"<{self.type.name} {self.number} {self.properties}>"


class MessagePiece(NamedTuple):
    """A part of a message's body, at most 64 KiB.

    A message of one frame that inflates to at most that is exactly one piece.
    """

    message: IncomingMessage
    data: bytes
    is_first: bool  # from now on, the properties are there
    is_last: bool


class OutgoingMessage:
    """A message of ours: made, queued, cut into frames.

    Attributes:
        number: 0 until the first frame of a request goes; a reply has its request's.
        flags: Of all its frames. Spec: blip.md §2.1.
        buffered_bytes: What has not left yet, properties included.
        max_reply_bytes: The limit of the reply's body.
        departure: Where it stands; the outbox's, as are the next two.
        sent_bytes, unacked_bytes: Counted bytes. Spec: blip.md §5.1.
        on_data: What `feed` calls when there is a frame for a message that was STARVED.
    """

    __slots__ = (
        "_chunks",
        "_is_fed",
        "_offset",
        "buffered_bytes",
        "departure",
        "flags",
        "max_reply_bytes",
        "number",
        "on_data",
        "sent_bytes",
        "unacked_bytes",
    )

    def __init__(
        self,
        number: int,
        flags: int,
        properties: Mapping[str, str],
        body: bytes,
        *,
        streamed: bool = False,
        max_reply_bytes: int = 0,
    ) -> None:
        head = encode_properties(properties)
        # Few at any time, and a list of one has a tenth of the bytes of a deque.
        self._chunks = [head + body] if len(body) < LARGEST_FRAME_BYTES else [head, body]
        self._offset = 0  # what has left of the first chunk
        self._is_fed = not streamed
        self.number = number
        self.flags = flags
        self.buffered_bytes = len(head) + len(body)
        self.max_reply_bytes = max_reply_bytes
        self.departure = _STARVED
        self.sent_bytes = 0
        self.unacked_bytes = 0
        self.on_data: Callable[[OutgoingMessage], None] | None = None

    @property
    def type(self) -> MessageType:
        """Request, reply or error reply."""
        return MESSAGE_TYPES[self.flags & TYPE_MASK]

    @property
    def is_sent(self) -> bool:
        """Whether the last frame has left."""
        return self.departure is Departure.SENT

    @property
    def has_frame(self) -> bool:
        """Whether the next frame can be made.

        The flag that ends a message stands in its last frame, which may not be
        empty; so while more may be fed, a frame's worth of it stays here.
        """
        return self._is_fed or self.buffered_bytes > LARGEST_FRAME_BYTES

    def feed(self, data: bytes, is_last: bool) -> None:
        """Append to a streamed body.

        Until the last call up to `LARGEST_FRAME_BYTES` are held back, so feed
        on before `buffered_bytes` has come down to that.

        Raises:
            RuntimeError: The body has ended already.
        """
        if self._is_fed:
            raise RuntimeError(f"the body of message {self.number} has ended already")
        if data:
            self._chunks.append(data)
            self.buffered_bytes += len(data)
        self._is_fed = is_last
        if self.departure is _STARVED and self.on_data is not None and self.has_frame:
            self.on_data(self)

    def take(self, max_bytes: int) -> tuple[bytes, bool]:
        """Return the payload of the next frame and whether it is the last one."""
        if self.buffered_bytes > max_bytes or len(self._chunks) > 1 or self._offset:
            return self._cut(max_bytes), self._is_fed and not self.buffered_bytes
        self.buffered_bytes = 0
        return self._chunks.pop(), self._is_fed

    def _cut(self, max_bytes: int) -> bytes:
        parts = []
        wanted = min(max_bytes, self.buffered_bytes)
        self.buffered_bytes -= wanted
        while wanted:
            chunk = self._chunks[0]
            part = chunk[self._offset : self._offset + wanted]
            parts.append(part)
            wanted -= len(part)
            self._offset += len(part)
            if self._offset == len(chunk):
                del self._chunks[0]
                self._offset = 0
        return b"".join(parts)

    def __repr__(self) -> str:
        return f"<{self.type.name} {self.number} {self.departure.name}>"
