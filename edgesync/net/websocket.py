"""WebSocket: whole messages out of the stream, frames into it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Final, NamedTuple

import gevent
from geventwebsocket.websocket import Header, WebSocket

from edgesync.limits import Limits
from edgesync.net.transport import Transport

NO_CODE: Final = 1005  # what an empty CLOSE means; never on the wire
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
TOO_BIG: Final = 1009

_READ_BYTES: Final = 65_536
_READS_PER_PAUSE: Final = 8
_FRAMES_PER_TURN: Final = 256  # a read may bring 10,000 small ones
_MAX_CONTROL_BYTES: Final = 125
_MAX_REASON_BYTES: Final = 123
_TRANSLATE_FROM_BYTES: Final = 512
_XOR_TABLES: Final = tuple(bytes(byte ^ mask for byte in range(256)) for mask in range(256))

_FIN: Final = 0x80
_RSV_BITS: Final = 0x70
_OPCODE_BITS: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH_BITS: Final = 0x7F
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_TOO_LONG_FOR_16: Final = 1 << 16
_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FIRST_CONTROL: Final = 0x8
_KNOWN_OPCODES: Final = frozenset((_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG))


class State(Enum):
    """Where a connection stands. Spec: blip.md §1.5."""

    OPEN = auto()
    CLOSING = auto()  # our CLOSE is queued or sent, the peer's is awaited
    CLOSED = auto()  # the peer's CLOSE has come; ours is queued or sent
    FAILED = auto()  # the peer broke the rules; our CLOSE is queued, nothing more is read
    LOST = auto()  # TCP is gone; nothing more is sent


class _Event(Enum):
    CLOSE_QUEUED = auto()
    CLOSE_CAME = auto()
    RULE_BROKEN = auto()
    CUT = auto()


STEPS: Final[Mapping[tuple[State, _Event], State]] = {
    (State.OPEN, _Event.CLOSE_QUEUED): State.CLOSING,
    (State.OPEN, _Event.CLOSE_CAME): State.CLOSED,
    (State.CLOSING, _Event.CLOSE_CAME): State.CLOSED,
    (State.OPEN, _Event.RULE_BROKEN): State.FAILED,
    (State.CLOSING, _Event.RULE_BROKEN): State.FAILED,
    (State.OPEN, _Event.CUT): State.LOST,
    (State.CLOSING, _Event.CUT): State.LOST,
    (State.CLOSED, _Event.CUT): State.LOST,
    (State.FAILED, _Event.CUT): State.LOST,
}


class _Violation(Exception):  # noqa: N818 - it never leaves this module
    """The peer broke a rule of RFC 6455 or of ours."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class PeerSocket(WebSocket):  # type: ignore[misc]  # gevent-websocket has no types
    """One peer's WebSocket, after the upgrade.

    One greenlet calls `receive`, one other `send` and `send_control`; `ping`,
    `close` and `drop` may be called by anybody, as they never wait. After both
    loops one of them calls `finish`.

    Once the connection leaves `OPEN` for whatever reason, a clock of
    `Limits.close_timeout_s` starts; who still reads or writes when it strikes
    finds the connection cut. So both loops end by themselves.

    What is corrected in gevent-websocket's class, each point tested:

    * CLOSE carries code and reason, the peer's is echoed with its own payload,
      and ours waits for the peer's;
    * PONG and CLOSE pass the writer between two batches of frames, and are
      never written by the reader, which could then not read on;
    * refused with 1002: unmasked frames, RSV bits, unknown opcodes, bad
      continuations, long or fragmented control frames, lengths not in their
      shortest form, bad CLOSE payloads; with 1003: text; with 1009: messages
      above `Limits.max_frame_bytes`, fragments taken together. All of this
      by the header, before any payload is waited for;
    * a violation is answered with CLOSE, and what the peer is still sending is
      discarded, lest TCP's reset overtake the CLOSE;
    * one read may bring many messages; unmasking is 30 to 390 times faster;
    * a garbage-collected object writes nothing.

    Attributes:
        on_control: Called when a PONG, PING or CLOSE was queued.
        close_received: Code and reason of the peer's CLOSE; code 1005 for none.
        last_received_at: When bytes last came, in monotonic seconds.
        failure: Why the connection broke, for a log; None if it did not.

    Spec: blip.md §1.4, §1.5.
    """

    __slots__ = (
        "_buffer",
        "_clock",
        "_controls",
        "_limits",
        "_message",
        "_reads",
        "_state",
        "_transport",
        "_wanted",
        "close_received",
        "failure",
        "last_received_at",
        "on_control",
    )

    def __init__(self, transport: Transport, limits: Limits, early: bytes = b"") -> None:
        """Take over a connection; `early` are bytes that were read too many."""
        super().__init__({}, _Stream(transport.recv, transport.sendall), None)
        self._transport = transport
        self._limits = limits
        self._buffer = bytearray(early)
        self._wanted = 2  # bytes in the buffer, below which there is nothing to parse
        self._message: bytearray | None = None  # a fragmented one
        self._controls: dict[int, bytes] = {}  # payloads by opcode, in order
        self._state = State.OPEN
        self._clock: gevent.Greenlet[[], None] | None = None
        self._reads = 0
        self.on_control: Callable[[], None] = _do_nothing
        self.close_received: tuple[int, str] | None = None
        self.last_received_at = time.monotonic()
        self.failure: str | None = None

    def __del__(self) -> None:
        """Do nothing: gevent-websocket would send a CLOSE."""

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent and messages can come."""
        return self._state is State.OPEN

    @property
    def _is_reading(self) -> bool:
        return self._state is State.OPEN or self._state is State.CLOSING

    @property
    def has_control(self) -> bool:
        """Whether `send_control` has something to send."""
        return bool(self._controls)

    def receive(self) -> list[bytes]:
        """Wait; return messages that are complete, [] once the connection is over.

        It is over when the peer's CLOSE has come, when TCP is gone, or when
        the peer broke a rule; a CLOSE that answers is then queued. After our
        own `close`, messages are discarded until the peer's CLOSE comes.
        """
        while self._is_reading:
            if messages := self._complete_messages():
                return messages
            if len(self._buffer) < self._wanted:
                self._read()
            else:
                gevent.sleep(0)  # nothing but control frames: let others have their turn
        return []

    def send(self, frames: Sequence[bytes]) -> None:
        """Send each frame as one binary message, all of them at once.

        Waits until the kernel has taken them. Frames after a CLOSE are
        dropped without a word, as is the connection if it fails.

        Args:
            frames: Together about 64 KiB at most, so that PONG need not wait.
        """
        if self._state is State.OPEN:
            pieces = []
            for frame in frames:
                pieces.append(_binary_header(len(frame)))
                pieces.append(frame)
            self._write(b"".join(pieces))

    def send_control(self) -> None:
        """Send the PONG, PING and CLOSE that are queued. For the writer only."""
        if self._controls and self._state is not State.LOST:
            controls, self._controls = self._controls, {}
            self._write(b"".join(_control(*each) for each in controls.items()))

    def ping(self) -> None:
        """Queue a PING."""
        self._queue(_PING, b"")

    def close(self, code: int, reason: str = "") -> None:
        """Queue our CLOSE; does nothing if the connection is not open any more.

        Args:
            code: One that may be sent: 1000 to 1003, 1007 to 1011, 3000 to 4999.
            reason: Cut off after 123 bytes.

        Spec: tls-and-auth.md §7.
        """
        if not _may_be_sent(code):
            raise ValueError(f"{code} is no close code")
        if self._state is State.OPEN:
            self._close_with(_close_payload(code, reason), _Event.CLOSE_QUEUED)

    def finish(self) -> None:
        """End the connection in good order; takes at most twice `close_timeout_s`.

        Sends what is queued, waits for the peer's CLOSE, then ends TCP so that
        the peer can still read everything.

        Spec: blip.md §1.5.
        """
        timeout_s = self._limits.close_timeout_s
        in_good_order = False
        with suppress(gevent.Timeout), gevent.Timeout(timeout_s):
            self.send_control()
            while self._state is State.CLOSING:
                self.receive()
            in_good_order = self._state is not State.LOST
        if self._clock is not None:
            self._clock.kill(block=False)
        if in_good_order:
            self._transport.linger(timeout_s)
        self.drop()

    def drop(self) -> None:
        """Cut TCP without CLOSE; harmless if it is gone already."""
        self._step(_Event.CUT)
        self._controls.clear()
        self._transport.close()
        self.on_control()  # lets a writer that waits for work look around

    def _read(self) -> None:
        self._reads += 1
        if self._reads % _READS_PER_PAUSE == 0:
            gevent.sleep(0)  # a socket that is always ready would never let others run
        try:
            data = self._transport.recv(_READ_BYTES)
        except OSError as error:
            self._lose(str(error) or type(error).__name__)
            return
        if not data:
            self._lose("the peer ended TCP without CLOSE")
            return
        self.last_received_at = time.monotonic()
        self._buffer += data

    def _write(self, data: bytes) -> None:
        try:
            self._transport.sendall(data)
        except TimeoutError:
            self._lose(f"the peer took not one byte for {self._limits.send_timeout_s:g} s")
        except OSError as error:
            self._lose(str(error) or type(error).__name__)

    def _lose(self, why: str) -> None:
        if self._state is State.OPEN or self._state is State.CLOSING:
            self.failure = why
        self.drop()

    def _step(self, event: _Event) -> None:
        self._state = STEPS.get((self._state, event), self._state)
        if self._clock is None and self._state not in (State.OPEN, State.LOST):
            self._clock = gevent.spawn_later(self._limits.close_timeout_s, self.drop)

    def _queue(self, opcode: int, payload: bytes) -> None:
        if self._state is State.OPEN:
            self._controls[opcode] = payload  # of several PINGs the last one needs an answer
            self.on_control()

    def _close_with(self, payload: bytes, event: _Event) -> None:
        if self._state is State.OPEN:
            self._controls[_CLOSE] = payload
        self._step(event)
        self.on_control()

    def _complete_messages(self) -> list[bytes]:
        """Take the complete frames from the buffer, up to a limit."""
        messages: list[bytes] = []
        buffer = self._buffer
        position = 0
        try:
            for _ in range(_FRAMES_PER_TURN):
                if not (payload_at := self._find_payload(position)):
                    break
                first = buffer[position]
                position = self._wanted
                payload = _unmask(buffer[payload_at:position], buffer[payload_at - 4 : payload_at])
                if first != _FIN | _BINARY:
                    self._take(first, payload, messages)
                    if not self._is_reading:
                        break
                elif self._state is State.OPEN:
                    messages.append(payload)
        except _Violation as violation:
            self._fail(violation)
        del buffer[:position]
        self._wanted -= position
        return messages

    def _find_payload(self, position: int) -> int:
        """Check a header as far as it is there; return where its payload is.

        The payload's end is then in `_wanted`. Returns 0 if the frame is not
        complete; `_wanted` then says how many bytes must be there to go on.

        Raises:
            _Violation: The frame may not be sent.
        """
        buffer = self._buffer
        available = len(buffer)
        if available < self._wanted:
            return 0
        if available < position + 2:
            self._wanted = position + 2
            return 0
        first, second = buffer[position], buffer[position + 1]
        if first != _FIN | _BINARY or second < _MASKED or self._message is not None:
            self._check(first, second)
        length = second & _LENGTH_BITS
        payload_at = position + 6
        if length >= _LENGTH_16:
            length_bytes = 2 if length == _LENGTH_16 else 8
            payload_at += length_bytes
            if available < payload_at - 4:
                self._wanted = payload_at - 4
                return 0
            length = int.from_bytes(buffer[position + 2 : payload_at - 4], "big")
            _check_length(length, length_bytes)
        room = self._limits.max_frame_bytes - len(self._message or b"")
        if length > room and not first & _FIRST_CONTROL:
            raise _Violation(TOO_BIG, f"more than {self._limits.max_frame_bytes} bytes")
        self._wanted = end = payload_at + length
        return payload_at if available >= end else 0

    def _check(self, first: int, second: int) -> None:
        """Check the first two bytes of a frame that is not the usual one."""
        opcode = first & _OPCODE_BITS
        if first & _RSV_BITS:
            raise _Violation(PROTOCOL_ERROR, "reserved bit set")
        if opcode not in _KNOWN_OPCODES:
            raise _Violation(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        if second < _MASKED:
            raise _Violation(PROTOCOL_ERROR, "frame is not masked")
        if opcode == _TEXT:
            raise _Violation(UNSUPPORTED_DATA, "text is not spoken here")
        if opcode >= _FIRST_CONTROL:
            if not first & _FIN or second & _LENGTH_BITS > _MAX_CONTROL_BYTES:
                raise _Violation(PROTOCOL_ERROR, "control frame is fragmented or too long")
        elif (opcode == _CONTINUATION) != (self._message is not None):
            raise _Violation(PROTOCOL_ERROR, "fragments out of order")

    def _take(self, first: int, payload: bytes, messages: list[bytes]) -> None:
        """Take a control frame or a fragment."""
        if first & _OPCODE_BITS >= _FIRST_CONTROL:
            self._take_control(first & _OPCODE_BITS, payload)
            return
        if self._message is None:
            self._message = bytearray()
        self._message += payload
        if first & _FIN:
            if self._state is State.OPEN:
                messages.append(bytes(self._message))
            self._message = None

    def _take_control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._queue(_PONG, payload)
        elif opcode == _CLOSE:
            self.close_received = _parse_close(payload)
            self._close_with(payload, _Event.CLOSE_CAME)  # the echo, unless ours is on its way

    def _fail(self, violation: _Violation) -> None:
        self.failure = f"{violation} ({violation.code})"
        self._close_with(_close_payload(violation.code, str(violation)), _Event.RULE_BROKEN)


class _Stream(NamedTuple):
    """What gevent-websocket wants to read and write with."""

    read: Callable[[int], bytes]
    write: Callable[[bytes], None]


def _do_nothing() -> None:
    """Stand in for a callback that nobody set."""


def _binary_header(length: int) -> bytes:
    """Return the header of a binary message; gevent-websocket's takes four times as long."""
    if length < _LENGTH_16:
        return bytes((_FIN | _BINARY, length))
    if length < _TOO_LONG_FOR_16:
        return bytes((_FIN | _BINARY, _LENGTH_16, length >> 8, length & 0xFF))
    return bytes((_FIN | _BINARY, _LENGTH_64)) + length.to_bytes(8, "big")


def _control(opcode: int, payload: bytes) -> bytes:
    return bytes(Header.encode_header(True, opcode, b"", len(payload), 0)) + payload


def _check_length(length: int, length_bytes: int) -> None:
    if length >> 63:
        raise _Violation(PROTOCOL_ERROR, "length above 2^63")
    if length < (_LENGTH_16 if length_bytes == 2 else _TOO_LONG_FOR_16):
        raise _Violation(PROTOCOL_ERROR, "length is not in its shortest form")


def _unmask(payload: bytearray, mask: bytearray) -> bytes:
    """Undo the mask: as one number if short, else each fourth byte by a table."""
    length = len(payload)
    if length < _TRANSLATE_FROM_BYTES:
        key = int.from_bytes((mask * (length // 4 + 1))[:length], "little")
        return (int.from_bytes(payload, "little") ^ key).to_bytes(length, "little")
    for lane in range(4):
        payload[lane::4] = payload[lane::4].translate(_XOR_TABLES[mask[lane]])
    return bytes(payload)


def _may_be_sent(code: int) -> bool:
    return 1000 <= code <= 1003 or 1007 <= code <= 1011 or 3000 <= code <= 4999


def _close_payload(code: int, reason: str) -> bytes:
    text = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
    return code.to_bytes(2, "big") + text


def _parse_close(payload: bytes) -> tuple[int, str]:
    """Read the peer's CLOSE.

    Raises:
        _Violation: It has no code, one that is not sent, or a text that is no UTF-8.
    """
    if not payload:
        return NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (_may_be_sent(code) or 1012 <= code <= 1014):
        raise _Violation(PROTOCOL_ERROR, "no close code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise _Violation(PROTOCOL_ERROR, "the close reason is no UTF-8") from None
