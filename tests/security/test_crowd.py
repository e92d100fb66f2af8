"""A crowd at the door: handshakes that stall and passwords that are guessed."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import gevent
import pytest

from edgesync import (
    Database,
    KeyStore,
    ListenerPasswordAuthenticator,
    URLEndpointListener,
    URLEndpointListenerConfiguration,
)
from tests.net.raw_client import RawClient, basic
from tests.net.tls_clients import client_context

T = TypeVar("T")
STALLED: Final = 200
GUESSES_A_MINUTE: Final = 1000
LASTS_S: Final = 4.0
ENEMY, STRANGER = "127.0.0.7", "127.0.0.8"


def in_thread(function: Callable[[], T]) -> T:
    return gevent.get_hub().threadpool.apply(function)


def knock(port: int, address: str, password: str) -> tuple[str, float]:
    """Return the status that a client gets, and how long that took."""
    began = time.monotonic()
    raw = socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
    with client_context().wrap_socket(raw) as sock:
        answer = RawClient(sock).upgrade(Authorization=basic("ann", password))
    return answer.status.removeprefix("HTTP/1.1 ")[:3], time.monotonic() - began


class Enemy:
    """Opens connections that say nothing and, from the same address, guesses passwords."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._guess, self._stall)]
        self.answers: Counter[str] = Counter()
        for thread in self._threads:
            thread.start()

    def _guess(self) -> None:
        next_at = time.monotonic()
        while not self._is_over.wait(max(0.0, next_at - time.monotonic())):
            next_at += 60 / GUESSES_A_MINUTE
            try:
                self.answers[knock(self._port, ENEMY, secrets.token_hex(4))[0]] += 1
            except (OSError, EOFError):
                self.answers["dropped"] += 1

    def _stall(self) -> None:
        """Keep so many connections open, all the time new ones."""
        stalled: deque[socket.socket] = deque()
        while not self._is_over.wait(0.02):
            stalled += [self._stalled() for _ in range(STALLED - len(stalled))]
            stalled.popleft().close()
        for each in stalled:
            each.close()

    def _stalled(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), 10, source_address=(ENEMY, 0))
        sock.sendall(b"\x16\x03\x01\x02\x00")
        return sock

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[URLEndpointListener]:
    store = KeyStore.open(tmp_path / "keys", unlock=secrets.token_bytes(32))
    store.set_password("ann", "sesame")
    with Database.open("db", directory=tmp_path) as database:
        listener = URLEndpointListener(
            URLEndpointListenerConfiguration(
                database=database,
                network_interface="127.0.0.1",
                key_store=store,
                authenticator=ListenerPasswordAuthenticator(store.check_password),
            )
        )
        listener.start()
        yield listener


@contextmanager
def besieged(port: int) -> Iterator[Enemy]:
    enemy = Enemy(port)
    gevent.sleep(LASTS_S / 4)
    try:
        yield enemy
    finally:
        in_thread(enemy.end)


def test_good_clients_come_in_within_a_second(listener: URLEndpointListener) -> None:
    port = listener.port
    assert in_thread(lambda: knock(port, ENEMY, "sesame"))[0] == "101"  # behind the same router
    with besieged(port) as enemy:
        until = time.monotonic() + LASTS_S
        while time.monotonic() < until:
            for address in (STRANGER, ENEMY):
                status, took_s = in_thread(lambda: knock(port, address, "sesame"))  # noqa: B023
                assert status == "101", address
                assert took_s < 1, address
            gevent.sleep(0.1)
        assert enemy.answers["101"] == 0
    # All but the first ten and some forgiven ones are not even looked at.
    assert 10 <= enemy.answers["401"] <= 12
    assert enemy.answers["429"] > 20, enemy.answers
