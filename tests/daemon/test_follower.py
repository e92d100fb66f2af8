"""What the service tells of listeners whose interfaces come and go; see also tests/network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync import Database, Limits, URLEndpointListener, URLEndpointListenerConfiguration
from edgesync.api.events import Events
from edgesync.daemon.follower import Follower

Listeners = dict[str, URLEndpointListener]


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[Listeners]:
    """Return a listener that serves and one that waits."""
    with Database.open("db", directory=tmp_path) as database:
        made = {
            name: URLEndpointListener(
                URLEndpointListenerConfiguration(
                    database=database, network_interface=interface, disable_tls=True
                )
            )
            for name, interface in (("field", "127.0.0.1"), ("yard", "nosuch0"))
        }
        for listener in made.values():
            listener.start(wait=True)
        yield made


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_it_tells_once_which_listener_serves_and_what_the_other_waits_for(
    listeners: Listeners, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    follower = Follower(listeners, list, Events(), Limits())
    follower.follow()
    follower.follow()
    assert told(caplog) == [
        f'listener "field" serves {listeners["field"].urls[0]}',
        'listener "yard" waits for the interface "nosuch0", which is not there',
    ]


def test_it_tells_again_of_a_listener_that_is_back_after_a_reload(
    listeners: Listeners, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    follower = Follower(listeners, list, Events(), Limits())
    follower.follow()
    removed = listeners.pop("field")
    follower.follow()
    listeners["field"] = removed
    follower.follow()
    assert sum(f'"field" serves {removed.urls[0]}' in line for line in told(caplog)) == 2


def test_it_tells_of_a_listener_that_was_stopped(
    listeners: Listeners, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(listeners, list, Events(), Limits())
    follower.follow()
    listeners["field"].stop()
    caplog.set_level("INFO")
    follower.follow()
    assert told(caplog) == ['listener "field" is stopped']


def test_a_listener_on_loopback_needs_no_mdns(listeners: Listeners) -> None:
    follower = Follower(listeners, lambda: ["field"], Events(), Limits())
    follower.start()
    assert (follower.names, follower.problems) == ({}, {})
    follower.stop()


def test_it_looks_at_listeners_that_were_made_anew(
    listeners: Listeners, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(listeners, list, Events(), Limits())
    yard = listeners.pop("yard")
    follower.follow()
    listeners["yard"] = yard
    caplog.set_level("INFO")
    follower.follow()
    assert len(told(caplog)) == 1
