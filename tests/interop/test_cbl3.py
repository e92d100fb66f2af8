"""Couchbase Lite 3.x pushes, pulls and stays connected."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import sync
from tests.interop.cbl import Body, ClientDatabase, ClientReplicator, replicate, wait_until
from tests.interop.edgesyncd import Edgesyncd

pytestmark = pytest.mark.needs_cbl(3)

MakeClient = Callable[[str], ClientDatabase]
DOCUMENTS = int(os.environ.get("EDGESYNC_INTEROP_DOCUMENTS", "1000"))
COLLECTIONS = ("field.meters", "field.trucks")


def bodies(count: int, size: int = 1000) -> dict[str, Body]:
    rng = random.Random(7)
    return {
        f"doc-{number:06d}": {
            "number": number,
            "value": rng.random(),
            "note": rng.randbytes(size // 4).hex(),
            "tags": ["a", "ü", "☃"],
            "place": {"lat": 47.5, "on": True, "none": None},
        }
        for number in range(count)
    }


def merge(_doc_id: str, ours: Body | None, theirs: Body | None) -> Body | None:
    return {**(theirs or {}), **(ours or {})}


def test_what_one_client_pushes_another_pulls(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save_all(bodies(DOCUMENTS))
    assert replicate(one, server.url, "push").pushed == DOCUMENTS
    assert replicate(other, server.url, "pull").pulled == DOCUMENTS
    assert other.collection().digest() == one.collection().digest()


def test_a_second_run_moves_nothing(server: Edgesyncd, client: MakeClient) -> None:
    one = client("one")
    one.collection().save_all(bodies(10))
    replicate(one, server.url)
    again = replicate(one, server.url)
    assert (again.pushed, again.pulled) == (0, 0)


@pytest.mark.parametrize("content_type", ["text/plain", "image/png"])
@pytest.mark.parametrize("size", [0, 1, 16_384, 49_152, 300_000])
def test_blobs_arrive_whole(
    server: Edgesyncd, client: MakeClient, content_type: str, size: int
) -> None:
    one, other = client("one"), client("other")
    content = random.Random(size).randbytes(size)
    one.collection().save("with-blob", {"kind": "picture"}, (content_type, content))
    replicate(one, server.url, "push")
    replicate(other, server.url, "pull")
    body = other.collection().get("with-blob")
    assert body is not None
    assert body == one.collection().get("with-blob")
    properties = body["blob"]
    assert isinstance(properties, dict)
    assert properties["length"] == size
    assert other.blob_is_whole(properties)


def test_large_blobs_arrive_whole(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    for number in range(5):
        content = random.Random(number).randbytes(4_000_000)
        one.collection().save(f"blob-{number}", {}, ("application/octet-stream", content))
    replicate(one, server.url, "push")
    replicate(other, server.url, "pull")
    for number in range(5):
        body = other.collection().get(f"blob-{number}")
        assert body is not None
        assert isinstance(body["blob"], dict)
        assert other.blob_is_whole(body["blob"])


def test_a_large_document_arrives_whole(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save("large", {"text": random.Random(1).randbytes(500_000).hex()})
    replicate(one, server.url, "push")
    replicate(other, server.url, "pull")
    assert other.collection().digest() == one.collection().digest()


def test_a_deletion_reaches_the_other_client(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save_all(bodies(3))
    replicate(one, server.url)
    replicate(other, server.url)
    one.collection().delete("doc-000001")
    replicate(one, server.url)
    replicate(other, server.url)
    assert other.collection().ids() == ["doc-000000", "doc-000002"]
    assert other.collection().ids(deleted=True) == ["doc-000001"]


def test_a_deleted_document_can_be_made_anew(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    for life in (1, 2):
        one.collection().save("phoenix", {"life": life})
        replicate(one, server.url)
        replicate(other, server.url)
        if life == 1:
            one.collection().delete("phoenix")
            replicate(one, server.url)
            replicate(other, server.url)
    assert other.collection().get("phoenix") == {"life": 2}


def test_a_new_client_can_write_over_a_tombstone(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save("phoenix", {"life": 1})
    replicate(one, server.url)
    one.collection().delete("phoenix")
    replicate(one, server.url)
    other.collection().save("phoenix", {"life": 2})
    assert not replicate(other, server.url, "push").document_errors
    replicate(one, server.url)
    assert one.collection().get("phoenix") == {"life": 2}


def test_a_conflict_is_settled_by_the_second_run(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save("shared", {"a": 1, "b": 1})
    replicate(one, server.url)
    replicate(other, server.url)
    one.collection().save("shared", {"a": "one", "b": 1})
    other.collection().save("shared", {"a": 1, "b": "other"})
    replicate(one, server.url)
    for _ in range(2):  # the first run pulls and resolves, the second pushes the result
        replicate(other, server.url, resolver=merge)
    replicate(one, server.url)
    assert other.collection().get("shared") == {"a": 1, "b": "other"}
    assert one.collection().digest() == other.collection().digest()


def test_a_pushing_client_is_told_of_a_conflict(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save("shared", {"by": "one"})
    replicate(one, server.url, "push")
    other.collection().save("shared", {"by": "other"})
    errors = replicate(other, server.url, "push").document_errors
    assert [(doc_id, error.code) for doc_id, error in errors] == [("shared", 409)]


def test_two_collections_stay_apart(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    for path in COLLECTIONS:
        one.collection(path).save("same-id", {"in": path})
    replicate(one, server.url, collections=COLLECTIONS)
    replicate(other, server.url, collections=COLLECTIONS)
    for path in COLLECTIONS:
        assert other.collection(path).get("same-id") == {"in": path}
        assert other.collection(path).digest() == one.collection(path).digest()


def test_a_continuous_client_sends_and_gets_changes(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    with (
        ClientReplicator(one, server.url, continuous=True) as here,
        ClientReplicator(other, server.url, continuous=True) as there,
    ):
        here.wait("idle", 20.0)
        there.wait("idle", 20.0)
        one.collection().save("ping", {"from": "one"})
        wait_until(lambda: other.collection().get("ping") == {"from": "one"})
        other.collection().save("ping", {"from": "other"})
        wait_until(lambda: one.collection().get("ping") == {"from": "other"})
        one.collection().delete("ping")
        wait_until(lambda: other.collection().get("ping") is None)


def test_a_conflict_is_settled_in_one_continuous_run(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save("shared", {"by": "one"})
    replicate(one, server.url)
    other.collection().save("shared", {"by": "other"})
    with ClientReplicator(other, server.url, continuous=True, resolver=merge):
        wait_until(lambda: other.collection().rev_id("shared").startswith("2-"))
        wait_until(lambda: replicate(one, server.url).pulled > 0)
    assert one.collection().digest() == other.collection().digest()


def test_a_run_goes_on_after_the_server_was_killed(server: Edgesyncd, client: MakeClient) -> None:
    one, other = client("one"), client("other")
    one.collection().save_all(bodies(DOCUMENTS))
    with ClientReplicator(one, server.url, "push") as replicator:
        wait_until(lambda: replicator.pushed >= DOCUMENTS // 5)
        server.kill()
        replicator.wait("stopped", 20.0)
        acknowledged = replicator.pushed
    server.start()
    pulled = replicate(other, server.url, "pull").pulled
    assert pulled >= acknowledged
    replicate(one, server.url, "push")
    replicate(other, server.url, "pull")
    assert other.collection().digest() == one.collection().digest()


def test_a_continuous_client_comes_back_to_a_restarted_server(
    server: Edgesyncd, client: MakeClient
) -> None:
    one = client("one")
    with ClientReplicator(one, server.url, continuous=True, max_attempts=0) as replicator:
        replicator.wait("idle", 20.0)
        server.kill()
        replicator.wait("offline", 20.0)
        one.collection().save("meanwhile", {"n": 1})
        server.start()
        wait_until(lambda: replicator.pushed == 1)


def test_our_own_active_peer_agrees_with_the_real_client(
    server: Edgesyncd, client: MakeClient
) -> None:
    one = client("one")
    ours = PeerDatabase()
    one.collection().save("from-theirs", {"n": 1, "x": 1.5, "ü": [None, True]})
    ours.save("from-ours", {"blob": ours.save_blob(b"x" * 200_000, "text/plain")})
    replicate(one, server.url)
    assert sync(ours, server.url).complaints == []
    replicate(one, server.url)
    for doc_id in ("from-theirs", "from-ours"):
        assert one.collection().get(doc_id) == ours.get(doc_id)
        document = ours.default_collection.document(doc_id)
        assert document is not None
        assert one.collection().rev_id(doc_id) == document.rev_id
