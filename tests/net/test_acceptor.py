"""Ports, crowds, and the end."""

from __future__ import annotations

import logging
import re
import resource
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from gevent import socket

from edgesync.errors import ListenerError, PortInUseError, UnknownInterfaceError
from edgesync.limits import Limits
from edgesync.net.acceptor import Acceptor
from edgesync.net.handshake import Peer
from edgesync.net.websocket import PeerSocket
from tests.net.conftest import QUICK, RULES, StartServer
from tests.net.echo import serve_echo
from tests.net.raw_client import (
    BINARY,
    CLOSE,
    RawClient,
    close_payload,
    connect,
    connect_upgraded,
    frame,
    upgrade_request,
)


def acceptor_on(*addresses: tuple[str, int]) -> Acceptor:
    return Acceptor(addresses, RULES, None, serve_echo, QUICK)


def test_free_port_is_picked_and_told(start_server: StartServer) -> None:
    acceptor = start_server()
    assert acceptor.port > 0
    acceptor.stop(0)
    assert acceptor.port == 0


def test_busy_port_is_named(start_server: StartServer) -> None:
    port = start_server().port
    with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use"):
        acceptor_on(("127.0.0.1", port)).start()


def test_address_of_another_machine_is_named() -> None:
    with pytest.raises(UnknownInterfaceError, match=re.escape("203.0.113.7")) as raised:
        acceptor_on(("203.0.113.7", 0)).start()
    assert "127.0.0.1" in raised.value.hint


def test_address_that_is_none_is_named() -> None:
    with pytest.raises(UnknownInterfaceError, match=re.escape("1.1.1.256")):
        acceptor_on(("1.1.1.256", 0)).start()


def test_all_addresses_get_the_same_port() -> None:
    acceptor = acceptor_on(("127.0.0.1", 0), ("127.0.0.2", 0))
    acceptor.start()
    for address in ("127.0.0.1", "127.0.0.2"):
        socket.create_connection((address, acceptor.port)).close()
    acceptor.stop(0)


def test_port_is_free_again_after_failing_on_a_second_address(start_server: StartServer) -> None:
    other = start_server().port
    with pytest.raises(ListenerError):
        acceptor_on(("127.0.0.2", other), ("127.0.0.1", other)).start()
    again = acceptor_on(("127.0.0.2", other))
    again.start()
    again.stop(0)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the kernel has no IPv6")
def test_any_ipv6_address_serves_ipv4_whose_clients_are_called_so() -> None:
    peers: list[Peer] = []

    def note(_websocket: PeerSocket, peer: Peer) -> None:
        peers.append(peer)

    acceptor = Acceptor([("::", 0)], RULES, None, note, QUICK)
    acceptor.start()
    sock, _ = connect_upgraded(acceptor.port)
    sock.close()
    acceptor.stop(1)
    assert peers[0].address == "127.0.0.1"


def test_start_looks_up_no_host_names(start_server: StartServer) -> None:
    before = time.monotonic()
    start_server()
    assert time.monotonic() - before < 0.05


# --- other addresses --------------------------------------------------------------------


def test_the_port_stays_when_the_address_changes() -> None:
    acceptor = acceptor_on(("127.0.0.1", 0))
    acceptor.start()
    port = acceptor.port
    acceptor.rebind(["127.0.0.2"])
    assert (acceptor.bound, acceptor.port) == (("127.0.0.2",), port)
    socket.create_connection(("127.0.0.2", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    acceptor.stop(0)


def test_a_connection_stays_when_its_address_is_given_up(start_server: StartServer) -> None:
    acceptor = start_server()
    sock, client = connect_upgraded(acceptor.port)
    acceptor.rebind([])
    with sock:
        sock.sendall(frame(b"hello"))
        assert client.read_frame() == (BINARY, b"hello")


def test_a_request_under_way_is_served_though_its_address_is_given_up(
    start_server: StartServer,
) -> None:
    acceptor = start_server()
    sock, client = connect(acceptor.port)
    gevent.sleep(0.01)
    acceptor.rebind([])
    with sock:
        assert client.upgrade().status.startswith("HTTP/1.1 101 ")


def test_an_acceptor_without_address_has_no_port_but_remembers_it(
    start_server: StartServer,
) -> None:
    acceptor = start_server()
    port = acceptor.port
    acceptor.rebind([])
    assert acceptor.port == 0
    acceptor.rebind(["127.0.0.1"])
    assert acceptor.port == port


def test_an_acceptor_may_get_its_first_address_late() -> None:
    acceptor = Acceptor([], RULES, None, serve_echo, QUICK, 0)
    acceptor.start()
    assert acceptor.port == 0
    acceptor.rebind(["127.0.0.1"])
    socket.create_connection(("127.0.0.1", acceptor.port)).close()
    acceptor.stop(0)


def test_nothing_changes_if_a_new_address_cannot_be_bound(start_server: StartServer) -> None:
    acceptor = start_server()
    with pytest.raises(UnknownInterfaceError):
        acceptor.rebind(["203.0.113.7"])
    assert acceptor.bound == ("127.0.0.1",)


# --- crowds -------------------------------------------------------------------------


def test_connection_above_the_limit_gets_503_before_the_upgrade(
    start_server: StartServer,
) -> None:
    acceptor = start_server(limits=replace(QUICK, max_connections=2))
    first, _ = connect_upgraded(acceptor.port)
    second, _ = connect_upgraded(acceptor.port)
    third, client = connect(acceptor.port)
    with first, second, third:
        answer = client.upgrade()
    assert answer.status == "HTTP/1.1 503 Service Unavailable"
    assert answer.headers["Retry-After"] == "10"
    assert answer.body == b"Too many clients are connected\n"


def test_connections_above_the_limit_of_an_address_get_503(start_server: StartServer) -> None:
    acceptor = start_server(limits=replace(QUICK, max_connections_per_address=1))
    first, _ = connect_upgraded(acceptor.port)
    second, client = connect(acceptor.port)
    other = socket.create_connection(("127.0.0.1", acceptor.port), source_address=("127.0.0.9", 0))
    with first, second, other:
        answer = client.upgrade()
        accepted = RawClient(other).upgrade()
    assert answer.body == b"Too many clients are connected from this address\n"
    assert accepted.status == "HTTP/1.1 101 Switching Protocols"


def test_place_is_free_when_a_client_has_left(start_server: StartServer) -> None:
    acceptor = start_server(limits=replace(QUICK, max_connections=1))
    for _ in range(3):
        sock, client = connect_upgraded(acceptor.port)
        client.send(frame(close_payload(1000), CLOSE))
        client.read_to_end()
        sock.close()
        gevent.sleep(0.01)


def test_oldest_unfinished_connection_gives_way(start_server: StartServer) -> None:
    limits = replace(QUICK, max_pending_connections=5, request_timeout_s=30)
    acceptor = start_server(limits=limits)
    stalled = [connect(acceptor.port) for _ in range(5)]
    gevent.sleep(0.01)
    sock, _ = connect_upgraded(acceptor.port)
    assert stalled[0][1].read_to_end() == b""
    gevent.sleep(0.01)
    assert acceptor.connection_count == 5
    sock.close()
    for each, _ in stalled:
        each.close()


def test_lack_of_descriptors_is_a_line_in_the_log(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    acceptor = start_server(limits=Limits())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sock = socket.socket()  # the last descriptor that can be had
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
    try:
        sock.connect(("127.0.0.1", acceptor.port))
        gevent.sleep(0.05)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caplog.text.count("no further connections for the moment") == 1
    assert capfd.readouterr().err == ""
    sock.close()
    connect_upgraded(acceptor.port)[0].close()


@pytest.mark.parametrize(("left", "answer"), [(24, b"HTTP/1.1 503 "), (8, b"")])
def test_last_descriptors_are_not_for_connections(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, left: int, answer: bytes
) -> None:
    acceptor = start_server(limits=Limits())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sock = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + left, hard))
    try:
        sock.connect(("127.0.0.1", acceptor.port))
        sock.sendall(upgrade_request())
        with suppress(ConnectionResetError):
            assert sock.recv(len(answer) or 1) == answer
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caplog.text.count("no further connections for the moment") == 1
    sock.close()


# --- the end ------------------------------------------------------------------------


def test_stop_waits_for_sessions_that_are_closing(start_server: StartServer) -> None:
    sockets: list[PeerSocket] = []

    def serve(websocket: PeerSocket, peer: Peer) -> None:
        sockets.append(websocket)
        serve_echo(websocket, peer)

    acceptor = start_server(serve=serve)
    sock, client = connect_upgraded(acceptor.port)
    sockets[0].close(1001, "stopping")
    stopping = gevent.spawn(acceptor.stop, 5)
    assert client.read_frame() == (CLOSE, close_payload(1001, "stopping"))
    assert not stopping.ready()
    client.send(frame(close_payload(1001), CLOSE))
    assert client.read_to_end() == b""
    sock.close()
    stopping.get(timeout=1)
    assert acceptor.connection_count == 0


def test_stop_cuts_what_does_not_end(start_server: StartServer) -> None:
    acceptor = start_server()
    sock, client = connect_upgraded(acceptor.port)
    gevent.spawn(acceptor.stop, 0.05)
    with sock:
        assert client.read_to_end() == b""


def test_stop_drops_unfinished_handshakes_at_once(start_server: StartServer) -> None:
    acceptor = start_server(limits=Limits())
    sock, client = connect(acceptor.port)
    gevent.sleep(0.01)
    before = time.monotonic()
    acceptor.stop(5)
    assert time.monotonic() - before < 1
    with sock:
        assert client.read_to_end() == b""


def test_stopped_port_refuses_connections(start_server: StartServer) -> None:
    acceptor = start_server()
    port = acceptor.port
    acceptor.stop(0)
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_reset_during_the_request_is_one_line_in_the_log(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    acceptor = start_server()
    sock, _ = connect(acceptor.port)
    sock.sendall(b"GET")
    gevent.sleep(0.01)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    gevent.sleep(0.05)
    assert "no request: " in caplog.text
    assert capfd.readouterr().err == ""
