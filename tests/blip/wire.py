"""What the tests of BLIP share: vectors, a peer that cuts frames anywhere, a wire."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgesync.blip.connection import Connection
from edgesync.blip.frame import COMPRESSED, MORE_COMING, encode_varint
from edgesync.blip.message import IncomingMessage, MessagePiece, encode_properties

VECTORS: Final = Path(__file__).parent.parent / "vectors"
RECORDED: Final = VECTORS / "recorded"


def vectors(name: str) -> Any:  # JSON, read by each test as its file says
    """Load a file of vectors."""
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


class Message(NamedTuple):
    """A whole message, to compare."""

    number: int
    type: int
    properties: Mapping[str, str]
    body: bytes


class FramePeer:
    """Make frames of any cut: the far side of a connection, without its rules."""

    def __init__(self) -> None:
        self._checksum = 0
        self._deflater = zlib.compressobj(6, wbits=-15, memLevel=9)

    def frame(self, number: int, flags: int, payload: bytes) -> bytes:
        """Make a frame with this very payload; a compressed one may be empty, too."""
        self._checksum = zlib.crc32(payload, self._checksum)
        if flags & COMPRESSED and payload:
            data = self._deflater.compress(payload) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
            payload = data[:-4]
        head = encode_varint(number) + bytes([flags])
        return head + payload + self._checksum.to_bytes(4, "big")

    def message(
        self,
        number: int,
        properties: Mapping[str, str],
        body: bytes = b"",
        *,
        flags: int = 0,
        cuts: Iterable[int] = (),
    ) -> Iterator[bytes]:
        """Make the frames of a message, its payload cut at these places."""
        return self.cut(number, flags, encode_properties(properties) + body, cuts)

    def cut(self, number: int, flags: int, payload: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
        """Make frames of a payload, cut at these places."""
        places = [0, *sorted(cuts), len(payload)]
        parts = [payload[start:end] for start, end in pairwise(places)]
        for part in parts[:-1]:
            yield self.frame(number, flags | MORE_COMING, part)
        yield self.frame(number, flags, parts[-1])


class Collector:
    """Join pieces to messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.incoming: list[IncomingMessage] = []
        self._bodies: dict[IncomingMessage, list[bytes]] = {}

    def take(self, piece: MessagePiece) -> None:
        """Append a piece to its message, which must have begun."""
        message = piece.message
        assert piece.is_first == (message not in self._bodies)
        parts = self._bodies.setdefault(message, [])
        parts.append(piece.data)
        if piece.is_last:
            body = b"".join(self._bodies.pop(message))
            self.incoming.append(message)
            self.messages.append(
                Message(message.number, message.type, dict(message.properties), body)
            )

    def feed(self, connection: Connection, frames: Iterable[bytes]) -> list[Message]:
        """Have a connection receive frames; return all messages so far."""
        for frame in frames:
            for piece in connection.receive(frame):
                self.take(piece)
        return self.messages


def received(connection: Connection, frames: Iterable[bytes]) -> list[Message]:
    """Return the messages that a connection makes of frames."""
    return Collector().feed(connection, frames)


def drain(connection: Connection) -> list[bytes]:
    """Take all frames that a connection can send now."""
    frames = []
    while connection.has_output:
        frame = connection.frame_to_send()
        assert frame is not None
        frames.append(frame)
    assert connection.frame_to_send() is None
    return frames


def send_requests(connection: Connection, count: int) -> None:
    """Send requests without content, so that their numbers may be answered."""
    for _ in range(count):
        connection.send_request({})
    drain(connection)
