"""The front door as an application opens it: real sockets, the active peer as client."""

from __future__ import annotations

import gc
import hashlib
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gevent
import pytest

from edgesync import (
    ConnectionStatus,
    Database,
    Limits,
    ListenerPasswordAuthenticator,
    URLEndpointListener,
    URLEndpointListenerConfiguration,
)
from edgesync.errors import (
    ConfigurationError,
    ListenerError,
    PortInUseError,
    UnknownInterfaceError,
)
from tests.active_peer.failures import SyncError
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.peer_socket import Credentials
from tests.active_peer.sync import ContinuousSync, sync
from tests.net.raw_client import BINARY, CLOSE, close_payload, connect_upgraded, frame
from tests.net.raw_client import connect as raw_connect

P = ParamSpec("P")
R = TypeVar("R")
NEVER_ANSWERED = b"\x01\x00\x00"


def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking client while this thread's hub serves it."""
    result: R = gevent.get_hub().threadpool.apply(function, args, kwargs)
    return result


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    with gevent.Timeout(timeout_s):
        while not condition():
            gevent.sleep(0.01)


@contextmanager
def continuous(
    database: PeerDatabase, listener: URLEndpointListener, **changes: Any
) -> Iterator[ContinuousSync]:
    """Run a client until the block ends; it must not have failed by then."""
    client = ContinuousSync(database, url(listener), **changes)
    in_thread(client.wait_idle)
    yield client
    in_thread(client.stop)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open("db", directory=tmp_path / "databases") as database:
        yield database


Start = Callable[..., URLEndpointListener]


@pytest.fixture
def start(db: Database) -> Iterator[Start]:
    """Return a way to start listeners on loopback."""
    listeners: list[URLEndpointListener] = []

    def start_listener(**changes: object) -> URLEndpointListener:
        settings = {
            "collections": [db.default_collection],
            "network_interface": "127.0.0.1",
            "disable_tls": True,
            **changes,
        }
        listener = URLEndpointListener(URLEndpointListenerConfiguration(**settings))  # type: ignore[arg-type]
        listener.start()
        listeners.append(listener)
        return listener

    yield start_listener
    for listener in listeners:
        listener.stop()


def url(listener: URLEndpointListener) -> str:
    return listener.urls[0]


def is_stopped(listener: URLEndpointListener) -> bool:
    return listener.port == 0 and not listener.urls and listener.tls_identity is None


# --- configuration and life -------------------------------------------------------------


def test_port_urls_and_identity_are_there_only_while_it_runs(db: Database) -> None:
    listener = URLEndpointListener(
        URLEndpointListenerConfiguration(database=db, network_interface="127.0.0.1")
    )
    assert is_stopped(listener)
    listener.start()
    assert listener.port > 0
    assert listener.urls == (f"wss://127.0.0.1:{listener.port}/db",)
    assert listener.tls_identity is not None
    listener.start()  # harmless
    listener.stop()
    assert is_stopped(listener)
    assert listener.status == ConnectionStatus(0, 0)
    listener.stop()  # harmless


def test_stopped_listener_can_be_started_again(db: Database, start: Start) -> None:
    listener = start()
    listener.stop()
    listener.start()
    assert in_thread(sync, PeerDatabase(), url(listener)).complaints == []


def test_chosen_port_is_used_and_a_busy_one_is_named(db: Database, start: Start) -> None:
    first = start()
    with pytest.raises(PortInUseError, match=str(first.port)):
        start(port=first.port)
    port = first.port
    first.stop()
    assert start(port=port).port == port


@pytest.mark.parametrize("interface", ["1.1.1.256", "wlan9", "", "203.0.113.7"])
def test_unknown_interface_is_an_error_that_names_it(
    db: Database, start: Start, interface: str
) -> None:
    with pytest.raises(UnknownInterfaceError):
        start(network_interface=interface)


def test_interface_by_name(start: Start) -> None:
    assert start(network_interface="lo").urls[0].startswith("ws://127.0.0.1:")


def test_impossible_configurations_are_refused(db: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        URLEndpointListener(URLEndpointListenerConfiguration())
    with pytest.raises(ConfigurationError):
        URLEndpointListener(
            URLEndpointListenerConfiguration(database=db, collections=[db.default_collection])
        )
    with pytest.raises(ConfigurationError):
        URLEndpointListener(URLEndpointListenerConfiguration(database=db, port=70_000))
    with Database.open("other", directory=tmp_path) as other, pytest.raises(ConfigurationError):
        URLEndpointListener(
            URLEndpointListenerConfiguration(
                collections=[db.default_collection, other.default_collection]
            )
        )


def test_closing_the_database_stops_its_listeners(db: Database, start: Start) -> None:
    first, second = start(), start()
    client = ContinuousSync(PeerDatabase(), url(first))
    in_thread(client.wait_idle)
    db.close()
    assert (first.port, second.port) == (0, 0)
    in_thread(client.join)
    assert client.error is not None
    assert client.error.close_code == 1001
    with pytest.raises(ListenerError):
        first.start()


def test_stop_tells_clients_that_it_goes_away(start: Start) -> None:
    listener = start()
    client = ContinuousSync(PeerDatabase(), url(listener))
    in_thread(client.wait_idle)
    listener.stop()
    in_thread(client.join)
    assert client.error is not None
    assert client.error.close_code == 1001
    assert not client.error.is_transient


def test_status_counts_connections_and_activity(start: Start) -> None:
    listener = start()
    seen: list[ConnectionStatus] = []
    forget = listener.add_change_listener(seen.append)
    with continuous(PeerDatabase(), listener):
        eventually(lambda: listener.status == ConnectionStatus(1, 0))
        (info,) = listener.connections
        assert info.peer_address.startswith("127.0.0.1:")
        assert info.client.startswith("EdgesyncActivePeer")
        assert info.protocol_version == 3
        assert info.collections == ("_default._default",)
        assert info.bytes_in > 0
    eventually(lambda: listener.status == ConnectionStatus(0, 0))
    assert [status.connection_count for status in seen] == [1, 0]
    forget()


def test_operator_can_close_one_connection(start: Start) -> None:
    listener = start()
    stay, leave = (ContinuousSync(PeerDatabase(), url(listener)) for _ in range(2))
    in_thread(stay.wait_idle)
    in_thread(leave.wait_idle)
    eventually(lambda: len(listener.connections) == 2)
    before = listener.connections
    listener.close_connection(before[0])
    eventually(lambda: len(listener.connections) == 1)
    assert listener.connections[0].id == before[1].id
    ended, running = (stay, leave) if stay.error else (leave, stay)
    in_thread(ended.join)
    assert ended.error is not None
    assert ended.error.close_code == 1001
    in_thread(running.stop)


# --- replication -------------------------------------------------------------------------


@pytest.mark.parametrize("disable_tls", [True, False])
@pytest.mark.parametrize("use_collections", [True, False])
def test_what_one_client_pushes_another_pulls(
    start: Start, disable_tls: bool, use_collections: bool
) -> None:
    listener = start(disable_tls=disable_tls)
    first, second = PeerDatabase(), PeerDatabase()
    for number in range(450):
        first.save(f"doc-{number}", {"n": number, "text": "Füllstand \U0001d11e" * 10})
    pushed = in_thread(sync, first, url(listener), pull=False, use_collections=use_collections)
    pulled = in_thread(sync, second, url(listener), push=False, use_collections=use_collections)
    assert (pushed.pushed, pulled.pulled) == (450, 450)
    assert pushed.complaints == pulled.complaints == []
    assert second.digest(revisions=True) == first.digest(revisions=True)


def test_second_run_has_nothing_to_do(start: Start) -> None:
    listener = start()
    client = PeerDatabase()
    client.save("doc", {"n": 1})
    in_thread(sync, client, url(listener))
    again = in_thread(sync, client, url(listener))
    assert (again.pushed, again.pulled, again.already_there) == (0, 0, 0)


def test_local_save_reaches_a_connected_client_at_once(db: Database, start: Start) -> None:
    listener = start()
    client = PeerDatabase()
    with continuous(client, listener) as running:
        saved = db.default_collection.save("live", {"n": 1})
        in_thread(running.wait_for, lambda: client.get("live") == {"n": 1})
        db.default_collection.delete("live", parent=saved.revision_id)
        in_thread(running.wait_for, lambda: client.get("live") is None)


def test_change_of_a_client_reaches_the_application(db: Database, start: Start) -> None:
    listener = start()
    heard: list[str] = []
    db.default_collection.add_change_listener(
        lambda changes: heard.extend(c.doc_id for c in changes)
    )
    client = PeerDatabase()
    with continuous(client, listener):
        client.save("from-client", {"n": 1})
        eventually(lambda: heard == ["from-client"])
    found = db.default_collection.get("from-client")
    assert found is not None
    assert dict(found.body) == {"n": 1}


def test_conflict_is_resolved_by_the_client(start: Start) -> None:
    listener = start()
    first, second = PeerDatabase(), PeerDatabase()
    first.save("doc", {"n": 0})
    in_thread(sync, first, url(listener))
    in_thread(sync, second, url(listener))
    first.save("doc", {"n": 1})
    second.save("doc", {"n": 2})
    in_thread(sync, first, url(listener))
    in_thread(sync, second, url(listener))
    in_thread(sync, second, url(listener))
    in_thread(sync, first, url(listener))
    assert first.digest() == second.digest()


def test_blobs_travel_both_ways(db: Database, start: Start) -> None:
    listener = start()
    first, second = PeerDatabase(), PeerDatabase()
    contents = [b"", b"x" * 3000, bytes(range(256)) * 8000]
    for place, content in enumerate(contents):
        blob = first.save_blob(content, "text/plain" if place % 2 else "image/png")
        first.save(f"photo-{place}", {"pic": blob})
    in_thread(sync, first, url(listener))
    in_thread(sync, second, url(listener))
    assert second.missing_blobs() == []
    for place, content in enumerate(contents):
        found = db.default_collection.get(f"photo-{place}")
        assert found is not None
        properties = found.body["pic"]
        assert isinstance(properties, dict)
        stream = db.get_blob(properties)
        assert stream is not None
        assert stream.read() == content


def test_client_that_has_a_blob_proves_it(db: Database, start: Start) -> None:
    listener = start(prove_blobs=True)
    content = b"somebody's picture"
    for name in ("first", "second"):
        client = PeerDatabase()
        client.save(name, {"pic": client.save_blob(content, "image/png")})
        result = in_thread(sync, client, url(listener), pull=False)
        assert (result.pushed, result.push_errors) == (1, [])
    assert db.default_collection.count == 2


def test_two_collections_stay_apart(db: Database, start: Start) -> None:
    meters, trucks = db.create_collection("field.meters"), db.create_collection("field.trucks")
    listener = start(collections=[meters, trucks])
    first, second = PeerDatabase(), PeerDatabase()
    first.save("a", {"n": 1}, "field.meters")
    first.save("a", {"n": 2}, "field.trucks")
    both = ["field.trucks", "field.meters"]
    in_thread(sync, first, url(listener), collections=both)
    in_thread(sync, second, url(listener), collections=both)
    assert second.get("a", "field.meters") == {"n": 1}
    assert second.get("a", "field.trucks") == {"n": 2}
    found = meters.get("a")
    assert found is not None
    assert dict(found.body) == {"n": 1}


def test_collection_that_is_not_offered_is_not_found(start: Start) -> None:
    with pytest.raises(SyncError) as caught:
        in_thread(sync, PeerDatabase(), url(start()), collections=["field.none"])
    assert "field.none" in str(caught.value)


def test_read_only_listener_can_be_pulled_from_but_not_pushed_to(
    db: Database, start: Start
) -> None:
    db.default_collection.save("doc", {"n": 1})
    listener = start(read_only=True)
    client = PeerDatabase()
    assert in_thread(sync, client, url(listener)).pulled == 1
    client.save("mine", {"n": 2})
    with pytest.raises(SyncError) as caught:
        in_thread(sync, client, url(listener))
    assert caught.value.refusal is not None
    assert caught.value.refusal.code == 403
    assert db.default_collection.get("mine") is None


def test_document_id_filter(db: Database, start: Start) -> None:
    for name in "abc":
        db.default_collection.save(name, {})
    client = PeerDatabase()
    in_thread(sync, client, url(start()), push=False, doc_ids=["a", "c"])
    assert client.default_collection.ids() == ["a", "c"]


@pytest.mark.parametrize("disable_tls", [True, False])
def test_password_decides(start: Start, disable_tls: bool) -> None:
    listener = start(
        disable_tls=disable_tls,
        authenticator=ListenerPasswordAuthenticator(lambda u, p: (u, p) == ("änn", "sésame")),
    )
    good = Credentials(user="änn", password="sésame")
    with continuous(PeerDatabase(), listener, credentials=good):
        eventually(lambda: len(listener.connections) == 1)
        assert listener.connections[0].user == "änn"
    for bad in (Credentials(), Credentials(user="änn", password="sesame")):
        with pytest.raises(SyncError) as caught:
            in_thread(sync, PeerDatabase(), url(listener), credentials=bad)
        assert caught.value.http_status == 401


def test_unknown_database_is_404(start: Start) -> None:
    with pytest.raises(SyncError) as caught:
        in_thread(sync, PeerDatabase(), url(start()).replace("/db", "/none"))
    assert caught.value.http_status == 404


def test_listeners_of_one_database_share_its_documents(start: Start) -> None:
    plain, encrypted = start(), start(disable_tls=False)
    reader, writer = PeerDatabase(), PeerDatabase()
    with continuous(reader, encrypted) as running:
        writer.save("doc", {"n": 1})
        in_thread(sync, writer, url(plain))
        in_thread(running.wait_for, lambda: reader.get("doc") == {"n": 1})


def test_twenty_clients_in_continuous_sync_see_each_others_changes(start: Start) -> None:
    listener = start()
    databases = [PeerDatabase() for _ in range(20)]
    clients = [ContinuousSync(database, url(listener)) for database in databases]
    try:
        for client in clients:
            in_thread(client.wait_idle)
        for round_number in range(3):
            for place, database in enumerate(databases):
                database.save(f"doc-{place}", {"round": round_number, "by": place})

        def all_there() -> bool:
            return all(
                database.get(f"doc-{place}") == {"round": 2, "by": place}
                for database in databases
                for place in range(20)
            )

        eventually(all_there, 30)
        assert len({database.digest(revisions=True) for database in databases}) == 1
        assert [client.result.complaints for client in clients] == [[]] * 20
    finally:
        for client in clients:
            in_thread(client.stop)


# --- bad input ------------------------------------------------------------------------------


def blip_frame(payload: bytes, number: int = 1, flags: int = 0) -> bytes:
    return bytes([number, flags]) + payload + zlib.crc32(payload).to_bytes(4, "big")


@pytest.mark.parametrize(
    "bad",
    [
        blip_frame(b"\x00")[:-1] + b"\xff",  # checksum
        b"\x01",  # no header
        blip_frame(b"\x00", number=2),  # the first request has number 1
        blip_frame(b"\x00", number=9, flags=1),  # answers nothing
        blip_frame(b"\x04a\x00b3"),  # properties without the final NUL
        b"",
    ],
    ids=["checksum", "header", "number", "reply", "properties", "empty"],
)
def test_bad_frame_ends_its_connection_with_1002_and_no_other(start: Start, bad: bytes) -> None:
    listener = start()
    with continuous(PeerDatabase(), listener) as other:
        sock, client = connect_upgraded(listener.port)
        client.send(frame(bad))
        first, payload = client.read_frame()
        assert first == CLOSE
        assert int.from_bytes(payload[:2], "big") == 1002
        client.send(frame(payload, CLOSE))
        assert client.read_to_end() == b""
        sock.close()
        assert other.is_idle


def test_client_that_vanishes_is_forgotten(start: Start) -> None:
    listener = start()
    sock, _ = connect_upgraded(listener.port)
    eventually(lambda: listener.status.connection_count == 1)
    sock.close()
    eventually(lambda: listener.status.connection_count == 0)


def test_client_that_closes_gets_its_close_back(start: Start) -> None:
    sock, client = connect_upgraded(start().port)
    client.send(frame(close_payload(1000, "done"), CLOSE))
    assert client.read_frame() == (CLOSE, close_payload(1000, "done"))
    assert client.read_to_end() == b""
    sock.close()


def test_silent_client_is_pinged_and_then_dropped(start: Start) -> None:
    listener = start(limits=Limits(ping_interval_s=0.1, pong_timeout_s=0.2))
    sock, client = connect_upgraded(listener.port)
    assert client.read_frame()[0] == 0x89
    assert client.read_to_end() == b""
    eventually(lambda: listener.status.connection_count == 0)
    sock.close()


def test_silent_client_that_answers_pings_stays(start: Start) -> None:
    listener = start(limits=Limits(ping_interval_s=0.05, pong_timeout_s=0.5))
    sock, client = connect_upgraded(listener.port)
    for _ in range(5):
        first, payload = client.read_frame()
        assert first == 0x89
        client.send(frame(payload, 0x8A))
    assert listener.status.connection_count == 1
    sock.close()


def test_client_that_leaves_our_request_unanswered_is_told_to_come_back(
    db: Database, start: Start
) -> None:
    db.default_collection.save("doc", {})
    listener = start(limits=Limits(reply_timeout_s=0.2))
    sock, client = connect_upgraded(listener.port)
    properties = b"Profile\x00subChanges\x00"
    client.send(frame(blip_frame(bytes([len(properties)]) + properties)))
    while (answer := client.read_frame())[0] == BINARY:
        pass
    assert answer[0] == CLOSE
    assert int.from_bytes(answer[1][:2], "big") == 4001
    sock.close()


def test_client_that_never_reads_costs_little_and_hinders_nobody(
    db: Database, start: Start
) -> None:
    for number in range(300):
        text = hashlib.sha256(str(number).encode()).hexdigest() * 300
        db.default_collection.save(f"doc-{number}", {"text": text})
    listener = start()
    sock, client = connect_upgraded(listener.port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    properties = b"Profile\x00subChanges\x00"
    client.send(frame(blip_frame(bytes([len(properties)]) + properties)))
    other = PeerDatabase()
    result = in_thread(sync, other, url(listener))
    assert result.pulled == 300
    gc.collect()
    sock.close()


def test_full_listener_says_so_before_the_upgrade(start: Start) -> None:
    listener = start(limits=Limits(max_connections=1))
    sock, _ = connect_upgraded(listener.port)
    other, client = raw_connect(listener.port)
    assert client.upgrade().status.startswith("HTTP/1.1 503")
    sock.close()
    other.close()
