"""The ways to hang or break a client, one by one. Spec: replication.md §10.

Each test is named by its number there. What needs a socket is tested beside the
socket: `ELSEWHERE` names the test.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
import sys
from pathlib import Path

import pytest

from edgesync.documents.store_calls import PurgeDocument
from edgesync.errors import StoreError
from tests.active_peer.joined import sync_joined
from tests.active_peer.peer_database import PeerDatabase
from tests.loopback import PassiveEnd, Store
from tests.replication.conftest import Fixture
from tests.replication.test_deltas import offer_second
from tests.replication.test_incoming_revs import blob, is_success, push, serve_blob
from tests.replication.test_outgoing_revs import want_all
from tests.replication.test_replicator import error, get_collections

COUNT = 22
ELSEWHERE = {
    16: ("tests.net.test_websocket", "test_close_of_the_peer_is_echoed"),
    22: ("tests.net.test_acceptor", "test_connection_above_the_limit_gets_503_before_the_upgrade"),
}


def test_every_way_has_its_test() -> None:
    here = {
        int(name.split("_")[1])
        for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
        if name.startswith("test_") and name.split("_")[1].isdecimal()
    }
    assert here | ELSEWHERE.keys() == set(range(1, COUNT + 1))
    for module, name in ELSEWHERE.values():
        assert hasattr(importlib.import_module(module), name)


def closed(fixture: Fixture) -> PassiveEnd:
    """Return a session whose store has just been closed, as when the service ends."""
    end = fixture.end()
    end.request("PING")
    fixture.store.engine.close()
    return end


@pytest.mark.parametrize("documents", [0, 1, 200, 201])
def test_01_empty_changes_ends_a_pull_of_any_length(fixture: Fixture, documents: int) -> None:
    for number in range(documents):
        fixture.put(f"doc-{number}", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    *batches, last = [json.loads(m.body) for m in end.requests("changes")]
    assert last == []
    assert sum(map(len, batches)) == documents
    assert [] not in batches


def test_02_wanted_revision_is_sent_or_refused_even_if_it_is_gone(fixture: Fixture) -> None:
    for name in ("stays", "purged", "superseded"):
        fixture.put(name, "1-aa")
    end = fixture.end()
    end.request("subChanges")
    fixture.store.ask(lambda call_id: PurgeDocument(call_id, "_default._default", "purged"))
    fixture.put("superseded", "2-bb", "1-aa")
    end.answer(end.requests("changes")[0], b"[[],[],[]]")
    followed = [m.properties["id"] for m in [*end.requests("rev"), *end.requests("norev")]]
    assert sorted(followed) == ["purged", "stays", "superseded"]


def test_03_reply_to_sub_changes_precedes_the_changes(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges")
    reply, changes = end.received
    assert (reply.type.name, changes.profile) == ("RPY", "changes")


def test_04_no_request_to_a_legacy_client_names_a_collection(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    push(end, "pic", "1-aa", json.dumps({"pic": blob(b"x")}).encode())
    requests = [m for m in end.received if m.type.name == "MSG"]
    assert {m.profile for m in requests} == {"changes", "rev", "getAttachment"}
    assert not any("collection" in m.properties for m in requests)


def test_05_client_of_version_2_gets_no_object_in_a_reply_to_proposals(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa")
    reply = fixture.end(protocol=2).request("proposeChanges", b'[["doc","1-bb",""]]')
    assert reply is not None
    assert json.loads(reply.body) == [409]


@pytest.mark.parametrize(
    ("doc_id", "rev", "body", "more"),
    [
        ("", "1-bb", b"{}", {}),
        ("doc", "nonsense", b"{}", {}),
        ("doc", "1-bb", b"{}", {}),
        ("doc", "2-bb", b"nonsense", {"history": "1-aa"}),
        ("doc", "2-bb", b"{}", {"history": "1-aa", "deltaSrc": "1-cc"}),
    ],
)
def test_06_refusal_of_a_revision_is_in_domain_http(
    fixture: Fixture, doc_id: str, rev: str, body: bytes, more: dict[str, str]
) -> None:
    fixture.put("doc", "1-aa")
    assert error(push(fixture.end(deltas=True), doc_id, rev, body, **more))[0] == "HTTP"


def test_07_empty_revision_of_a_checkpoint_means_that_there_is_none(fixture: Fixture) -> None:
    end = fixture.end()
    first = end.request("setCheckpoint", b"{}", client="cp-A", rev="")
    assert first is not None
    assert is_success(first)
    second = end.request("setCheckpoint", b"{}", client="cp-A", rev=first.properties["rev"])
    assert is_success(second)


def test_08_deltas_go_to_who_announced_them_in_its_first_reply(fixture: Fixture) -> None:
    end = offer_second(fixture, b'{"pad":"%s"}' % (b"x" * 400), b'{"pad":"%sy"}' % (b"x" * 399))
    assert "deltaSrc" in end.requests("rev")[0].properties
    silent = fixture.end(deltas=True)
    silent.request("subChanges")
    silent.answer(silent.requests("changes")[0], b'[["1-aa"]]')
    assert "deltaSrc" not in silent.requests("rev")[0].properties


def test_09_blobs_beyond_the_window_are_acknowledged_and_arrive(fixture: Fixture) -> None:
    content = random.Random(1).randbytes(1_000_000)
    one, other = PeerDatabase(), PeerDatabase()
    one.save("doc", {"pic": one.save_blob(content, "image/png")})
    sync_joined(fixture.store, one)
    sync_joined(fixture.store, other)
    assert other.missing_blobs() == []


def test_10_revision_is_answered_after_its_blobs_have_come(fixture: Fixture) -> None:
    end = fixture.end()
    body = json.dumps({"a": blob(b"one"), "b": blob(b"two")}).encode()
    sent = end.send({"Profile": "rev", "id": "doc", "rev": "1-aa", "sequence": "1"}, body)
    contents = {str(blob(content)["digest"]): content for content in (b"one", b"two")}
    for place in range(2):
        assert end.reply_to(sent) is None
        request = end.requests("getAttachment")[place]
        serve_blob(end, request, contents[request.properties["digest"]])
    assert is_success(end.reply_to(sent))


def test_11_sequences_are_never_used_twice(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        store = Store(tmp_path)
        for _ in range(2):
            seen.append(Fixture(store).put("doc", "1-aa"))
            store.ask(lambda call_id: PurgeDocument(call_id, "_default._default", "doc"))
        store.close()
    assert seen == sorted(set(seen))


def test_12_reply_to_proposals_says_that_blobs_may_be_inline(fixture: Fixture) -> None:
    for protocol in (2, 3):
        reply = fixture.end(protocol=protocol).request("proposeChanges", b'[["doc","1-aa",""]]')
        assert reply is not None
        assert reply.properties["blobs"] == "true"


def test_13_trouble_of_the_store_is_503_not_403(fixture: Fixture) -> None:
    assert error(push(closed(fixture), "doc", "1-aa"))[:2] == ("HTTP", 503)


def test_14_proposals_to_a_closing_store_make_the_client_come_back(fixture: Fixture) -> None:
    end = closed(fixture)
    assert error(end.request("proposeChanges", b'[["doc","1-aa",""]]'))[:2] == ("HTTP", 503)
    with pytest.raises(StoreError):  # the session closes with 4001
        end.request("subChanges")


def test_15_changed_blob_is_replaced_whole_in_a_delta(fixture: Fixture) -> None:
    pad = "x" * 400
    old, new = ({"pad": pad, "pics": [blob(b)]} for b in (b"old", b"new"))
    one = fixture.end()
    for rev, body, history in (("1-aa", old, ""), ("2-bb", new, "1-aa")):
        one_more = {"history": history} if history else {}
        push(one, "doc", rev, json.dumps(body).encode(), **one_more)
        content = b"new" if history else b"old"
        fixture.end(deltas=True).close()  # from now on bodies are kept
        serve_blob(one, one.requests("getAttachment")[-1], content)
    end = fixture.end(deltas=True)
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b'[["1-aa"]]', {"deltas": "true"})
    (sent,) = end.requests("rev")
    assert sent.properties["deltaSrc"] == "1-aa"
    assert json.loads(sent.body) == {"pics": {"0": [blob(b"new")]}}


def test_17_trouble_with_a_blob_ends_the_session_and_is_no_answer(fixture: Fixture) -> None:
    content = b"x" * 300_000
    end = fixture.end()
    push(end, "doc", "1-aa", json.dumps({"pic": blob(content)}).encode())
    serve_blob(end, end.requests("getAttachment")[0], content)
    fixture.store.engine.close()
    received = len(end.received)
    with pytest.raises(StoreError):
        end.request("getAttachment", digest=str(blob(content)["digest"]))
    assert len(end.received) == received


@pytest.mark.parametrize("profile", ["getCheckpoint", "getCollections"])
def test_18_checkpoint_that_cannot_be_read_is_503(fixture: Fixture, profile: str) -> None:
    end = closed(fixture)
    if profile == "getCheckpoint":
        reply = end.request(profile, client="cp-A")
    else:
        reply = get_collections(end, "_default")
    assert error(reply)[:2] == ("HTTP", 503)


def test_19_client_of_version_4_never_stores_a_tree_id(fixture: Fixture) -> None:
    old, new = PeerDatabase(), PeerDatabase(versions=True)
    for turn in range(3):
        for number in range(3):
            old.save(f"doc-{number}", {"turn": turn})
        old.delete(f"doc-{turn}")
        sync_joined(fixture.store, old)
        sync_joined(fixture.store, new)
    revisions = [document.revision for document in new.default_collection.documents()]
    assert len(revisions) == 3
    assert all("@" in rev_id for revision in revisions for rev_id in revision.chain)


def test_20_replacement_has_the_sequence_that_was_announced(fixture: Fixture) -> None:
    announced = fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges", sendReplacementRevs="1")
    fixture.put("doc", "2-bb", "1-aa")
    want_all(end)
    (sent,) = end.requests("rev")
    assert sent.properties["replacedRev"] == "1-aa"
    assert (sent.properties["rev"], sent.properties["sequence"]) == ("2-bb", str(announced))


def test_21_revisions_do_not_wait_for_the_answers_to_others(fixture: Fixture) -> None:
    for number in range(200):
        fixture.put(f"doc-{number}", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    assert len(end.requests("rev")) == 200
