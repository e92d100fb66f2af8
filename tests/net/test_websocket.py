"""The framing, against every way to break it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import gevent
import pytest
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st

from edgesync.limits import MIB, Limits
from edgesync.net.transport import PlainSocket
from edgesync.net.websocket import PeerSocket
from tests.net.conftest import QUICK
from tests.net.echo import serve_echo
from tests.net.raw_client import (
    BINARY,
    CLOSE,
    MASK,
    PING,
    PONG,
    RawClient,
    close_payload,
    frame,
    header,
    masked,
)


class Pair(NamedTuple):
    """A WebSocket and the raw client at its other end."""

    websocket: PeerSocket
    sock: socket.socket
    client: RawClient


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return both ends of a TCP connection over loopback."""
    with make_server() as server:
        client_sock = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    client_sock.settimeout(10)
    websocket = PeerSocket(PlainSocket(accepted, QUICK.send_timeout_s), QUICK)
    yield Pair(websocket, client_sock, RawClient(client_sock))
    client_sock.close()
    websocket.drop()


def make_server() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


class Recording:
    """A transport that plays back chunks and notes what is sent."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = [chunk for chunk in chunks if chunk]
        self.sent = b""
        self.is_closed = False

    def recv(self, _max_bytes: int, /) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    def sendall(self, data: bytes, /) -> None:
        self.sent += data

    def linger(self, _timeout_s: float, /) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True


def messages_in(chunks: list[bytes], limits: Limits = QUICK) -> tuple[list[bytes], PeerSocket]:
    websocket = PeerSocket(Recording(chunks), limits)
    messages: list[bytes] = []
    while received := websocket.receive():
        messages += received
    gevent.sleep(0)  # many of these in a row would look like a blocked hub
    return messages, websocket


# --- messages -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1023, 1024, 1027, 65_535, 65_536, MIB])
def test_message_of_any_legal_size_comes_whole(pair: Pair, size: int) -> None:
    message = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    gevent.spawn(pair.client.send, frame(message))
    assert pair.websocket.receive() == [message]


def test_one_read_brings_many_messages(pair: Pair) -> None:
    pair.client.send(b"".join(frame(bytes((number,))) for number in range(50)))
    gevent.sleep(0.01)
    assert pair.websocket.receive() == [bytes((number,)) for number in range(50)]


def test_flood_of_small_messages_comes_by_and_by() -> None:
    websocket = PeerSocket(Recording([frame(b"a") * 1000]), QUICK)
    assert [len(websocket.receive()) for _ in range(4)] == [256, 256, 256, 232]


def test_fragments_are_joined_around_a_ping(pair: Pair) -> None:
    gevent.spawn(serve_echo, pair.websocket)
    pair.client.send(frame(b"ab", 0x02) + frame(b"now", PING) + frame(b"c", 0x00))
    pair.client.send(frame(b"d", 0x80))
    assert pair.client.read_frame() == (PONG, b"now")
    assert pair.client.read_frame() == (BINARY, b"abcd")


def test_messages_before_a_violation_are_delivered() -> None:
    messages, websocket = messages_in([frame(b"good") + frame(b"bad", 0x81)])
    assert messages == [b"good"]
    assert not websocket.is_open


def test_bytes_that_came_with_the_request_are_frames() -> None:
    websocket = PeerSocket(Recording([]), QUICK, early=frame(b"early"))
    assert websocket.receive() == [b"early"]


def test_frames_cut_at_every_byte_give_the_same_messages() -> None:
    stream = frame(b"x" * 200) + frame(b"") + frame(b"ab", 0x02) + frame(b"c", 0x80)
    for cut in range(len(stream)):
        assert messages_in([stream[:cut], stream[cut:]])[0] == [b"x" * 200, b"", b"abc"]


@given(st.lists(st.binary(max_size=2000)), st.binary(min_size=4, max_size=4), st.integers(1, 500))
def test_unmasking_undoes_masking_however_chunked(
    messages: list[bytes], mask: bytes, chunk: int
) -> None:
    stream = b"".join(frame(message, mask=mask) for message in messages)
    chunks = [stream[start : start + chunk] for start in range(0, len(stream), chunk)]
    assert messages_in(chunks)[0] == messages


@given(st.binary(max_size=300), st.integers(1, 50))
def test_noise_ends_in_a_close_or_in_nothing(noise: bytes, chunk: int) -> None:
    chunks = [noise[start : start + chunk] for start in range(0, len(noise), chunk)]
    _, websocket = messages_in(chunks)
    assert not websocket.is_open


def test_all_frames_of_a_batch_leave_in_one_write() -> None:
    recording = Recording([])
    writes: list[bytes] = []
    recording.sendall = writes.append  # type: ignore[method-assign]
    PeerSocket(recording, QUICK).send([b"a", b"b" * 200])
    assert writes == [b"\x82\x01a" + b"\x82\x7e\x00\xc8" + b"b" * 200]


# --- violations -------------------------------------------------------------------

VIOLATIONS = {
    "unmasked": (b"\x82\x01a", 1002, "frame is not masked"),
    "reserved bit 1": (frame(b"a", 0xC2), 1002, "reserved bit set"),
    "reserved bit 3": (frame(b"a", 0x92), 1002, "reserved bit set"),
    "unknown data opcode": (frame(b"a", 0x83), 1002, "unknown opcode 3"),
    "unknown control opcode": (frame(b"a", 0x8B), 1002, "unknown opcode 11"),
    "text": (frame(b"a", 0x81), 1003, "text is not spoken here"),
    "continuation of nothing": (frame(b"a", 0x80), 1002, "fragments out of order"),
    "message within a message": (frame(b"a", 0x02) + frame(), 1002, "fragments out of order"),
    "long ping": (frame(bytes(126), PING), 1002, "control frame is fragmented or too long"),
    "fragmented ping": (frame(b"", 0x09), 1002, "control frame is fragmented or too long"),
    "long 16-bit length": (
        b"\x82\xfe\x00\x7d" + MASK + bytes(125),
        1002,
        "length is not in its shortest form",
    ),
    "long 64-bit length": (
        b"\x82\xff" + (65_535).to_bytes(8, "big"),
        1002,
        "length is not in its shortest form",
    ),
    "length above 2^63": (b"\x82\xff" + b"\xff" * 8, 1002, "length above 2^63"),
    "length of 2^32": (
        header(2**32) + MASK + b"hello",
        1009,
        "more than 1048576 bytes",
    ),
    "a byte too many": (header(MIB + 1), 1009, "more than 1048576 bytes"),
    "fragments too many": (
        frame(b"a", 0x02) + header(MIB, 0x80),
        1009,
        "more than 1048576 bytes",
    ),
    "close of one byte": (frame(b"\x03", CLOSE), 1002, "no close code"),
    "close with a code never sent": (frame(close_payload(1005), CLOSE), 1002, "no close code"),
    "close with a code of nobody": (frame(close_payload(2999), CLOSE), 1002, "no close code"),
    "close with bad text": (
        frame(close_payload(1000) + b"\xff", CLOSE),
        1002,
        "the close reason is no UTF-8",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation_is_answered_with_its_close_code(pair: Pair, name: str) -> None:
    stream, code, reason = VIOLATIONS[name]
    gevent.spawn(serve_echo, pair.websocket)
    pair.client.send(stream)
    assert pair.client.read_frame() == (CLOSE, close_payload(code, reason))
    assert pair.client.read_to_end() == b""
    assert pair.websocket.failure == f"{reason} ({code})"


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation_is_seen_however_cut(name: str) -> None:
    stream, code, reason = VIOLATIONS[name]
    for cut in range(1, len(stream)):
        _, websocket = messages_in([stream[:cut], stream[cut:], frame(b"never read")])
        assert websocket.failure == f"{reason} ({code})"


def test_close_survives_what_the_peer_sends_after_a_violation(pair: Pair) -> None:
    gevent.spawn(serve_echo, pair.websocket)
    pair.client.send(frame(b"a", 0x81))
    pair.client.send(bytes(300_000))
    assert pair.client.read_frame() == (CLOSE, close_payload(1003, "text is not spoken here"))
    assert pair.client.read_to_end() == b""


def test_control_frame_fits_beside_a_message_that_is_full() -> None:
    limits = replace(QUICK, max_frame_bytes=4)
    stream = frame(b"abcd", 0x02) + frame(b"are you there", PING) + frame(b"", 0x80)
    messages, _ = messages_in([stream], limits)
    assert messages == [b"abcd"]


# --- control ------------------------------------------------------------------------


def test_ping_is_answered_with_its_payload(pair: Pair) -> None:
    gevent.spawn(serve_echo, pair.websocket)
    pair.client.send(frame(b"hello", PING))
    assert pair.client.read_frame() == (PONG, b"hello")


def test_of_many_pings_the_last_is_answered() -> None:
    recording = Recording([frame(b"1", PING) + frame(b"2", PING) + frame(b"go")])
    websocket = PeerSocket(recording, QUICK)
    websocket.receive()
    websocket.send_control()
    assert recording.sent == b"\x8a\x012"


def test_ping_passes_a_large_transfer(pair: Pair) -> None:
    def send_for_long() -> None:
        while pair.websocket.is_open:
            pair.websocket.send([bytes(16_384)] * 4)
            pair.websocket.send_control()

    gevent.spawn(send_for_long)
    gevent.spawn(pair.websocket.receive)
    pair.client.send(frame(b"still there?", PING))
    frames = 0
    while pair.client.read_frame()[0] != PONG:
        frames += 1
    assert frames < 1000  # what kernels buffer on loopback, not all there is to send


def test_our_ping_leaves_with_the_control_frames() -> None:
    recording = Recording([])
    websocket = PeerSocket(recording, QUICK)
    websocket.ping()
    assert websocket.has_control
    websocket.send_control()
    assert recording.sent == b"\x89\x00"


def test_queued_control_wakes_the_writer() -> None:
    websocket = PeerSocket(Recording([frame(b"", PING)]), QUICK)
    calls: list[str] = []
    websocket.on_control = lambda: calls.append("woken")
    websocket.receive()
    assert calls[0] == "woken"


def test_last_received_at_moves_with_every_byte(pair: Pair) -> None:
    before = pair.websocket.last_received_at
    pair.client.send(frame(b"a"))
    pair.websocket.receive()
    assert pair.websocket.last_received_at > before


# --- closing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "received"),
    [
        (b"", (1005, "")),
        (close_payload(1000), (1000, "")),
        (close_payload(1001, "bye"), (1001, "bye")),
        (close_payload(4001, "später"), (4001, "später")),
        (close_payload(3000, "x" * 123), (3000, "x" * 123)),
    ],
)
def test_close_of_the_peer_is_echoed(pair: Pair, payload: bytes, received: tuple[int, str]) -> None:
    gevent.spawn(serve_echo, pair.websocket)
    pair.client.send(frame(payload, CLOSE))
    assert pair.client.read_frame() == (CLOSE, payload)
    assert pair.client.read_to_end() == b""
    assert pair.websocket.close_received == received
    assert pair.websocket.failure is None


def test_our_close_carries_code_and_reason_and_waits_for_the_peers(pair: Pair) -> None:
    served = gevent.spawn(serve_echo, pair.websocket)
    gevent.sleep(0)
    pair.websocket.close(1001, "the listener was stopped")
    assert pair.client.read_frame() == (CLOSE, close_payload(1001, "the listener was stopped"))
    assert not served.ready()
    pair.client.send(frame(close_payload(1001, "the listener was stopped"), CLOSE))
    assert pair.client.read_to_end() == b""
    pair.sock.close()
    served.get(timeout=1)
    assert pair.websocket.close_received == (1001, "the listener was stopped")


def test_our_close_is_sent_once(pair: Pair) -> None:
    gevent.spawn(serve_echo, pair.websocket)
    gevent.sleep(0)
    pair.websocket.close(1001, "first")
    pair.websocket.close(1011, "second")
    pair.client.send(frame(close_payload(1000), CLOSE))
    assert pair.client.read_to_end() == b"\x88\x07\x03\xe9first"


def test_peer_that_does_not_answer_our_close_is_cut_off_in_time(pair: Pair) -> None:
    served = gevent.spawn(serve_echo, pair.websocket)
    gevent.sleep(0)
    pair.websocket.close(1001)
    served.get(timeout=QUICK.close_timeout_s * 3)
    assert pair.client.read_to_end() == b"\x88\x02\x03\xe9"


def test_nothing_follows_our_close(pair: Pair) -> None:
    gevent.spawn(serve_echo, pair.websocket)
    gevent.sleep(0)
    pair.websocket.close(1000)
    pair.client.send(frame(b"late") + frame(b"late", PING) + frame(close_payload(1000), CLOSE))
    pair.websocket.send([b"late"])
    assert pair.client.read_to_end() == b"\x88\x02\x03\xe8"


def test_messages_after_our_close_are_discarded() -> None:
    websocket = PeerSocket(Recording([frame(b"late"), frame(b"", CLOSE)]), QUICK)
    websocket.close(1000)
    assert websocket.receive() == []
    assert websocket.close_received == (1005, "")


def test_long_reason_is_cut_between_characters() -> None:
    recording = Recording([])
    websocket = PeerSocket(recording, QUICK)
    websocket.close(1011, "x" * 122 + "ä")
    websocket.send_control()
    assert recording.sent == b"\x88\x7c" + close_payload(1011, "x" * 122)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_code_that_is_never_sent_is_our_bug(code: int) -> None:
    with pytest.raises(ValueError, match="is no close code"):
        PeerSocket(Recording([]), QUICK).close(code)


def test_end_of_tcp_without_close_ends_the_connection(pair: Pair) -> None:
    pair.sock.close()
    assert pair.websocket.receive() == []
    assert pair.websocket.failure == "the peer ended TCP without CLOSE"
    assert not pair.websocket.is_open


def test_drop_wakes_who_reads_and_sends_no_close(pair: Pair) -> None:
    reader = gevent.spawn(pair.websocket.receive)
    gevent.sleep(0.01)
    pair.websocket.drop()
    assert reader.get(timeout=1) == []
    assert pair.client.read_to_end() == b""


def test_client_that_never_reads_is_dropped(pair: Pair) -> None:
    def send_for_ever() -> None:
        while pair.websocket.is_open:
            pair.websocket.send([bytes(16_384)] * 4)

    gevent.spawn(send_for_ever).get(timeout=5)
    assert pair.websocket.failure == "the peer took not one byte for 0.3 s"
    assert pair.websocket.receive() == []


def test_close_of_a_client_that_never_reads_ends_in_time(pair: Pair) -> None:
    def send_for_ever() -> None:
        while pair.websocket.is_open:
            pair.websocket.send([bytes(16_384)] * 4)

    writer = gevent.spawn(send_for_ever)
    reader = gevent.spawn(pair.websocket.receive)
    gevent.sleep(0.05)
    pair.websocket.close(1001)
    writer.get(timeout=1)
    assert reader.get(timeout=1) == []
    pair.websocket.finish()


def test_garbage_collection_writes_nothing() -> None:
    recording = Recording([])
    PeerSocket(recording, QUICK)
    gc.collect()
    assert recording.sent == b""


def test_flood_of_tiny_frames_lets_others_run(pair: Pair) -> None:
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0.001)

    counter = gevent.spawn(count_turns)
    flood = frame(b"", PING) * 5000

    def send_flood() -> None:
        for _ in range(40):
            pair.sock.sendall(flood)
        pair.sock.sendall(frame(b"", CLOSE))

    gevent.spawn(send_flood)
    gevent.spawn(serve_echo, pair.websocket).get(timeout=10)
    counter.kill()
    assert turns > 10


def test_masked_is_the_inverse_of_itself() -> None:
    assert masked(masked(b"some text")) == b"some text"
