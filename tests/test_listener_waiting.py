"""A listener whose interface is not there, as an application sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync import Database, URLEndpointListener, URLEndpointListenerConfiguration
from edgesync.errors import PortInUseError, UnknownInterfaceError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open("db", directory=tmp_path) as database:
        yield database


def listener_on(db: Database, interface: str, port: int = 0) -> URLEndpointListener:
    return URLEndpointListener(
        URLEndpointListenerConfiguration(
            database=db, network_interface=interface, disable_tls=True, port=port
        )
    )


@pytest.mark.parametrize("absent", ["nosuch0", "203.0.113.7"])
def test_what_is_not_there_is_an_error_unless_it_shall_be_waited_for(
    db: Database, absent: str
) -> None:
    listener = listener_on(db, absent)
    with pytest.raises(UnknownInterfaceError, match=f'"{absent}"'):
        listener.start()
    listener.start(wait=True)
    assert listener.waiting_for is not None
    assert absent in listener.waiting_for


def test_a_waiting_listener_has_nothing_to_connect_to(db: Database) -> None:
    listener = listener_on(db, "nosuch0")
    listener.start(wait=True)
    assert (listener.port, listener.urls, listener.addresses) == (0, (), ())


def test_a_listener_waits_on_while_nothing_changes(db: Database) -> None:
    listener = listener_on(db, "nosuch0")
    listener.start(wait=True)
    listener.follow_interface()
    assert listener.waiting_for == 'the interface "nosuch0", which is not there'


def test_a_waiting_listener_can_be_stopped_and_started_again(db: Database) -> None:
    listener = listener_on(db, "nosuch0")
    listener.start(wait=True)
    listener.stop()
    assert listener.waiting_for is None
    listener.start(wait=True)
    assert listener.waiting_for is not None


def test_a_listener_that_serves_waits_for_nothing(db: Database) -> None:
    listener = listener_on(db, "127.0.0.1")
    listener.start(wait=True)
    before = listener.urls
    listener.follow_interface()
    assert listener.waiting_for is None
    assert listener.urls == before
    assert listener.addresses == ("127.0.0.1",)


def test_a_stopped_listener_follows_nothing(db: Database) -> None:
    listener = listener_on(db, "127.0.0.1")
    listener.follow_interface()
    assert listener.port == 0


def test_a_busy_port_is_an_error_even_if_the_interface_shall_be_waited_for(db: Database) -> None:
    first = listener_on(db, "127.0.0.1")
    first.start()
    with pytest.raises(PortInUseError):
        listener_on(db, "127.0.0.1", first.port).start(wait=True)
