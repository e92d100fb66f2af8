"""How often passwords may be tried, and by whom."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Final

import gevent
import pytest

from edgesync.limits import Limits
from edgesync.net.passwords import Credentials, PasswordChecks, Verdict
from tests.net.conftest import QUICK, StartServer
from tests.net.raw_client import Answer, basic, connect

RIGHT, WRONG = Credentials("ann", "sesame"), Credentials("ann", "Sesame")
LIMITS: Final = Limits(max_password_failures=3, password_failure_forgiven_s=30.0)
HERE, THERE = "192.0.2.1", "192.0.2.2"


class Users:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.right = RIGHT

    def __call__(self, credentials: Credentials) -> bool:
        self.asked += 1
        return credentials == self.right


def try_all(checks: PasswordChecks, count: int, address: str = HERE) -> list[Verdict]:
    return [checks.check(address, WRONG) for _ in range(count)]


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
def checks(users: Users) -> PasswordChecks:
    return PasswordChecks(users, LIMITS)


def test_after_some_failures_nothing_is_looked_at(checks: PasswordChecks, users: Users) -> None:
    assert try_all(checks, 5) == [Verdict.WRONG] * 3 + [Verdict.NOT_NOW] * 2
    assert checks.check(HERE, RIGHT) is Verdict.NOT_NOW
    assert users.asked == 3


def test_other_addresses_are_not_concerned(checks: PasswordChecks) -> None:
    try_all(checks, 5)
    assert checks.check(THERE, RIGHT) is Verdict.RIGHT


def test_failures_are_forgiven_one_by_one(users: Users) -> None:
    checks = PasswordChecks(users, replace(LIMITS, password_failure_forgiven_s=0.05))
    try_all(checks, 3)
    gevent.sleep(0.07)
    assert try_all(checks, 2) == [Verdict.WRONG, Verdict.NOT_NOW]


def test_what_is_right_costs_nothing(checks: PasswordChecks) -> None:
    try_all(checks, 2)
    assert {checks.check(HERE, RIGHT) for _ in range(20)} == {Verdict.RIGHT}
    assert try_all(checks, 2) == [Verdict.WRONG, Verdict.NOT_NOW]


def test_who_names_nobody_has_not_guessed(checks: PasswordChecks, users: Users) -> None:
    assert {checks.check(HERE, None) for _ in range(20)} == {Verdict.WRONG}
    assert users.asked == 0
    assert checks.check(HERE, RIGHT) is Verdict.RIGHT


def test_who_was_here_before_comes_in_whatever_a_neighbour_does(checks: PasswordChecks) -> None:
    checks.check(THERE, RIGHT)  # at home, or here yesterday
    try_all(checks, 5)
    assert checks.check(HERE, RIGHT) is Verdict.RIGHT
    assert checks.check(HERE, WRONG) is Verdict.NOT_NOW


def test_password_that_was_right_and_is_not_is_a_guess(
    checks: PasswordChecks, users: Users
) -> None:
    checks.check(HERE, RIGHT)
    users.right = Credentials("ann", "new")
    assert checks.check(HERE, RIGHT) is Verdict.WRONG
    try_all(checks, 5)
    assert checks.check(HERE, RIGHT) is Verdict.NOT_NOW


def test_many_at_a_time_are_no_way_around(users: Users) -> None:
    release = threading.Event()

    def slow(credentials: Credentials) -> bool:
        release.wait(5)
        return users(credentials)

    checks = PasswordChecks(slow, LIMITS)
    attempts = [gevent.spawn(checks.check, HERE, WRONG) for _ in range(20)]
    gevent.sleep(0.01)
    release.set()
    verdicts = [attempt.get(timeout=5) for attempt in attempts]
    assert verdicts.count(Verdict.WRONG) == users.asked == 3


def test_only_so_many_threads_check_at_a_time() -> None:
    running: list[int] = []
    release = threading.Event()

    def slow(_credentials: Credentials) -> bool:
        running.append(1)
        return release.wait(5)

    checks = PasswordChecks(slow, replace(LIMITS, max_password_checks=2))
    attempts = [gevent.spawn(checks.check, f"192.0.2.{n}", RIGHT) for n in range(8)]
    gevent.sleep(0.05)
    assert len(running) == 2
    release.set()
    assert {attempt.get(timeout=5) for attempt in attempts} == {Verdict.RIGHT}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("192.0.2.1", "192.0.2.1", True),
    ],
)
def test_network_of_an_ipv6_address_counts_as_one(
    checks: PasswordChecks, one: str, other: str, is_same: bool
) -> None:
    try_all(checks, 3, one)
    assert (checks.check(other, RIGHT) is Verdict.NOT_NOW) is is_same


def test_only_so_many_addresses_are_remembered(checks: PasswordChecks) -> None:
    try_all(checks, 3)
    for number in range(4096):
        checks.check(f"10.0.{number >> 8}.{number & 255}", RIGHT)
    assert checks.check(HERE, WRONG) is Verdict.WRONG  # it is forgotten, as all that are kept


def test_a_warning_tells_once_of_an_address(
    checks: PasswordChecks, caplog: pytest.LogCaptureFixture
) -> None:
    try_all(checks, 20)
    assert caplog.messages == [
        "192.0.2.1: too many wrong passwords; more of them are not looked at"
    ]
    assert "Sesame" not in caplog.text


# --- over sockets -----------------------------------------------------------------------


def knock(port: int, password: str) -> Answer:
    sock, client = connect(port)
    with sock:
        return client.upgrade(Authorization=basic("ann", password))


def test_client_is_told_to_come_again(
    start_server: StartServer, users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    """429 is one of the answers after which Couchbase Lite tries again by itself."""
    caplog.set_level(logging.INFO)
    limits = replace(QUICK, max_password_failures=1, password_failure_forgiven_s=30.0)
    port = start_server(authenticate=users, limits=limits).port
    assert knock(port, "x").status == "HTTP/1.1 401 Unauthorized"
    answer = knock(port, "sesame")
    assert answer.status == "HTTP/1.1 429 Too Many Requests"
    assert answer.headers["Retry-After"] == "10"
    assert "WWW-Authenticate" not in answer.headers
    assert "429" not in caplog.text  # the warning is enough


def test_refused_clients_that_stay_take_nobodys_place(
    start_server: StartServer, users: Users
) -> None:
    limits = replace(QUICK, max_connections=2, max_password_failures=100)
    port = start_server(authenticate=users, limits=limits).port
    staying = [connect(port) for _ in range(4)]
    for _, client in staying:
        assert client.upgrade(Authorization="Basic eDp5").status == "HTTP/1.1 401 Unauthorized"
    assert knock(port, "sesame").status == "HTTP/1.1 101 Switching Protocols"
    for sock, _ in staying:
        sock.close()
