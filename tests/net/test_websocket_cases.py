"""The cases of the Autobahn suite, for a server that speaks binary messages only.

Each is sent to a real listener that echoes, in one write and byte by byte. The
names are the suite's numbers: 1 messages, 2 pings, 3 reserved bits, 4 opcodes,
5 fragments, 7 closing, 9 large messages, 10 fragments that the sender chose.
Section 6, about UTF-8 in texts, is one case: text is refused by its header.
What is expected is stricter than the suite's, which is content with any end of
a connection: the very close code, and that all of it is read before TCP ends.
"""

from __future__ import annotations

from typing import NamedTuple

import gevent
import pytest

from edgesync.limits import MIB
from tests.net.conftest import StartServer
from tests.net.raw_client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    close_payload,
    connect_upgraded,
    frame,
    header,
)

Frames = tuple[tuple[int, bytes], ...]
BEGIN, MIDDLE, END, TEXT = 0x02, 0x00, 0x80, 0x81
GOODBYE = close_payload(1000)
BYTE_BY_BYTE_BELOW = 200


class Case(NamedTuple):
    """What a client sends, and what it must get; without a CLOSE in it, it closes after that."""

    sent: bytes
    answers: Frames


def echoed(sent: bytes, *messages: bytes) -> Case:
    """Return a case in which nothing is wrong."""
    return Case(sent, tuple((BINARY, message) for message in messages))


def failed(sent: bytes, code: int, reason: str) -> Case:
    """Return a case in which the client breaks a rule; what it sends afterwards is not read."""
    ignored = frame(b"never read") + frame(b"nor this", PING)
    return Case(sent + ignored, ((CLOSE, close_payload(code, reason)),))


def closed(payload: bytes) -> Case:
    """Return a case in which the client closes, and goes on all the same."""
    return Case(frame(payload, CLOSE) + frame(b"late") + frame(b"", PING), ((CLOSE, payload),))


def fragments(*parts: bytes) -> bytes:
    """Return a message in that many fragments."""
    first, *middle, last = parts
    inner = b"".join(frame(part, MIDDLE) for part in middle)
    return frame(first, BEGIN) + inner + frame(last, END)


OUT_OF_ORDER = (1002, "fragments out of order")
BAD_CONTROL = (1002, "control frame is fragmented or too long")
NO_CODE = (1002, "no close code")
TOO_BIG = (1009, f"more than {MIB} bytes")

MESSAGES = {
    f"1.2 message of {size}": echoed(frame(b"\xfe" * size), b"\xfe" * size)
    for size in (0, 1, 124, 125, 126, 127, 128, 511, 512, 65_535, 65_536)
}
PINGS = {
    "2.1 ping without payload": Case(frame(b"", PING), ((PONG, b""),)),
    "2.2 ping with a text": Case(frame(b"Hello, world!", PING), ((PONG, b"Hello, world!"),)),
    "2.3 ping with bytes": Case(frame(b"\x00\xff\xfe\xfd", PING), ((PONG, b"\x00\xff\xfe\xfd"),)),
    "2.4 ping of 125": Case(frame(b"\xfe" * 125, PING), ((PONG, b"\xfe" * 125),)),
    "2.5 ping of 126": failed(frame(b"\xfe" * 126, PING), *BAD_CONTROL),
    "2.7 pong that nobody asked for": echoed(frame(b"", PONG) + frame(b"a"), b"a"),
    "2.8 the same with a payload": echoed(frame(b"x" * 125, PONG) + frame(b"a"), b"a"),
    "2.9 pong, then ping": Case(frame(b"a", PONG) + frame(b"b", PING), ((PONG, b"b"),)),
    "2.12 pong of 126": failed(frame(b"\xfe" * 126, PONG), *BAD_CONTROL),
}
RESERVED_BITS = {
    f"3.{bits} reserved bits {bits:03b}": failed(
        frame(b"good") + frame(b"bad", BINARY | bits << 4), 1002, "reserved bit set"
    )
    for bits in range(1, 8)
} | {
    f"3.{bits} reserved bits {bits:03b} of a {name}": failed(
        frame(b"", opcode | bits << 4), 1002, "reserved bit set"
    )
    for bits in (1, 4, 7)
    for name, opcode in {"ping": PING, "close": CLOSE, "fragment": BEGIN}.items()
}
OPCODES = {
    f"4 opcode {opcode}": failed(
        frame(b"good") + frame(b"bad", 0x80 | opcode), 1002, f"unknown opcode {opcode}")
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
}  # fmt: skip
FRAGMENTS = {
    "5.1 ping in fragments": failed(frame(b"a", 0x09) + frame(b"b", END), *BAD_CONTROL),
    "5.2 pong in fragments": failed(frame(b"a", 0x0A) + frame(b"b", END), *BAD_CONTROL),
    "5.3 two fragments": echoed(fragments(b"ab", b"cd"), b"abcd"),
    "5.6 ping between fragments": Case(
        frame(b"ab", BEGIN) + frame(b"now", PING) + frame(b"cd", END),
        ((PONG, b"now"), (BINARY, b"abcd")),
    ),
    "5.7 pong between fragments": echoed(
        frame(b"ab", BEGIN) + frame(b"", PONG) + frame(b"cd", END), b"abcd"
    ),
    "5.9 end of nothing": failed(frame(b"a", END) + frame(b"b"), *OUT_OF_ORDER),
    "5.11 middle of nothing": failed(frame(b"a", MIDDLE) + frame(b"b"), *OUT_OF_ORDER),
    "5.12 end after a whole message": failed(frame(b"whole") + frame(b"a", END), *OUT_OF_ORDER),
    "5.15 end after the end": failed(fragments(b"a", b"b") + frame(b"c", END), *OUT_OF_ORDER),
    "5.18 begun twice": failed(frame(b"a", BEGIN) + frame(b"b", BEGIN), *OUT_OF_ORDER),
    "5.18 whole message in fragments": failed(frame(b"a", BEGIN) + frame(b"b"), *OUT_OF_ORDER),
    "5 empty fragments": echoed(fragments(b"", b"", b""), b""),
    "5 fragments around one that is empty": echoed(fragments(b"ab", b"", b"cd"), b"abcd"),
    "5 text between fragments": failed(
        frame(b"a", BEGIN) + frame(b"b", TEXT), 1003, "text is not spoken here"
    ),
}
TEXTS = {
    "6 text": failed(frame("schön".encode(), TEXT), 1003, "text is not spoken here"),
    "6 text that is no UTF-8": failed(frame(b"\xff", TEXT), 1003, "text is not spoken here"),
    "6 text in fragments": failed(frame(b"a", 0x01), 1003, "text is not spoken here"),
}
CLOSES = {
    "7.1 messages before": echoed(frame(b"a") + frame(b"b"), b"a", b"b"),
    "7.1 close twice": Case(frame(GOODBYE, CLOSE) * 2, ((CLOSE, GOODBYE),)),
    "7.1 close amid fragments": Case(
        frame(b"a", BEGIN) + frame(GOODBYE, CLOSE) + frame(b"b", END), ((CLOSE, GOODBYE),)
    ),
    "7.3 without payload": closed(b""),
    "7.3 of one byte": failed(frame(b"\x03", CLOSE), *NO_CODE),
    "7.3 with a code": closed(close_payload(1000)),
    "7.3 with a reason": closed(close_payload(1000, "Hello, wörld!")),
    "7.3 with the longest reason": closed(close_payload(1000, "*" * 123)),
    "7.3 with too long a reason": failed(
        frame(close_payload(1000, "*" * 124), CLOSE), *BAD_CONTROL
    ),
    "7.5 with a reason that is no UTF-8": failed(
        frame(close_payload(1000) + b"\xce\xba\xed\xa0\x80", CLOSE),
        1002,
        "the close reason is no UTF-8",
    ),
    "7.5 with a reason that is cut": failed(
        frame(close_payload(1000) + b"\xf0\x9f\x98", CLOSE), 1002, "the close reason is no UTF-8"
    ),
    **{
        f"7.7 code {code}": closed(close_payload(code))
        for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999)
    },
    **{
        f"7.9 code {code}": failed(frame(close_payload(code), CLOSE), *NO_CODE)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}
LARGE = {
    "9.2 message of 1 MiB": echoed(frame(b"*" * MIB), b"*" * MIB),
    "9.2 a byte more": Case(header(MIB + 1), ((CLOSE, close_payload(*TOO_BIG)),)),
    "9.4 1 MiB in fragments of 64 KiB": echoed(fragments(*[b"*" * 65_536] * 16), b"*" * MIB),
    "9.4 a byte more in fragments": failed(fragments(*[b"*" * 65_536] * 16, b"*"), *TOO_BIG),
    "9.6 1 MiB in fragments of 256": echoed(fragments(*[b"*" * 256] * 4096), b"*" * MIB),
    "10.1 64 KiB in fragments of 1300": echoed(fragments(*[b"*" * 1300] * 50), b"*" * 65_000),
}
HEADERS = {
    "not masked": failed(b"\x82\x01a", 1002, "frame is not masked"),
    "not masked close": failed(b"\x88\x02\x03\xe8", 1002, "frame is not masked"),
    "2^32 bytes": Case(header(2**32), ((CLOSE, close_payload(*TOO_BIG)),)),
    "2^63 bytes": Case(
        b"\x82\xff" + b"\x80" + bytes(7), ((CLOSE, close_payload(1002, "length above 2^63")),)
    ),
}
CASES = {
    **MESSAGES, **PINGS, **RESERVED_BITS, **OPCODES, **FRAGMENTS, **TEXTS, **CLOSES, **LARGE,
    **HEADERS,
}  # fmt: skip


def answers_to(port: int, pieces: list[bytes], case: Case) -> Frames:
    """Return the frames that come until TCP ends, but for echoes of what came before a CLOSE.

    Whether those still leave depends on what the peer's next piece is.
    """
    sock, client = connect_upgraded(port)
    with sock:

        def send() -> None:
            for piece in pieces:
                client.send(piece)

        sending = gevent.spawn(send)
        ends_in_close = case.answers[-1][0] == CLOSE
        answers: list[tuple[int, bytes]] = []
        while len(answers) < len(case.answers):
            answer = client.read_frame()
            if not ends_in_close or answer[0] != BINARY:
                answers.append(answer)
        if not ends_in_close:
            sending.join()
            client.send(frame(GOODBYE, CLOSE))
            assert client.read_frame() == (CLOSE, GOODBYE)
        assert client.read_to_end() == b""
        sending.kill()
    return tuple(answers)


@pytest.mark.parametrize("name", CASES)
def test_case_is_answered_as_it_must_be(start_server: StartServer, name: str) -> None:
    case = CASES[name]
    assert answers_to(start_server().port, [case.sent], case) == case.answers


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if len(case.sent) < BYTE_BY_BYTE_BELOW]
)
def test_case_that_comes_byte_by_byte_is_the_same(start_server: StartServer, name: str) -> None:
    case = CASES[name]
    pieces = [case.sent[at : at + 1] for at in range(len(case.sent))]
    assert answers_to(start_server().port, pieces, case) == case.answers


def test_ten_pings_are_each_answered(start_server: StartServer) -> None:
    sock, client = connect_upgraded(start_server().port)
    with sock:
        for number in range(10):
            client.send(frame(b"payload %d" % number, PING))
            assert client.read_frame() == (PONG, b"payload %d" % number)


def test_every_section_has_its_cases() -> None:
    assert len(CASES) >= 100
