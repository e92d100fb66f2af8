"""Blobs a client asks for."""

from __future__ import annotations

import pytest

from edgesync.documents.store_calls import AppendBlob, FinishBlob
from edgesync.limits import Limits
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import digest
from tests.replication.test_replicator import error


def keep(fixture: Fixture, content: bytes) -> str:
    fixture.store.ask(lambda call_id: AppendBlob(call_id, 1, content))
    fixture.store.ask(lambda call_id: FinishBlob(call_id, 1, digest(content), len(content)))
    return digest(content)


@pytest.mark.parametrize("compress", ["true", "false"])
@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 65_537, 1_000_000])
def test_content_is_sent_as_it_was_asked_for(fixture: Fixture, size: int, compress: str) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    name = keep(fixture, content)
    reply = fixture.end().request("getAttachment", digest=name, compress=compress)
    assert reply is not None
    assert reply.body == content
    assert reply.head.compressed is (compress == "true" and size > 0) or size == 0


def test_unknown_blob_is_404(fixture: Fixture) -> None:
    end = fixture.end()
    assert error(end.request("getAttachment", digest=digest(b"none")))[:2] == ("HTTP", 404)


@pytest.mark.parametrize("name", ["", "sha1-", "sha1-short=", "md5-2jmj7l5rSw0yVb/vlWAYkK/YBwk="])
def test_malformed_digest_is_refused(fixture: Fixture, name: str) -> None:
    assert error(fixture.end().request("getAttachment", digest=name))[:2] == ("HTTP", 400)


def test_many_blobs_asked_for_at_once_are_all_served(fixture: Fixture) -> None:
    contents = [bytes([number]) * 200_000 for number in range(6)]
    names = [keep(fixture, content) for content in contents]
    end = fixture.end(limits=Limits(max_blob_transfers=2))
    requests = [
        end.client.send_request({"Profile": "getAttachment", "digest": name}) for name in names
    ]
    end.run()
    replies = [end.reply_to(request) for request in requests]
    assert [reply and reply.body for reply in replies] == contents
    assert not end.replicator.is_active
