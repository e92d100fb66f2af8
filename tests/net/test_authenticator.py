"""Who may connect, asked by a listener."""

from __future__ import annotations

import threading
import time

import gevent
import pytest

from edgesync.authenticator import ListenerPasswordAuthenticator
from edgesync.net.passwords import Credentials
from tests.net.conftest import StartServer
from tests.net.raw_client import basic, connect


@pytest.mark.parametrize(("password", "accepted"), [("sesame", True), ("Sesame", False)])
def test_callback_decides(password: str, accepted: bool) -> None:
    authenticator = ListenerPasswordAuthenticator(lambda _user, given: given == "sesame")
    assert authenticator.authenticate(Credentials("ann", password)) is accepted


def test_client_without_password_is_refused_unasked(start_server: StartServer) -> None:
    asked: list[str] = []

    def note(user: str, _password: str) -> bool:
        asked.append(user)
        return True

    acceptor = start_server(authenticate=ListenerPasswordAuthenticator(note).authenticate)
    sock, client = connect(acceptor.port)
    with sock:
        assert client.upgrade().status == "HTTP/1.1 401 Unauthorized"
    assert asked == []


def test_failing_callback_counts_as_no_and_is_logged(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_user: str, _password: str) -> bool:
        raise RuntimeError("no database of users")

    acceptor = start_server(authenticate=ListenerPasswordAuthenticator(fail).authenticate)
    sock, client = connect(acceptor.port)
    with sock:
        answer = client.upgrade(Authorization=basic("ann", "sesame"))
    assert answer.status == "HTTP/1.1 401 Unauthorized"
    assert "no database of users" in caplog.text
    assert "sesame" not in caplog.text
    assert capfd.readouterr().err == ""


def test_slow_callback_delays_its_own_connection_only(start_server: StartServer) -> None:
    release = threading.Event()

    def decide(user: str, _password: str) -> bool:
        return user == "quick" or release.wait(5)

    acceptor = start_server(authenticate=ListenerPasswordAuthenticator(decide).authenticate)
    slow_sock, slow = connect(acceptor.port)
    waiting = gevent.spawn(slow.upgrade, Authorization=basic("slow", "x"))
    gevent.sleep(0.01)
    before = time.monotonic()
    sock, client = connect(acceptor.port)
    with sock, slow_sock:
        assert client.upgrade(Authorization=basic("quick", "x")).status.startswith("HTTP/1.1 101")
        assert time.monotonic() - before < 1
        assert not waiting.ready()
        release.set()
        assert waiting.get(timeout=2).status.startswith("HTTP/1.1 101")
