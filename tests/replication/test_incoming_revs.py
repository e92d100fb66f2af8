"""Pushed revisions: stored, refused, with blobs."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from edgesync.documents.store_calls import DEFAULT_COLLECTION, ReadRev, StoredRev
from edgesync.limits import Limits
from tests.loopback import Message, PassiveEnd
from tests.replication.conftest import Fixture
from tests.replication.test_replicator import error


def stored(fixture: Fixture, doc_id: str) -> StoredRev | None:
    found = fixture.store.ask(lambda call_id: ReadRev(call_id, DEFAULT_COLLECTION, doc_id))
    assert found is None or isinstance(found, StoredRev)
    return found


def is_success(reply: Message | None) -> bool:
    return reply is not None and not reply.head.is_error


def digest(content: bytes) -> str:
    return "sha1-" + base64.b64encode(hashlib.sha1(content).digest()).decode()


def blob(content: bytes, content_type: str = "text/plain") -> dict[str, object]:
    return {
        "@type": "blob",
        "digest": digest(content),
        "length": len(content),
        "content_type": content_type,
    }


def push(
    end: PassiveEnd, doc_id: str, rev: str, body: bytes = b"{}", **more: str
) -> Message | None:
    properties = {"id": doc_id, "rev": rev, "sequence": "1", "noconflicts": "1", **more}
    return end.reply_to(end.send({"Profile": "rev", **properties}, body))


def test_revision_is_stored_before_it_is_answered(fixture: Fixture) -> None:
    reply = push(fixture.end(), "doc", "2-bb", b'{"n":1}', history="1-aa")
    assert is_success(reply)
    found = stored(fixture, "doc")
    assert found is not None
    assert (found.rev_id, found.ancestors, found.body) == ("2-bb", ("1-aa",), b'{"n":1}')


def test_tombstone_is_stored_as_such(fixture: Fixture) -> None:
    end = fixture.end()
    push(end, "doc", "1-aa", b'{"n":1}')
    assert is_success(push(end, "doc", "2-bb", b"{}", history="1-aa", deleted="1"))
    found = stored(fixture, "doc")
    assert found is not None
    assert found.deleted


def test_known_revision_is_a_noop(fixture: Fixture) -> None:
    end = fixture.end()
    push(end, "doc", "1-aa")
    reply = push(end, "doc", "1-aa")
    assert reply is not None
    assert reply.properties == {"noop": "true"}


def test_older_revision_that_comes_late_is_a_noop(fixture: Fixture) -> None:
    end = fixture.end()
    push(end, "doc", "2-bb", history="1-aa")
    reply = push(end, "doc", "1-aa")
    assert reply is not None
    assert reply.properties == {"noop": "true"}


def test_conflict_is_409(fixture: Fixture) -> None:
    end = fixture.end()
    push(end, "doc", "2-bb", history="1-aa")
    assert error(push(end, "doc", "2-cc", history="1-aa"))[:2] == ("HTTP", 409)
    found = stored(fixture, "doc")
    assert found is not None
    assert found.rev_id == "2-bb"


def test_new_document_over_a_tombstone_is_accepted(fixture: Fixture) -> None:
    fixture.put("doc", "2-bb", "1-aa", deleted=True)
    assert is_success(push(fixture.end(), "doc", "1-cc", b'{"n":1}'))
    found = stored(fixture, "doc")
    assert found is not None
    assert (found.rev_id, found.deleted) == ("1-cc", False)


@pytest.mark.parametrize("doc_id", ["", "_doc", "a\x01", "\u00e4" * 121])
def test_bad_document_id_is_400(fixture: Fixture, doc_id: str) -> None:
    assert error(push(fixture.end(), doc_id, "1-aa"))[:2] == ("HTTP", 400)


@pytest.mark.parametrize(
    ("rev", "history"),
    [
        ("", ""),
        ("aa", ""),
        ("0-aa", ""),
        ("1-AA", ""),
        ("1-a", ""),
        ("2-bb", "2-aa"),
        ("2-bb", "x"),
    ],
)
def test_bad_revision_id_is_400(fixture: Fixture, rev: str, history: str) -> None:
    assert error(push(fixture.end(), "doc", rev, history=history)) == (
        "HTTP",
        400,
        "received invalid version ID",
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"nonsense", b'{"a":NaN}', b'{"a":"\xff"}'])
def test_body_that_is_no_object_is_400(fixture: Fixture, body: bytes) -> None:
    end = fixture.end()
    assert error(push(end, "doc", "1-aa", body))[:2] == ("HTTP", 400)
    assert stored(fixture, "doc") is None
    assert is_success(push(end, "doc", "1-aa"))  # the session goes on


def test_busy_store_is_503_and_the_client_may_send_it_again(fixture: Fixture) -> None:
    end = fixture.end()
    with fixture.store.locked():
        assert error(push(end, "doc", "1-aa", b'{"n":1}'))[:2] == ("HTTP", 503)
    assert stored(fixture, "doc") is None
    assert is_success(push(end, "doc", "1-aa", b'{"n":1}'))


def test_top_level_names_with_underscore_are_stripped(fixture: Fixture) -> None:
    push(fixture.end(), "doc", "1-aa", b'{"_id":"x","_rev":"y","n":1,"in":{"_keep":2}}')
    found = stored(fixture, "doc")
    assert found is not None
    assert json.loads(found.body) == {"n": 1, "in": {"_keep": 2}}


def test_removal_of_access_stores_nothing(fixture: Fixture) -> None:
    assert is_success(push(fixture.end(), "doc", "1-aa", b'{"_removed":true}'))
    assert stored(fixture, "doc") is None


def test_unreadable_revision_of_the_peer_stores_nothing(fixture: Fixture) -> None:
    assert is_success(push(fixture.end(), "doc", "1-aa", b"", error="500"))
    assert stored(fixture, "doc") is None


def test_delta_that_was_not_asked_for_is_422(fixture: Fixture) -> None:
    reply = push(fixture.end(), "doc", "2-bb", b'{"n":2}', history="1-aa", deltaSrc="1-aa")
    assert error(reply)[:2] == ("HTTP", 422)


def test_noreply_revision_is_stored_without_an_answer(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("rev", b"{}", noreply=True, id="doc", rev="1-aa", sequence="1")
    assert stored(fixture, "doc") is not None
    assert not end.replicator.is_active


def serve_blob(end: PassiveEnd, request: Message, content: bytes) -> None:
    end.answer(request, content)


def test_blob_is_fetched_before_the_revision_is_stored(fixture: Fixture) -> None:
    content = b"This is the content of a blob."
    end = fixture.end()
    sent = end.send(
        {"Profile": "rev", "id": "photo", "rev": "1-aa", "sequence": "3", "noconflicts": "1"},
        json.dumps({"pic": blob(content)}).encode(),
    )
    assert end.reply_to(sent) is None
    assert stored(fixture, "photo") is None
    request = end.requests("getAttachment")[0]
    assert request.properties == {
        "Profile": "getAttachment",
        "digest": digest(content),
        "docID": "photo",
        "compress": "true",
    }
    serve_blob(end, request, content)
    assert is_success(end.reply_to(sent))
    assert stored(fixture, "photo") is not None


def test_blob_of_a_compressed_type_is_asked_for_uncompressed(fixture: Fixture) -> None:
    end = fixture.end()
    push(end, "photo", "1-aa", json.dumps({"pic": blob(b"\x89PNG", "image/png")}).encode())
    assert "compress" not in end.requests("getAttachment")[0].properties


def test_two_revisions_that_need_one_blob_fetch_it_once(fixture: Fixture) -> None:
    content = b"shared"
    end = fixture.end()
    body = json.dumps({"pics": [blob(content), {"deep": [blob(content)]}]}).encode()
    first = end.send({"Profile": "rev", "id": "a", "rev": "1-aa", "sequence": "1"}, body)
    second = end.send({"Profile": "rev", "id": "b", "rev": "1-aa", "sequence": "2"}, body)
    assert len(end.requests("getAttachment")) == 1
    serve_blob(end, end.requests("getAttachment")[0], content)
    assert is_success(end.reply_to(first))
    assert is_success(end.reply_to(second))


def test_blob_that_is_stored_is_not_fetched_again(fixture: Fixture) -> None:
    content = b"once"
    body = json.dumps({"pic": blob(content)}).encode()
    end = fixture.end()
    push(end, "a", "1-aa", body)
    serve_blob(end, end.requests("getAttachment")[0], content)
    assert is_success(push(end, "b", "1-aa", body))
    assert len(end.requests("getAttachment")) == 1


def test_wrong_content_of_a_blob_fails_the_revision(fixture: Fixture) -> None:
    end = fixture.end()
    sent = end.send(
        {"Profile": "rev", "id": "a", "rev": "1-aa", "sequence": "1"},
        json.dumps({"pic": blob(b"right")}).encode(),
    )
    serve_blob(end, end.requests("getAttachment")[0], b"wrong")
    assert error(end.reply_to(sent))[:2] == ("HTTP", 500)
    assert stored(fixture, "a") is None


def test_refusal_of_a_blob_fails_the_revision_with_the_same_error(fixture: Fixture) -> None:
    end = fixture.end()
    sent = end.send(
        {"Profile": "rev", "id": "a", "rev": "1-aa", "sequence": "1"},
        json.dumps({"pic": blob(b"gone")}).encode(),
    )
    request = end.requests("getAttachment")[0]
    end.client.send_error(request.head, "LiteCore", 7, "No such blob")
    end.run()
    assert error(end.reply_to(sent)) == ("LiteCore", 7, "No such blob")
    assert stored(fixture, "a") is None


def test_large_blob_streams_through(fixture: Fixture) -> None:
    content = bytes(range(256)) * 4096 * 3
    end = fixture.end(limits=Limits(max_unanswered_bytes=200_000))
    sent = end.send(
        {"Profile": "rev", "id": "a", "rev": "1-aa", "sequence": "1"},
        json.dumps({"pic": blob(content, "image/png")}).encode(),
    )
    serve_blob(end, end.requests("getAttachment")[0], content)
    assert is_success(end.reply_to(sent))


def test_only_a_few_blobs_are_fetched_at_a_time(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_blob_transfers=2))
    contents = [f"blob {number}".encode() for number in range(5)]
    sent = [
        end.send(
            {"Profile": "rev", "id": f"doc-{place}", "rev": "1-aa", "sequence": "1"},
            json.dumps({"pic": blob(content)}).encode(),
        )
        for place, content in enumerate(contents)
    ]
    assert len(end.requests("getAttachment")) == 2
    by_digest = {digest(content): content for content in contents}
    for place in range(5):
        request = end.requests("getAttachment")[place]
        serve_blob(end, request, by_digest[request.properties["digest"]])
    assert all(is_success(end.reply_to(message)) for message in sent)
