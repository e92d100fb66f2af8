"""The service's own nouns in the local API."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_type_hints

from edgesync.api.answers import (
    ConnectionAnswer,
    DatabaseAnswer,
    EventAnswer,
    ListenerAnswer,
    StatusAnswer,
)
from tests.active_peer.failures import SyncError
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync
from tests.api.box import Box


@contextmanager
def connected(box: Box) -> Iterator[PeerDatabase]:
    """Keep a client connected that has pushed one document."""
    database = PeerDatabase()
    database.save(f"from-client-{time.monotonic_ns()}", {"n": 1})
    before = len(box.client.connections())
    client = ContinuousSync(database, box.url)
    try:
        deadline = time.monotonic() + 10
        while not (client.is_idle and len(box.client.connections()) > before):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield database
    finally:
        with suppress(SyncError):  # we may have closed it
            client.stop()


def until_gone(box: Box) -> None:
    deadline = time.monotonic() + 10
    while box.client.connections():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def serving(box: Box, name: str) -> ListenerAnswer:
    deadline = time.monotonic() + 10
    while (listener := box.client.listener(name))["state"] != "serving":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return listener


def test_answers_are_what_their_types_say(box: Box) -> None:
    status = box.client.status()
    assert set(status) == set(get_type_hints(StatusAnswer))
    assert set(status["listeners"][0]) == set(get_type_hints(ListenerAnswer))
    assert set(status["databases"][0]) == set(get_type_hints(DatabaseAnswer))
    with connected(box):
        assert set(box.client.connections()[0]) == set(get_type_hints(ConnectionAnswer))


def test_status_says_what_is_served(box: Box) -> None:
    status = box.client.status()
    assert status["problems"] == []
    assert status["listeners"][0]["urls"] == [box.url]
    assert status["listeners"][0]["state"] == "serving"
    assert os.path.samefile(status["socket"], box.socket)
    keyspaces = [each["keyspace"] for each in status["databases"][0]["collections"]]
    assert keyspaces == ["db", "db.inventory.items"]


def test_a_client_is_told_of_while_it_is_connected(box: Box) -> None:
    until_gone(box)
    with connected(box):
        (connection,) = box.client.connections()
        assert connection["listener"] == "test"
        assert connection["peer"].startswith("127.0.0.1:")
        assert connection["revisions_in"] == 1
        assert box.client.status()["listeners"][0]["connections"] == 1
    until_gone(box)


def test_totals_do_not_fall_when_clients_go(box: Box) -> None:
    with connected(box):
        pass
    until_gone(box)
    totals = box.client.status()["listeners"][0]["totals"]
    assert totals["connections"] >= 1
    assert totals["bytes_in"] > 0


def test_a_connection_can_be_closed(box: Box) -> None:
    until_gone(box)
    with connected(box):
        (connection,) = box.client.connections()
        closed = box.ask("DELETE", f"/_edgesync/connections/{connection['id']}")
        assert closed.json["id"] == connection["id"]
        until_gone(box)


def test_what_is_not_there_is_not_found(box: Box) -> None:
    for method, path in (
        ("DELETE", "connections/none"),
        ("GET", "listeners/none"),
        ("POST", "listeners/none/restart"),
        ("GET", "databases/none"),
        ("POST", "databases/none/verify"),
        ("GET", "databases/none/backup"),
    ):
        reply = box.ask(method, f"/_edgesync/{path}")
        assert (reply.status, reply.json["error"]) == (404, "not_found"), path
        assert '"none"' in reply.json["reason"]


def test_a_restarted_listener_keeps_its_port_and_its_certificate(tmp_path: Path) -> None:
    settings = '[listener.tls]\ninterface = "127.0.0.1"\nport = 0\ndatabase = "db"'
    with Box(tmp_path, settings=settings) as box:
        before = serving(box, "tls")
        box.ask("POST", "/_edgesync/listeners/tls/restart")
        after = box.client.listener("tls")
        assert after["state"] == "serving"
        assert after["fingerprint"] == before["fingerprint"] is not None
        box.ask("POST", "/_edgesync/listeners/test/restart")
        assert box.client.listener("test")["urls"] == [box.url]


def test_interfaces_have_names_and_addresses(box: Box) -> None:
    loopback = next(each for each in box.client.interfaces() if each["name"] == "lo")
    assert loopback["up"]
    assert "127.0.0.1" in loopback["addresses"]


def test_events_tell_what_happened(box: Box) -> None:
    until_gone(box)
    with connected(box):
        pass
    until_gone(box)
    lines = box.ask("GET", "/_edgesync/events?follow=false").content.splitlines()
    events = [json.loads(line) for line in lines]
    assert set(events[0]) == set(get_type_hints(EventAnswer))
    kinds = [event["event"] for event in events]
    assert kinds[0] in ("listener_serving", "started")
    assert "client_gone" in kinds[kinds.index("client_connected") :]


def test_events_come_as_they_happen(box: Box) -> None:
    connection = box.connection()
    connection.request("GET", "/_edgesync/events")
    response = connection.getresponse()
    box.ask("POST", "/_edgesync/databases", {"name": "eventful"})
    assert response.readline() == b"\n"
    assert json.loads(response.readline())["event"] == "database_created"
    connection.close()


def test_the_log_can_be_read(box: Box) -> None:
    with connected(box):
        pass
    lines = box.ask("GET", "/_edgesync/log?lines=50").content.splitlines()
    assert any("connected: BLIP_3" in json.loads(line)["line"] for line in lines)


def test_without_a_key_store_the_way_to_one_is_told(box: Box) -> None:
    for path in ("identities", "users"):
        reply = box.ask("GET", f"/_edgesync/{path}")
        assert (reply.status, reply.json["error"]) == (409, "key_store")
        assert "[key_store]" in reply.json["hint"]
