"""Identities that change while a listener shows them, and what clients notice of it."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import gevent
import pytest

from edgesync import (
    Database,
    KeyStore,
    KeyType,
    TLSIdentity,
    URLEndpointListener,
    URLEndpointListenerConfiguration,
)
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync

T = TypeVar("T")
CLIENTS: Final = 50
StartListener = Callable[..., URLEndpointListener]


def in_thread(function: Callable[[], T]) -> T:
    return gevent.get_hub().threadpool.apply(function)


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    with gevent.Timeout(timeout_s):
        while not condition():
            gevent.sleep(0.01)


def each_waits(clients: list[ContinuousSync], condition: Callable[[ContinuousSync], bool]) -> None:
    for client in clients:
        client.wait_for(partial(condition, client), 60)


def shown_by(listener: URLEndpointListener) -> bytes:
    """Return the fingerprint of what the next client sees."""
    address = "127.0.0.1", listener.port
    pem = in_thread(lambda: ssl.get_server_certificate(address, timeout=10))
    return sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore.open(tmp_path / "keys", unlock=secrets.token_bytes(32))


@pytest.fixture
def kitchen(store: KeyStore) -> TLSIdentity:
    return store.create_identity("kitchen", {"CN": "kitchen"}, key_type=KeyType.P_256)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open("db", directory=tmp_path) as database:
        yield database


@pytest.fixture
def start(db: Database) -> Iterator[StartListener]:
    listeners: list[URLEndpointListener] = []

    def start_listener(
        identity: TLSIdentity | None = None, store: KeyStore | None = None
    ) -> URLEndpointListener:
        listener = URLEndpointListener(
            URLEndpointListenerConfiguration(
                database=db,
                network_interface="127.0.0.1",
                tls_identity=identity,
                key_store=store,
            )
        )
        listener.start()
        listeners.append(listener)
        return listener

    yield start_listener
    for listener in listeners:
        listener.stop()


def test_fifty_clients_sync_on_while_the_identity_is_renewed(
    db: Database, start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen, store)
    databases = [PeerDatabase() for _ in range(CLIENTS)]
    clients = [ContinuousSync(database, listener.urls[0]) for database in databases]
    in_thread(lambda: each_waits(clients, lambda client: client.is_idle))
    before = [info.id for info in listener.connections]
    assert len(before) == CLIENTS

    renewed = store.renew_identity("kitchen")
    for number, database in enumerate(databases):
        database.save(f"of-{number}", {"number": number})
    eventually(lambda: listener.tls_identity == renewed)
    assert shown_by(listener) == renewed.fingerprint != kitchen.fingerprint

    db.default_collection.save("of-the-box", {"after": "the renewal"})
    in_thread(lambda: each_waits(clients, lambda client: client.result.pulled >= CLIENTS))
    assert all(len(each.default_collection) == CLIENTS + 1 for each in databases)
    assert [info.id for info in listener.connections] == before
    in_thread(lambda: [client.stop() for client in clients])


def test_change_in_another_thread_is_taken_too(
    start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen, store)
    renewed = in_thread(lambda: store.renew_identity("kitchen"))
    eventually(lambda: listener.tls_identity == renewed)
    assert shown_by(listener) == renewed.fingerprint


def test_deleted_identity_is_shown_until_there_is_another_one(
    start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen, store)
    store.delete_identity("kitchen")
    gevent.sleep(0.1)
    assert shown_by(listener) == kitchen.fingerprint
    another = store.create_identity("kitchen", {"CN": "new"}, key_type=KeyType.P_256)
    eventually(lambda: listener.tls_identity == another)


def test_restarted_listener_shows_what_was_renewed_meanwhile(
    start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen, store)
    listener.stop()
    renewed = store.renew_identity("kitchen")
    listener.start()
    assert shown_by(listener) == renewed.fingerprint


def test_identity_of_another_label_changes_nothing(
    start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen, store)
    store.create_identity("cellar", {"CN": "cellar"}, key_type=KeyType.P_256)
    store.renew_identity("cellar")
    gevent.sleep(0.05)
    assert listener.tls_identity == kitchen


def test_without_key_store_the_identity_stays(
    start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen)
    store.renew_identity("kitchen")
    gevent.sleep(0.05)
    assert shown_by(listener) == kitchen.fingerprint


def test_stopped_listener_is_not_told_any_more(
    start: StartListener, store: KeyStore, kitchen: TLSIdentity
) -> None:
    listener = start(kitchen, store)
    listener.stop()
    store.renew_identity("kitchen")
    gevent.sleep(0.05)
    assert listener.tls_identity is None


def test_anonymous_identity_outlives_the_listener_only_in_a_key_store(
    start: StartListener, store: KeyStore
) -> None:
    with_store, without = start(None, store), start()
    kept = shown_by(with_store)
    assert kept == store.anonymous_identity().fingerprint == shown_by(start(None, store))
    assert shown_by(without) not in (kept, shown_by(start()))


def test_anonymous_identity_that_was_deleted_is_made_anew(
    start: StartListener, store: KeyStore
) -> None:
    listener = start(None, store)
    before = listener.tls_identity
    store.delete_identity("edgesync.anonymous")
    eventually(lambda: listener.tls_identity not in (None, before))
    assert shown_by(listener) == store.anonymous_identity().fingerprint
