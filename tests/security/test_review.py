"""Claims of README's security review that no other test shows; those that say "can", above all."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgesync import (
    Database,
    KeyStore,
    ListenerPasswordAuthenticator,
    TLSIdentity,
    URLEndpointListener,
    URLEndpointListenerConfiguration,
)
from edgesync.documents.store_calls import AppendBlob, FinishBlob
from tests.loopback import PassiveEnd, Store
from tests.net.raw_client import BINARY, PING, PONG, basic, connect, frame
from tests.net.tls_clients import ACCEPTED, attempt, client_context
from tests.replication.test_incoming_revs import digest

UNLOCK = bytes(range(32))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open("db", directory=tmp_path) as opened:
        yield opened


# --- a stolen card -----------------------------------------------------------------------


def test_documents_and_blobs_on_a_card_can_be_read(tmp_path: Path) -> None:
    with Database.open("db", directory=tmp_path) as db:
        db.default_collection.save("boiler", {"note": "a word of a document"})
        sink = tmp_path / "blob"
        sink.write_bytes(b"a word of a blob")
        with sink.open("rb") as content:
            db.save_blob(content, "text/plain")
        sink.unlink()
    found = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"a word of a document" in found
    assert b"a word of a blob" in found


def test_an_older_file_of_the_key_store_that_is_put_back_is_taken(tmp_path: Path) -> None:
    store = KeyStore.open(tmp_path / "keys", unlock=UNLOCK)
    store.set_password("ann", "the old one")
    older = (tmp_path / "keys" / "users").read_bytes()
    store.set_password("ann", "the new one")
    (tmp_path / "keys" / "users").write_bytes(older)
    assert store.check_password("ann", "the old one")


# --- who stands between ---------------------------------------------------------------------


def test_a_client_that_knows_the_fingerprint_refuses_another_listener(db: Database) -> None:
    pinned, other = TLSIdentity.anonymous(), TLSIdentity.anonymous()
    listener = URLEndpointListener(
        URLEndpointListenerConfiguration(
            collections=[db.default_collection],
            port=0,
            network_interface="127.0.0.1",
            tls_identity=other,
        )
    )
    listener.start()
    assert listener.port
    context = client_context()
    context.load_verify_locations(cadata=pinned.certs[0].public_bytes(Encoding.PEM).decode())
    context.verify_mode = ssl.CERT_REQUIRED
    port = listener.port
    outcome = gevent.get_hub().threadpool.apply(lambda: attempt(port, context))
    listener.stop()
    assert outcome != ACCEPTED
    assert "CERTIFICATE_VERIFY_FAILED" in outcome


# --- a client that may come in ------------------------------------------------------------------


def test_a_blob_is_given_to_who_knows_its_digest_whatever_the_collection(tmp_path: Path) -> None:
    store = Store(tmp_path / "db.edgesync")
    store.create_collections(["s.secret"])
    content = b"a blob that only documents of s.secret refer to"
    store.ask(lambda call_id: AppendBlob(call_id, 1, content))
    store.ask(lambda call_id: FinishBlob(call_id, 1, digest(content), len(content)))
    end = PassiveEnd(store)  # the default collection alone
    reply = end.request("getAttachment", digest=digest(content))
    assert reply is not None
    assert reply.body == content
    end.close()
    store.close()


def test_a_user_who_is_removed_stays_while_connected(db: Database, tmp_path: Path) -> None:
    store = KeyStore.open(tmp_path / "keys", unlock=UNLOCK)
    store.set_password("ann", "sesame")
    listener = URLEndpointListener(
        URLEndpointListenerConfiguration(
            collections=[db.default_collection],
            port=0,
            network_interface="127.0.0.1",
            disable_tls=True,
            authenticator=ListenerPasswordAuthenticator(store.check_password),
        )
    )
    listener.start()
    assert listener.port
    sock, client = connect(listener.port)
    with sock:
        upgraded = client.upgrade(Authorization=basic("ann", "sesame"))
        assert upgraded.status == "HTTP/1.1 101 Switching Protocols"
        store.remove_user("ann")
        client.send(frame(b"still there?", PING))
        assert client.read_frame() == (PONG, b"still there?")
        (info,) = listener.connections
        listener.close_connection(info)
        client.send(frame(b"x", BINARY))
        assert client.read_frame()[0] == 0x88
    listener.stop()
