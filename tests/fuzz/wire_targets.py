"""What comes over the network before anybody is known: HTTP, WebSocket, BLIP, mDNS."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import gevent
from gevent import socket
from gevent.pywsgi import WSGIServer
from zeroconf import ServiceInfo

from edgesync.blip.connection import Connection
from edgesync.blip.frame import decode_varint, encode_varint
from edgesync.blip.message import bool_property, decode_properties, encode_properties, int_property
from edgesync.errors import ProtocolError
from edgesync.limits import Limits
from edgesync.net.acceptor import Acceptor
from edgesync.net.announcements import AUTHENTICATIONS, discovered
from edgesync.net.handshake import Client, HandshakeRules, Peer, PeerHandler, Place
from edgesync.net.mdns import SERVICE_TYPE
from edgesync.net.passwords import parse_basic
from edgesync.net.websocket import PeerSocket
from tests.blip.wire import Collector, FramePeer, send_requests, vectors
from tests.fuzz.target import Opened, Target, pure
from tests.net.raw_client import basic, close_payload, frame, header, upgrade_request

LIMITS: Final = Limits()
SMALL: Final = Limits(max_frame_bytes=4096)
QUICK: Final = Limits(request_timeout_s=2.0, close_timeout_s=2.0, send_timeout_s=2.0)
RULES: Final = HandshakeRules(
    "db", ("BLIP_3+CBMobile_4", "BLIP_3+CBMobile_3", "BLIP_3+CBMobile_2"), None, "edgesync/1.2"
)
STATUSES: Final = frozenset((101, 400, 403, 404, 405, 408, 414, 426, 431))
ANSWER_TIMEOUT_S: Final = 5.0


class Playback:
    """A transport that plays back chunks, and notes what is sent."""

    def __init__(self, data: bytes, chunk: int) -> None:
        self._rest = data
        self._chunk = chunk
        self.sent = b""

    def recv(self, _max_bytes: int, /) -> bytes:
        data, self._rest = self._rest[: self._chunk], self._rest[self._chunk :]
        return data

    def sendall(self, data: bytes, /) -> None:
        self.sent += data

    def linger(self, _timeout_s: float, /) -> None:
        self._rest = b""

    def close(self) -> None:
        self._rest = b""


# --- HTTP ---------------------------------------------------------------------------------


class _Server(WSGIServer):
    """What a handler asks about its server, which is never started."""

    application = None  # type: ignore[assignment]  # the handler never calls one


@contextmanager
def upgrade_in_memory(_folder: Path) -> Iterator[Opened]:
    """Give a request to the parser, the first byte says in chunks of how many."""
    server = _Server(("127.0.0.1", 0), log=None, environ={"SERVER_NAME": "127.0.0.1"})

    def feed(data: bytes) -> bool:
        transport = Playback(data[1:], (data[0] if data else 0) * 16 + 1)
        peers: list[Peer] = []

        def serve(_websocket: PeerSocket, peer: Peer) -> None:
            peers.append(peer)

        place = Place(lambda: None, lambda: None)
        client = Client("127.0.0.1", 1, False, ())
        handler = PeerHandler(
            transport, client, server, rules=RULES, limits=QUICK, passwords=None, place=place,
            serve=serve,
        )  # fmt: skip
        with suppress(OSError):
            handler.handle()
        if not transport.sent:
            return False
        check_answer(transport.sent)
        assert transport.sent.startswith(b"HTTP/1.1 101 ") == bool(peers)
        assert all(each.subprotocol and each.user_agent.isprintable() for each in (*peers,)
                   if each.user_agent)  # fmt: skip
        return bool(peers)

    yield Opened(feed)


def check_answer(answer: bytes) -> None:
    """Check that it is one of ours, and that no header of the client's came through."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    assert end, answer
    status, *lines = head.decode("ascii").split("\r\n")
    assert status.startswith("HTTP/1.1 "), status
    assert int(status[9:12]) in STATUSES, status
    names = [line.partition(": ")[0] for line in lines]
    assert len(set(names)) == len(names) <= 8, lines


@contextmanager
def upgrade_over_tcp(_folder: Path) -> Iterator[Opened]:
    """Send a request, and what follows it, to a real listener."""
    acceptor = Acceptor([("127.0.0.1", 0)], RULES, None, hang_up, QUICK)
    acceptor.start()

    def feed(data: bytes) -> bool:
        answer = b""
        with socket.create_connection(("127.0.0.1", acceptor.port)) as client:
            client.settimeout(ANSWER_TIMEOUT_S)
            with suppress(ConnectionError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(65_536):
                    answer += piece
        with gevent.Timeout(ANSWER_TIMEOUT_S, TimeoutError("the connection outlives its client")):
            while acceptor.connection_count:
                gevent.sleep(0.001)
        if not answer:
            return False
        check_answer(answer)
        return answer.startswith(b"HTTP/1.1 101 ")

    yield Opened(feed)
    acceptor.stop(0.0)


def hang_up(websocket: PeerSocket, _peer: Peer) -> None:
    """Read what there is, and end the connection."""
    while websocket.receive():
        pass
    websocket.finish()


REQUESTS: Final = (
    upgrade_request(),
    upgrade_request(Authorization=basic("ann", "x"), Cookie="a=b"),
    upgrade_request(line="GET /d%62/_blipsync?client=sgr2 HTTP/1.1"),
    upgrade_request(Connection="keep-alive, Upgrade") + frame(b"early"),
    upgrade_request(Content_Length="5", body="hello"),
    upgrade_request(Transfer_Encoding="chunked", body="5\r\nhello\r\n0\r\n\r\n"),
    upgrade_request(line="POST /db/_blipsync HTTP/1.1"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
HTTP_TOKENS: Final = (b"\r\n\r\n", b"\n\n", b": ", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"GET ",
                      b"HEAD ", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n",
                      b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n",
                      b"Sec-WebSocket-Key: ", b"%", b"%2f", b"/_blipsync", b"\r\n folded", b"*",
                      b"http://x/db/_blipsync", b"X: y\r\n" * 101, b"x" * 5000)  # fmt: skip


# --- passwords ------------------------------------------------------------------------------


def authorization(data: bytes) -> bool:
    """Read an `Authorization` header, as Latin-1, which is what HTTP hands on."""
    found = parse_basic(data.decode("latin-1"))
    if found is None:
        return False
    assert ":" not in found.user
    assert parse_basic(basic(found.user, found.password)) == found
    return True


# --- WebSocket ------------------------------------------------------------------------------


def websocket_frames(data: bytes) -> bool:
    """Read frames; cut otherwise (the first byte says how) they must be the same messages."""
    whole = outcome_of(data[1:], 65_536)
    assert outcome_of(data[1:], (data[0] if data else 0) + 1) == whole
    messages, failure, sent = whole
    assert sum(map(len, messages)) <= len(data)
    assert all(len(message) <= SMALL.max_frame_bytes for message in messages)
    assert sent.count(b"\x88") <= len(sent)
    return "TCP" in (failure or "TCP")  # nothing else was wrong


def outcome_of(stream: bytes, chunk: int) -> tuple[list[bytes], str | None, bytes]:
    """Return the messages in a stream, why it failed, and what it was answered by CLOSE."""
    transport = Playback(stream, chunk)
    websocket = PeerSocket(transport, SMALL)
    messages: list[bytes] = []
    while received := websocket.receive():
        messages += received
    assert not websocket.is_open
    websocket.finish()
    # Of several PINGs only the last is answered, so PONGs depend on the cut.
    _, mark, closing = transport.sent.rpartition(b"\x88")
    return messages, websocket.failure, mark + closing


FRAMES: Final = (
    b"\x10" + frame(b"hello"),
    b"\x01" + frame(b"ab", 0x02) + frame(b"now", 0x89) + frame(b"c", 0x00) + frame(b"d", 0x80),
    b"\x40" + frame(b"x" * 200) + frame(b"y" * 600) + frame(close_payload(1000, "bye"), 0x88),
    b"\x40" + frame(b"", 0x88),
    b"\xff" + header(2**32),
    b"\x10" + frame(b"a", 0x81) + frame(b"b", 0x8A) + frame(b"", 0x89),
)


# --- BLIP -----------------------------------------------------------------------------------


def varint(data: bytes) -> bool:
    """Read a varint; in its shortest form it must be the same."""
    value, end = decode_varint(data, 0)
    assert end <= 10
    assert decode_varint(encode_varint(value), 0)[0] == value
    return True


def blip_frames(data: bytes) -> bool:
    """Take frames, each behind a byte with its length (255: all the rest)."""
    connection = Connection(LIMITS)
    send_requests(connection, 3)  # whose replies may come
    collector = Collector()
    at = 0
    while at < len(data):
        size = data[at] if data[at] < 255 else len(data)
        collector.feed(connection, [data[at + 1 : at + 1 + size]])
        at += 1 + size
    return bool(collector.messages)


def blip_messages(data: bytes) -> bool:
    """Frame payloads properly, so that they reach what is behind the checksum.

    Each stands behind a byte with flags, and one with its length in units of 16.
    """
    connection, peer, collector = Connection(LIMITS), FramePeer(), Collector()
    at = number = 0
    while at + 1 < len(data):
        flags, size = data[at] & 0x3F, data[at + 1] * 16
        payload = data[at + 2 : at + 2 + size]
        at += 2 + size
        kind = flags & 0x07
        number += kind == 0
        cuts = (len(payload) // 2,) if size % 3 else ()
        for piece in peer.cut(number, flags, payload, cuts):
            collector.feed(connection, [piece])
    for message in collector.incoming:
        connection.send_error(message, "HTTP", 404, message.profile)
    while connection.has_output:
        connection.frame_to_send()
    return bool(collector.messages)


def properties(data: bytes) -> bool:
    """Read properties; written, they must be the same again."""
    found = decode_properties(data, LIMITS.max_properties)
    for name in found:
        bool_property(found, name)
        int_property(found, name)
    block = encode_properties(found)
    _, start = decode_varint(block, 0)
    assert decode_properties(block[start:], LIMITS.max_properties) == found
    return bool(found)


def frame_seeds() -> list[bytes]:
    """Return the frames of the vectors, each with its length."""
    found = []
    for each in vectors("blip_bad_frames.json")["frames"]:
        parts = each["hex"] if isinstance(each["hex"], list) else [each["hex"]]
        frames = [bytes.fromhex(part) for part in parts]
        if all(len(part) < 255 for part in frames):
            found.append(b"".join(bytes([len(part)]) + part for part in frames))
    return found


def message_seeds() -> list[bytes]:
    said: tuple[dict[str, str], ...] = (
        {"Profile": "getCheckpoint", "client": "cp"},
        {"Profile": "rev", "id": "boiler", "rev": "1-aa", "sequence": "1", "deleted": "1"},
        {"Profile": "subChanges", "since": "7", "continuous": "true", "batch": "200"},
        {},
    )
    found = []
    for flags, each in enumerate(said):
        payload = encode_properties(each) + b'{"a":1}'
        payload += b" " * (-len(payload) % 16)
        found.append(bytes([flags << 3, len(payload) // 16]) + payload)
    return [*found, b"".join(found)]


PROPERTIES: Final = (b"Profile\0rev\0id\0x\0", b"a\0\0b\0true\0", b"n\x0018446744073709551616\0")


# --- mDNS -------------------------------------------------------------------------------------


def announcement(data: bytes) -> bool:
    """Read the name and the TXT record of a stranger: a line, then the record's bytes."""
    label, _, record = data.partition(b"\n")
    info = ServiceInfo(SERVICE_TYPE, f"x.{SERVICE_TYPE}", port=4984, properties=record)
    said = info.decoded_properties
    found = discovered(label.decode(errors="replace"), ("10.0.0.1", "fe80::1%3"), info.port, said)
    if found is None:
        return False
    assert f"{found.name}{found.database}".isprintable()
    assert found.authentication in ("", *AUTHENTICATIONS)
    assert found.fingerprint is None or len(found.fingerprint) == 32
    assert all(url.isprintable() for url in found.urls)
    return True


def txt(*entries: bytes) -> bytes:
    return b"".join(bytes([len(entry)]) + entry for entry in entries)


TEXTS: Final = (
    b"field on box\n" + txt(b"txtvers=1", b"path=/db", b"tls=1", b"auth=password", b"cbmobile=2,3",
                            b"fp=" + base64.urlsafe_b64encode(bytes(32)).strip(b"=")),
    b"x\n" + txt(b"path=/db", b"tls=0", b"flag", b"=", b"auth", b"fp="),
)  # fmt: skip


TARGETS: Final = (
    Target(
        "upgrade in memory",
        upgrade_in_memory,
        seeds=lambda: [b"\x08" + r for r in REQUESTS],
        tokens=HTTP_TOKENS,
        weight=2,
        short=1500,
    ),
    Target(
        "upgrade over TCP", upgrade_over_tcp, seeds=lambda: REQUESTS, tokens=HTTP_TOKENS, short=500
    ),
    Target(
        "Basic authorization",
        pure(authorization),
        seeds=lambda: [basic("ann", "s\u00e9cret").encode(), b"Basic YTpi", b"Bearer x"],
    ),
    Target("WebSocket frames", pure(websocket_frames), seeds=lambda: FRAMES, weight=2),
    Target("varint", pure(varint), (ProtocolError,), lambda: [b"\x00", b"\xac\x02", b"\xff" * 9]),
    Target("BLIP frames", pure(blip_frames), (ProtocolError,), frame_seeds, weight=2),
    Target("BLIP messages", pure(blip_messages), (ProtocolError,), message_seeds, weight=2),
    Target(
        "properties", pure(properties), (ProtocolError,), lambda: PROPERTIES, (b"\0", b"Profile")
    ),
    Target(
        "mDNS TXT record",
        pure(announcement),
        seeds=lambda: TEXTS,
        tokens=(b"path=/", b"fp=", b"=", b"\n", b"\xff"),
    ),
)
