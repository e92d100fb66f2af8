"""Frames: header, checksum and deflate, one direction each."""

from __future__ import annotations

from typing import Final, NamedTuple

from isal import isal_zlib

from edgesync.errors import ProtocolError
from edgesync.limits import KIB, Limits

TYPE_MASK: Final = 0x07
COMPRESSED: Final = 0x08
URGENT: Final = 0x10
NOREPLY: Final = 0x20
MORE_COMING: Final = 0x40
ACK_OF_REQUEST: Final = 4
ACK_OF_REPLY: Final = 5

PIECE_BYTES: Final = 64 * KIB
"""What is inflated at a time."""
MAX_VARINT_BYTES: Final = 10
CHECKSUM_BYTES: Final = 4
DEFLATE_RESERVE: Final = 64
"""Bytes of a frame left for its header, checksum, and what deflate may add: some 10."""
DEFLATE_LEVEL: Final = 1
"""Processor time is scarcer than a local network. 1 kB of JSON costs 8 us and becomes 338
bytes; higher levels of ISA-L save 20 more and take a compressor of thrice the memory, and zlib
takes 14 us at its level 1."""

DEFLATE_MEM_LEVEL: Final = 2
"""A compressor of 165 KiB; at the usual 8 it has 350, to compress 1 kB as fast and as well."""

_CONTINUED: Final = 0x80
"""The top bit: a further byte of the varint follows."""
_THREE_BYTES_FROM: Final = 1 << 14
_SYNC_TRAILER: Final = b"\x00\x00\xff\xff"
_ONE_BYTE: Final = tuple(bytes([value]) for value in range(_CONTINUED))


class FrameHeader(NamedTuple):
    """What stands before the payload. Spec: blip.md §2.1."""

    number: int
    flags: int
    payload_start: int


def encode_varint(value: int) -> bytes:
    """Encode an integer of 0 to 2**64 - 1. Spec: blip.md §2.1."""
    if value < _CONTINUED:
        return _ONE_BYTE[value]
    if value < _THREE_BYTES_FROM:
        return bytes((value & 0x7F | _CONTINUED, value >> 7))
    groups = bytearray()
    while value >= _CONTINUED:
        groups.append(value & 0x7F | _CONTINUED)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def decode_varint(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """Return an integer and where it ends.

    Raises:
        ProtocolError: It is cut off or has more than 64 bits.

    Spec: blip.md §2.1.
    """
    if start + 1 < len(data):  # most of them have one byte or two
        first, second = data[start], data[start + 1]
        if first < _CONTINUED:
            return first, start + 1
        if second < _CONTINUED:
            return first & 0x7F | second << 7, start + 2
    value = shift = 0
    end = start
    for byte in data[start : start + MAX_VARINT_BYTES]:
        end += 1
        value |= (byte & 0x7F) << shift
        if byte < _CONTINUED:
            if value >> 64:
                break
            return value, end
        shift += 7
    raise ProtocolError(f"the varint at byte {start} is cut off or has more than 64 bits")


def is_cut_varint(data: bytes | bytearray) -> bool:
    """Tell whether `data` is no more than the beginning of a varint."""
    return len(data) < MAX_VARINT_BYTES and (not data or min(data) >= _CONTINUED)


def parse_header(frame: bytes) -> FrameHeader:
    """Read the header of any frame.

    Raises:
        ProtocolError: It is incomplete.

    Spec: blip.md §2.1, §7.
    """
    number, flags_at = decode_varint(frame, 0)
    if flags_at == len(frame) or (flags := frame[flags_at]) >= _CONTINUED:
        raise ProtocolError(f"a frame of message {number} has no valid flags")
    return FrameHeader(number, flags, flags_at + 1)


def encode_ack(number: int, kind: int, received_bytes: int) -> bytes:
    """Make an ACK frame.

    Args:
        number: The message's.
        kind: `ACK_OF_REQUEST` or `ACK_OF_REPLY`.
        received_bytes: Counted bytes of the whole message so far.

    Spec: blip.md §5.2.
    """
    return (
        encode_varint(number) + _ONE_BYTE[kind | URGENT | NOREPLY] + encode_varint(received_bytes)
    )


class FrameDecoder:
    """Decode the payloads of one direction of a connection, in order.

    Knows checksum and deflate; does not know messages. A payload comes in
    pieces of at most 64 KiB: the first from `begin`; while `is_midway`, the
    next from `go_on`. All pieces but the last are exactly that long.

    Spec: blip.md §2.1, §3.
    """

    def __init__(self, limits: Limits) -> None:
        self.is_midway = False
        self._max_frame_bytes = limits.max_frame_bytes
        # Made when first used: it takes 85 KiB, and clients that only wait never compress.
        self._inflater: isal_zlib.Decompress | None = None
        self._checksum = 0
        self._expected_checksum = 0
        # Only while midway:
        self._is_compressed = False
        self._payload = b""  # with the trailer, if compressed
        self._offset = 0  # up to where the payload was taken
        self._input = b""  # taken, not inflated
        self._inflated = b""  # beyond the last piece

    def begin(self, frame: bytes, header: FrameHeader) -> bytes:
        """Return the first piece, checked if it is the only one.

        Raises:
            ProtocolError: Size, checksum or deflate is wrong; final.
        """
        number, flags, start = header
        end = len(frame) - CHECKSUM_BYTES
        if end < start:
            raise ProtocolError(f"a frame of message {number} has no room for its checksum")
        if len(frame) > self._max_frame_bytes:
            raise ProtocolError(f"a frame has {len(frame)} bytes, limit {self._max_frame_bytes}")
        self._expected_checksum = int.from_bytes(frame[end:], "big")
        payload = frame[start:end]
        if not flags & COMPRESSED or not payload:  # inflating nothing breaks: §3.4
            if len(payload) <= PIECE_BYTES:
                return self._end(payload)
            return self._begin_long(payload, b"", b"", is_compressed=False)
        payload += _SYNC_TRAILER
        if len(payload) > PIECE_BYTES:
            return self._begin_long(payload, b"", b"", is_compressed=True)
        data, tail = self._inflate(payload, PIECE_BYTES + 1)
        if len(data) <= PIECE_BYTES:
            return self._end(data)
        return self._begin_long(b"", tail, data, is_compressed=True)

    def go_on(self) -> bytes:
        """Return the next piece of the payload.

        Raises:
            ProtocolError: Checksum or deflate is wrong; final.
        """
        return self._next_inflated() if self._is_compressed else self._next_raw()

    def _begin_long(
        self, payload: bytes, inflater_input: bytes, inflated: bytes, *, is_compressed: bool
    ) -> bytes:
        self.is_midway = True
        self._is_compressed = is_compressed
        self._payload = payload
        self._offset = 0
        self._input = inflater_input
        self._inflated = inflated
        return self.go_on()

    def _next_raw(self) -> bytes:
        piece = self._payload[self._offset : self._offset + PIECE_BYTES]
        self._offset += len(piece)
        return self._end(piece) if self._offset == len(self._payload) else self._count(piece)

    def _next_inflated(self) -> bytes:
        """Inflate until there is a byte more than a piece, so that the last is known as such.

        The input goes in by pieces too: what is not taken of it is copied.
        """
        data = self._inflated
        while len(data) <= PIECE_BYTES:
            more, self._input = self._inflate(self._input, PIECE_BYTES + 1 - len(data))
            data += more
            if len(data) <= PIECE_BYTES:  # nothing is left in the inflater
                self._input = self._payload[self._offset : self._offset + PIECE_BYTES]
                if not self._input:
                    return self._end(data)
                self._offset += PIECE_BYTES
        self._inflated = data[PIECE_BYTES:]
        return self._count(data[:PIECE_BYTES])

    def _inflate(self, source: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        """Inflate up to a length; also return the input that is left."""
        inflater = self._inflater
        if inflater is None:
            self._inflater = inflater = isal_zlib.decompressobj(wbits=-isal_zlib.MAX_WBITS)
        try:
            data = inflater.decompress(source, max_bytes)
        except isal_zlib.error as error:  # type: ignore[misc]  # its types call it an instance
            raise ProtocolError(f"a compressed frame cannot be inflated: {error}") from error
        if inflater.eof:
            raise ProtocolError("a compressed frame ends the deflate stream")
        return data, inflater.unconsumed_tail

    def _count(self, piece: bytes) -> bytes:
        self._checksum = isal_zlib.crc32(piece, self._checksum)
        return piece

    def _end(self, piece: bytes) -> bytes:
        self._checksum = checksum = isal_zlib.crc32(piece, self._checksum)
        if checksum != self._expected_checksum:
            raise ProtocolError(
                f"a frame has the checksum {self._expected_checksum:08x}, not {checksum:08x}"
            )
        if self.is_midway:
            self.is_midway = False
            self._payload = self._input = self._inflated = b""
        return piece


class FrameEncoder:
    """Encode the frames of one direction of a connection, in the order they are sent.

    Spec: blip.md §2.1, §3.
    """

    def __init__(self) -> None:
        self._checksum = 0
        # Made when first used, as many connections never compress.
        self._deflater: isal_zlib.Compress | None = None

    def encode(self, number: int, flags: int, payload: bytes) -> bytes:
        """Make a frame; `payload` is at most `capacity` bytes, and not empty if compressed."""
        self._checksum = checksum = isal_zlib.crc32(payload, self._checksum)
        if flags & COMPRESSED:
            payload = self._deflate(payload)
        return b"".join(
            (encode_varint(number), _ONE_BYTE[flags], payload, checksum.to_bytes(4, "big"))
        )

    def rest(self) -> None:
        """Free what deflate keeps; it goes on without what went before, which is legal."""
        self._deflater = None

    def _deflate(self, payload: bytes) -> bytes:
        deflater = self._deflater
        if deflater is None:
            self._deflater = deflater = isal_zlib.compressobj(
                DEFLATE_LEVEL, wbits=-isal_zlib.MAX_WBITS, memLevel=DEFLATE_MEM_LEVEL
            )
        data = deflater.compress(payload) + deflater.flush(isal_zlib.Z_SYNC_FLUSH)
        return data[: -len(_SYNC_TRAILER)]


def capacity(number: int, flags: int, frame_bytes: int) -> int:
    """Return how many plain bytes fit a frame of `frame_bytes`. Spec: blip.md §2.4."""
    if flags & COMPRESSED:
        return frame_bytes - DEFLATE_RESERVE
    return frame_bytes - header_bytes(number) - CHECKSUM_BYTES


def header_bytes(number: int) -> int:
    """Return the length of a frame's header."""
    return max(1, (number.bit_length() + 6) // 7) + 1
