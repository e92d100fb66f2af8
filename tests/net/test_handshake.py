"""Every answer to an opening request."""

from __future__ import annotations

import logging
from dataclasses import replace
from email.utils import parsedate_to_datetime

import gevent
import pytest

from edgesync.limits import Limits
from edgesync.net.handshake import Peer, choose_subprotocol
from edgesync.net.passwords import Credentials, parse_basic
from edgesync.net.websocket import PeerSocket
from tests.net.conftest import QUICK, StartServer
from tests.net.raw_client import (
    ACCEPT,
    BINARY,
    Answer,
    basic,
    connect,
    frame,
    upgrade_request,
)


def answer_to(port: int, request: bytes) -> Answer:
    """Send a request; check what all refusals have in common."""
    sock, client = connect(port)
    with sock:
        client.send(request)
        answer = client.read_answer()
        assert client.read_to_end() == b""
    assert answer.headers["Server"] == "edgesync/1.2"
    assert answer.headers["Connection"] == "close"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    parsedate_to_datetime(answer.headers["Date"])
    return answer


# --- 101 ----------------------------------------------------------------------------


def test_101_has_exactly_the_headers_that_clients_compare(start_server: StartServer) -> None:
    sock, client = connect(start_server().port)
    with sock:
        answer = client.upgrade()
    assert answer.status == "HTTP/1.1 101 Switching Protocols"
    assert answer.headers.pop("Date")
    assert len(answer.headers.pop("X-Correlation-Id")) == 16
    assert answer.headers == {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
        "Sec-WebSocket-Protocol": "BLIP_3+CBMobile_3",
        "Server": "edgesync/1.2",
    }


def test_correlation_ids_differ(start_server: StartServer) -> None:
    port = start_server().port
    seen = set()
    for _ in range(3):
        sock, client = connect(port)
        with sock:
            seen.add(client.upgrade().headers["X-Correlation-Id"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade", "Upgrade": "WebSocket"},
        {"Cookie": "SyncGatewaySession=1"},
        {"Sec_WebSocket_Protocol": "BLIP_3+CBMobile_4 , BLIP_3+CBMobile_3"},
        {"Sec_WebSocket_Extensions": "permessage-deflate"},
        {"line": "GET /db/_blipsync?client=sgr2 HTTP/1.1"},
        {"line": "GET /d%62/_blipsync HTTP/1.1"},
        {"more": "sec-websocket-protocol: nothing\r\n"},
    ],
)
def test_liberal_requests_are_accepted(start_server: StartServer, changes: dict[str, str]) -> None:
    sock, client = connect(start_server().port)
    with sock:
        answer = client.upgrade(**changes)
    assert answer.status == "HTTP/1.1 101 Switching Protocols"
    assert "Sec-WebSocket-Extensions" not in answer.headers


def test_request_is_understood_however_cut(start_server: StartServer) -> None:
    port = start_server().port
    request = upgrade_request()
    for cut in (1, 20, len(request) - 3, len(request) - 2, len(request) - 1):
        sock, client = connect(port)
        with sock:
            client.send(request[:cut])
            gevent.sleep(0.005)
            client.send(request[cut:])
            assert client.read_answer().status == "HTTP/1.1 101 Switching Protocols"


def test_frames_sent_before_the_101_are_not_lost(start_server: StartServer) -> None:
    sock, client = connect(start_server().port)
    with sock:
        client.send(upgrade_request() + frame(b"early"))
        client.read_answer()
        assert client.read_frame() == (BINARY, b"early")


def test_session_is_told_who_the_peer_is(start_server: StartServer) -> None:
    peers: list[Peer] = []

    def note(_websocket: PeerSocket, peer: Peer) -> None:
        peers.append(peer)

    acceptor = start_server(serve=note, authenticate=lambda _: True)
    sock, client = connect(acceptor.port)
    with sock:
        answer = client.upgrade(Authorization=basic("ann", "x"), User_Agent="a\x07b")
        address, port = sock.getsockname()
    assert peers == [
        Peer(
            address=address,
            port=port,
            user="ann",
            certificate_subject=None,
            user_agent="a?b",
            subprotocol="BLIP_3+CBMobile_3",
            correlation_id=answer.headers["X-Correlation-Id"],
            is_tls=False,
        )
    ]


def test_name_that_nobody_checked_is_no_user(start_server: StartServer) -> None:
    peers: list[Peer] = []
    acceptor = start_server(serve=lambda _, peer: peers.append(peer))
    sock, client = connect(acceptor.port)
    with sock:
        client.upgrade(Authorization=basic("ann", "x"))
        client.read_to_end()
    assert peers[0].user is None


# --- subprotocols -------------------------------------------------------------------

SERVED = ("BLIP_3+CBMobile_4", "BLIP_3+CBMobile_3", "BLIP_3+CBMobile_2")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("BLIP_3+CBMobile_2", "BLIP_3+CBMobile_2"),
        ("BLIP_3+CBMobile_3,BLIP_3+CBMobile_2", "BLIP_3+CBMobile_3"),
        ("BLIP_3+CBMobile_3,BLIP_3+CBMobile_4", "BLIP_3+CBMobile_3"),
        ("BLIP_3+CBMobile_4,BLIP_3+CBMobile_3", "BLIP_3+CBMobile_4"),
        ("x , BLIP_3+CBMobile_2 ", "BLIP_3+CBMobile_2"),
        ("xBLIP_3+CBMobile_31", None),
        ("blip_3+cbmobile_3", None),
        ("", None),
    ],
)
def test_first_offered_name_that_we_serve_is_chosen(offered: str, chosen: str | None) -> None:
    assert choose_subprotocol(offered, SERVED) == chosen


# --- refusals -----------------------------------------------------------------------

REFUSALS: dict[str, tuple[dict[str, str], str, bytes]] = {
    "unknown path": (
        {"line": "GET /db HTTP/1.1", "drop": "Upgrade"},
        "404 Not Found",
        b"Nothing is served under this path\n",
    ),
    "unknown database": (
        {"line": "GET /other/_blipsync HTTP/1.1"},
        "404 Not Found",
        b"No such database\n",
    ),
    "database in another case": (
        {"line": "GET /DB/_blipsync HTTP/1.1"},
        "404 Not Found",
        b"No such database\n",
    ),
    "illegal database name": (
        {"line": "GET /a%00b/_blipsync HTTP/1.1"},
        "400 Bad Request",
        b"Illegal database name\n",
    ),
    "slash in a database name": (
        {"line": "GET /a%2fb/_blipsync HTTP/1.1"},
        "400 Bad Request",
        b"Illegal database name\n",
    ),
    "database name that is no text": (
        {"line": "GET /%ff/_blipsync HTTP/1.1"},
        "400 Bad Request",
        b"Illegal database name\n",
    ),
    "long database name": (
        {"line": f"GET /{'x' * 241}/_blipsync HTTP/1.1"},
        "400 Bad Request",
        b"Illegal database name\n",
    ),
    "upgrade of another path": (
        {"line": "GET /db HTTP/1.1"},
        "403 Forbidden",
        b"No upgrade available\n",
    ),
    "upgrade of a reserved name": (
        {"line": "GET /_db/_blipsync HTTP/1.1"},
        "403 Forbidden",
        b"No upgrade available\n",
    ),
    "no upgrade": (
        {"drop": "Upgrade"},
        "426 Upgrade Required",
        b"Only WebSocket is served here\n",
    ),
    "no connection upgrade": (
        {"Connection": "keep-alive"},
        "426 Upgrade Required",
        b"Only WebSocket is served here\n",
    ),
    "no version": (
        {"drop": "Sec_WebSocket_Version"},
        "426 Upgrade Required",
        b"Only WebSocket version 13 is served\n",
    ),
    "old version": (
        {"Sec_WebSocket_Version": "8"},
        "426 Upgrade Required",
        b"Only WebSocket version 13 is served\n",
    ),
    "no key": (
        {"drop": "Sec_WebSocket_Key"},
        "400 Bad Request",
        b"Sec-WebSocket-Key is not 16 bytes in base64\n",
    ),
    "short key": (
        {"Sec_WebSocket_Key": "YWJj"},
        "400 Bad Request",
        b"Sec-WebSocket-Key is not 16 bytes in base64\n",
    ),
    "key that is no base64": (
        {"Sec_WebSocket_Key": "!" * 24},
        "400 Bad Request",
        b"Sec-WebSocket-Key is not 16 bytes in base64\n",
    ),
    "body": (
        {"Content_Length": "5", "body": "hello"},
        "400 Bad Request",
        b"A WebSocket request has no body\n",
    ),
    "chunked body": (
        {"Transfer_Encoding": "chunked", "body": "0\r\n\r\n"},
        "400 Bad Request",
        b"A WebSocket request has no body\n",
    ),
    "no protocol": (
        {"drop": "Sec_WebSocket_Protocol"},
        "403 Forbidden",
        b"No common protocol; served are BLIP_3+CBMobile_3, BLIP_3+CBMobile_2\n",
    ),
    "no common protocol": (
        {"Sec_WebSocket_Protocol": "BLIP_3+CBMobile_31"},
        "403 Forbidden",
        b"No common protocol; served are BLIP_3+CBMobile_3, BLIP_3+CBMobile_2\n",
    ),
    "other method": (
        {"line": "POST /db/_blipsync HTTP/1.1", "body": ""},
        "405 Method Not Allowed",
        b"Only GET is served here\n",
    ),
    "HTTP/1.0": (
        {"line": "GET /db/_blipsync HTTP/1.0"},
        "400 Bad Request",
        b"This is no HTTP/1.1 request\n",
    ),
    "HTTP/0.9": (
        {"line": "GET /db/_blipsync"},
        "400 Bad Request",
        b"This is no HTTP/1.1 request\n",
    ),
    "bad version": (
        {"line": "GET /db/_blipsync HTTP/x.y"},
        "400 Bad Request",
        b"This is no HTTP/1.1 request\n",
    ),
    "words": (
        {"line": "I would like to sync"},
        "400 Bad Request",
        b"This is no HTTP/1.1 request\n",
    ),
    "bad content length": (
        {"Content_Length": "-1"},
        "400 Bad Request",
        b"This is no HTTP/1.1 request\n",
    ),
    "long request line": (
        {"line": f"GET /{'x' * 5000} HTTP/1.1"},
        "414 URI Too Long",
        b"The request line is too long\n",
    ),
    "large headers": (
        {"Cookie": "x" * 40_000},
        "431 Request Header Fields Too Large",
        b"The headers are too many or too large\n",
    ),
    "endless headers": (
        {"Cookie": "x" * 300_000},
        "431 Request Header Fields Too Large",
        b"The headers are too many or too large\n",
    ),
    "101 headers": (
        {"more": "X: y\r\n" * 94},
        "431 Request Header Fields Too Large",
        b"The headers are too many or too large\n",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_says_what_is_wrong(
    start_server: StartServer, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    changes, status, body = REFUSALS[name]
    answer = answer_to(start_server().port, upgrade_request(**changes))
    assert answer.status == f"HTTP/1.1 {status}"
    assert answer.body == body
    assert capfd.readouterr().err == ""


def test_426_says_to_what(start_server: StartServer) -> None:
    answer = answer_to(start_server().port, upgrade_request(drop="Upgrade"))
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.headers["Sec-WebSocket-Version"] == "13"


def test_405_says_what_is_allowed(start_server: StartServer) -> None:
    request = upgrade_request(line="DELETE /db/_blipsync HTTP/1.1")
    assert answer_to(start_server().port, request).headers["Allow"] == "GET"


def test_answer_to_head_has_no_body(start_server: StartServer) -> None:
    sock, client = connect(start_server().port)
    with sock:
        client.send(upgrade_request(line="HEAD /db/_blipsync HTTP/1.1"))
        assert client.read_to_end().endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"TLS is not enabled on this port\n"),
        (b"\x00\x01\x02", b"This is no HTTP request\n"),
        (b"\xff" * 100, b"This is no HTTP request\n"),
    ],
)
def test_garbage_is_refused_at_once(
    start_server: StartServer, capfd: pytest.CaptureFixture[str], first: bytes, text: bytes
) -> None:
    answer = answer_to(start_server(limits=Limits()).port, first)
    assert answer.status == "HTTP/1.1 400 Bad Request"
    assert answer.body == text
    assert capfd.readouterr().err == ""


def test_slow_request_line_ends_in_time(start_server: StartServer) -> None:
    acceptor = start_server()
    sock, client = connect(acceptor.port)
    with sock:
        client.send(b"GET /db/_bl")
        answer = client.read_answer()
    assert answer.status == "HTTP/1.1 408 Request Timeout"


def test_request_that_drips_ends_in_time(start_server: StartServer) -> None:
    sock, client = connect(start_server().port)

    def drip() -> None:
        client.send(b"GET /db/_blipsync HTTP/1.1\r\n")
        while True:
            client.send(b"X: y\r\n")
            gevent.sleep(0.02)

    dripping = gevent.spawn(drip)
    with sock, gevent.Timeout(1):
        assert client.read_answer().status == "HTTP/1.1 408 Request Timeout"
    dripping.kill()


def test_silent_client_is_dropped_in_time(start_server: StartServer) -> None:
    sock, client = connect(start_server().port)
    with sock:
        assert client.read_to_end() == b""


def test_refusal_is_logged_with_the_peer(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer_to(start_server().port, upgrade_request(line="GET /other/_blipsync HTTP/1.1"))
    assert "404 Not Found: No such database" in caplog.text
    assert "127.0.0.1:" in caplog.text


def test_failing_session_is_logged_and_dropped(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_websocket: PeerSocket, _peer: Peer) -> None:
        raise RuntimeError("a bug")

    sock, client = connect(start_server(serve=fail).port)
    with sock:
        client.upgrade()
        assert client.read_to_end() == b""
    gevent.sleep(0.01)
    assert "the connection failed on our side" in caplog.text
    assert capfd.readouterr().err == ""


# --- authentication -----------------------------------------------------------------


def is_ann(credentials: Credentials) -> bool:
    return credentials == Credentials("ann", "sésame")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_right_password_is_accepted(start_server: StartServer, encoding: str) -> None:
    sock, client = connect(start_server(authenticate=is_ann).port)
    with sock:
        answer = client.upgrade(Authorization=basic("ann", "sésame", encoding))
    assert answer.status == "HTTP/1.1 101 Switching Protocols"


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic ===",
        "Basic YW5u",
        "Bearer YW5uOnPDqXNhbWU=",
        basic("ann", "sesame"),
        basic("Ann", "sésame"),
        basic("ann", "sésame") + "," + basic("ann", "sésame"),
    ],
)
def test_anything_else_gets_a_challenge(start_server: StartServer, authorization: str) -> None:
    port = start_server(authenticate=is_ann).port
    answer = answer_to(port, upgrade_request(Authorization=authorization))
    assert answer.status == "HTTP/1.1 401 Unauthorized"
    assert answer.headers["WWW-Authenticate"] == 'Basic charset="UTF-8"'
    assert answer.body == b"A valid user name and password are needed\n"


def test_stranger_learns_nothing_about_databases(start_server: StartServer) -> None:
    port = start_server(authenticate=is_ann).port
    answer = answer_to(port, upgrade_request(line="GET /other/_blipsync HTTP/1.1"))
    assert answer.status == "HTTP/1.1 401 Unauthorized"


@pytest.mark.parametrize(
    ("authorization", "credentials"),
    [
        ("Basic YW5uOnNlc2FtZQ==", Credentials("ann", "sesame")),
        ("basic   YW5uOnNlc2FtZQ== ", Credentials("ann", "sesame")),
        ("Basic " + "YW5uOmE6YjpjOg==", Credentials("ann", "a:b:c:")),
        ("Basic Og==", Credentials("", "")),
        ("Basic YW5u OnNlc2FtZQ==", None),
    ],
)
def test_user_is_what_stands_before_the_first_colon(
    authorization: str, credentials: Credentials | None
) -> None:
    assert parse_basic(authorization) == credentials


def test_password_is_not_shown() -> None:
    assert "sesame" not in repr(Credentials("ann", "sesame"))


def test_limits_can_be_raised(start_server: StartServer) -> None:
    acceptor = start_server(limits=replace(QUICK, max_header_bytes=64_000))
    sock, client = connect(acceptor.port)
    with sock:
        assert client.upgrade(Cookie="x" * 40_000).status == "HTTP/1.1 101 Switching Protocols"
