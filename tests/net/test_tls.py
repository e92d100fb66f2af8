"""TLS, with the standard library's client in a thread of its own."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import gevent
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from edgesync.errors import IdentityError
from edgesync.identity.certificate import KeyType, make_self_signed
from edgesync.limits import Limits
from edgesync.net.handshake import Peer
from edgesync.net.tls import ServerTLS
from edgesync.net.websocket import PeerSocket
from edgesync.tls_identity import TLSIdentity
from tests.net.conftest import StartServer
from tests.net.raw_client import BINARY, CLOSE, RawClient, close_payload, connect, frame
from tests.net.tls_clients import VERSIONS, client_context

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking client beside the hub, which serves it."""
    return gevent.get_hub().threadpool.apply(function)


def connect_tls(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(raw)


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_pass_both_ways(
    start_server: StartServer, tls: ServerTLS, version: ssl.TLSVersion
) -> None:
    port = start_server(tls=tls, limits=Limits()).port

    def talk() -> list[tuple[int, bytes]]:
        with connect_tls(port, client_context(version)) as sock:
            client = RawClient(sock)
            client.upgrade()
            client.send(b"".join(frame(bytes((number,)) * 16_384) for number in range(40)))
            return [client.read_frame() for _ in range(40)]

    assert in_thread(talk) == [(BINARY, bytes((number,)) * 16_384) for number in range(40)]


@pytest.mark.parametrize("version", VERSIONS)
def test_close_is_followed_by_the_end_of_tls_and_tcp(
    start_server: StartServer, tls: ServerTLS, version: ssl.TLSVersion
) -> None:
    port = start_server(tls=tls).port

    def talk() -> bytes:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        context = client_context(version)
        # An end without close_notify would raise.
        with context.wrap_socket(raw, suppress_ragged_eofs=False) as sock:
            client = RawClient(sock)
            client.upgrade()
            client.send(frame(close_payload(1000), CLOSE))
            return client.read_to_end()

    assert in_thread(talk) == b"\x88\x02\x03\xe8"


def test_refusal_is_read_over_tls(start_server: StartServer, tls: ServerTLS) -> None:
    port = start_server(tls=tls).port

    def talk() -> bytes:
        with connect_tls(port, client_context()) as sock:
            client = RawClient(sock)
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            return client.read_to_end()

    assert in_thread(talk).endswith(b"\r\n\r\nNothing is served under this path\n")


def test_session_is_told_of_tls(start_server: StartServer, tls: ServerTLS) -> None:
    peers: list[Peer] = []

    def note(_websocket: PeerSocket, peer: Peer) -> None:
        peers.append(peer)

    port = start_server(tls=tls, serve=note).port

    def talk() -> None:
        with connect_tls(port, client_context()) as sock:
            RawClient(sock).upgrade()

    in_thread(talk)
    assert peers[0].is_tls


@pytest.mark.parametrize("key_type", KeyType)
@pytest.mark.parametrize("version", VERSIONS)
def test_both_kinds_of_key_serve(
    start_server: StartServer, key_type: KeyType, version: ssl.TLSVersion
) -> None:
    certificate, key = in_thread(
        lambda: make_self_signed(
            "box", valid_for=timedelta(days=1), now=datetime.now(UTC), key_type=key_type
        )
    )
    port = start_server(tls=ServerTLS([certificate], key)).port

    def talk() -> bytes | None:
        with connect_tls(port, client_context(version)) as sock:
            return sock.getpeercert(binary_form=True)

    assert in_thread(talk) == certificate.public_bytes(Encoding.DER)


def test_client_that_pins_the_certificate_accepts_it(
    start_server: StartServer, identity: TLSIdentity
) -> None:
    port = start_server(tls=identity.server_tls()).port
    context = client_context()
    context.load_verify_locations(cadata=identity.certs[0].public_bytes(Encoding.PEM).decode())
    context.verify_mode = ssl.CERT_REQUIRED

    def talk() -> str:
        with connect_tls(port, context) as sock:
            return RawClient(sock).upgrade().status

    assert in_thread(talk) == "HTTP/1.1 101 Switching Protocols"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(start_server: StartServer, tls: ServerTLS) -> None:
    port = start_server(tls=tls).port

    def talk() -> None:
        context = client_context(ssl.TLSVersion.TLSv1_1)
        context.set_ciphers("ALL:@SECLEVEL=0")
        connect_tls(port, context)

    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        call_and_raise(talk)


def call_and_raise(function: Callable[[], object]) -> None:
    """Raise here what a function raises in a thread; the pool would print it."""

    def catch() -> Exception | None:
        try:
            function()
        except OSError as error:
            return error
        return None

    if (error := in_thread(catch)) is not None:
        raise error


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_not_resumed(
    start_server: StartServer, tls: ServerTLS, version: ssl.TLSVersion
) -> None:
    port = start_server(tls=tls).port
    context = client_context(version)

    def talk() -> bool | None:
        with connect_tls(port, context) as sock:
            RawClient(sock).upgrade()
            session = sock.session
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        with context.wrap_socket(raw, session=session) as again:
            return again.session_reused

    assert in_thread(talk) is False


def test_renewed_identity_serves_the_next_client_and_drops_none(
    start_server: StartServer, tls: ServerTLS
) -> None:
    acceptor = start_server(tls=tls)
    port = acceptor.port
    renewed = TLSIdentity.anonymous()
    old = in_thread(lambda: connect_tls(port, client_context()))
    client = RawClient(old)
    in_thread(client.upgrade)
    acceptor.tls = renewed.server_tls()

    def talk() -> tuple[bytes | None, tuple[int, bytes]]:
        with connect_tls(port, client_context()) as new, old:
            client.send(frame(b"still here"))
            return new.getpeercert(binary_form=True), client.read_frame()

    certificate, echoed = in_thread(talk)
    assert certificate == renewed.certs[0].public_bytes(Encoding.DER)
    assert echoed == (BINARY, b"still here")


def test_key_of_another_certificate_is_refused(identity: TLSIdentity) -> None:
    _, key = make_self_signed(
        "x", valid_for=timedelta(days=1), now=datetime.now(UTC), key_type=KeyType.P_256
    )
    with pytest.raises(IdentityError, match="OpenSSL does not take the identity"):
        ServerTLS(identity.certs, key)


# --- bad peers ----------------------------------------------------------------------


def test_good_client_gets_in_while_fifty_handshakes_stall(
    start_server: StartServer, tls: ServerTLS
) -> None:
    acceptor = start_server(tls=tls, limits=Limits())
    stalled = [connect(acceptor.port)[0] for _ in range(50)]
    for each in stalled:
        each.sendall(b"\x16\x03\x01")
    gevent.sleep(0.01)

    def talk() -> tuple[int, bytes]:
        with connect_tls(acceptor.port, client_context()) as sock:
            client = RawClient(sock)
            client.upgrade()
            client.send(frame(b"hello"))
            return client.read_frame()

    before = time.monotonic()
    assert in_thread(talk) == (BINARY, b"hello")
    assert time.monotonic() - before < 1
    assert acceptor.connection_count >= 50
    for each in stalled:
        each.close()


def test_stalled_handshake_is_dropped_in_time(
    start_server: StartServer, tls: ServerTLS, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sock, client = connect(start_server(tls=tls).port)
    with sock:
        client.send(b"\x16\x03\x01")
        assert client.read_to_end() == b""
    assert "the TLS handshake took too long" in caplog.text


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 20, b"\xff" * 2000])
def test_garbage_instead_of_tls_is_dropped_without_noise(
    start_server: StartServer,
    tls: ServerTLS,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    garbage: bytes,
) -> None:
    caplog.set_level(logging.INFO)
    sock, client = connect(start_server(tls=tls).port)
    with sock:
        client.send(garbage)
        client.read_to_end()
    gevent.sleep(0.01)
    assert "no TLS handshake: " in caplog.text
    assert "127.0.0.1:" in caplog.text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("is_upgraded", [False, True])
def test_garbage_after_the_handshake_is_dropped_without_noise(
    start_server: StartServer,
    tls: ServerTLS,
    capfd: pytest.CaptureFixture[str],
    is_upgraded: bool,
) -> None:
    acceptor = start_server(tls=tls)

    def talk() -> bytes:
        with connect_tls(acceptor.port, client_context()) as sock:
            if is_upgraded:
                RawClient(sock).upgrade()
            raw = socket.socket(fileno=socket.dup(sock.fileno()))
            with raw:
                raw.settimeout(10)
                raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                return RawClient(raw).read_to_end()

    in_thread(talk)
    gevent.sleep(0.05)
    assert acceptor.connection_count == 0
    assert capfd.readouterr().err == ""


def test_client_that_never_reads_is_dropped(start_server: StartServer, tls: ServerTLS) -> None:
    failures: list[str | None] = []

    def send_for_ever(websocket: PeerSocket, _peer: Peer) -> None:
        while websocket.is_open:
            websocket.send([bytes(16_384)] * 4)
        failures.append(websocket.failure)

    port = start_server(tls=tls, serve=send_for_ever).port

    def talk() -> None:
        with connect_tls(port, client_context()) as sock:
            RawClient(sock).upgrade()
            while not failures:
                time.sleep(0.02)

    in_thread(talk)
    assert failures == ["the peer took not one byte for 0.3 s"]


def test_reader_goes_on_while_the_writer_waits(start_server: StartServer, tls: ServerTLS) -> None:
    """A peer that reads only after it has sent everything must be able to."""
    received: list[int] = []

    def serve(websocket: PeerSocket, _peer: Peer) -> None:
        def write() -> None:
            for _ in range(200):
                websocket.send([bytes(16_384)] * 4)

        writer = gevent.spawn(write)
        while sum(received) < 200 * 16_384 and (messages := websocket.receive()):
            received.extend(len(message) for message in messages)
        writer.join()
        websocket.finish()

    port = start_server(tls=tls, limits=Limits(), serve=serve).port

    def talk() -> int:
        with connect_tls(port, client_context()) as sock:
            client = RawClient(sock)
            client.upgrade()
            for _ in range(200):
                client.send(frame(bytes(16_384)))
            return sum(len(client.read_frame()[1]) for _ in range(800))

    assert in_thread(talk) == 800 * 16_384
    assert sum(received) == 200 * 16_384


def test_reading_leaves_nothing_to_the_garbage_collector(
    start_server: StartServer, tls: ServerTLS
) -> None:
    """An error that refers to what was read would keep megabytes until the collector runs."""
    port = start_server(tls=tls, limits=Limits()).port

    def talk() -> None:
        with connect_tls(port, client_context()) as sock:
            client = RawClient(sock)
            client.upgrade()
            for _ in range(50):
                client.send(frame(bytes(16_384)))
                client.read_frame()

    gc.collect()
    gc.disable()
    try:
        in_thread(talk)
        errors = [each for each in gc.get_objects() if isinstance(each, SSL.Error)]
    finally:
        gc.enable()
    assert len(errors) < 5
