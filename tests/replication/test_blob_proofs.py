"""Who pushes a revision must have the blobs it refers to, if the listener asks for proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgesync.blip.message import OutgoingMessage
from tests.active_peer.joined import JoinedEnd
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import PeerDatabase
from tests.loopback import PassiveEnd
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import blob, is_success, push, serve_blob, stored
from tests.replication.test_replicator import error

VECTORS = Path(__file__).parent.parent / "vectors"


def proofs() -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = json.loads((VECTORS / "digests.json").read_text())["proofs"]
    return every


def push_known_blob(
    fixture: Fixture, content: bytes, nonce: bytes
) -> tuple[PassiveEnd, OutgoingMessage]:
    """Have one client upload a blob and another refer to it; return the other's push."""
    body = json.dumps({"pic": blob(content)}).encode()
    owner = fixture.end()
    push(owner, "mine", "1-aa", body)
    serve_blob(owner, owner.requests("getAttachment")[0], content)
    other = fixture.end(entropy=lambda _count: nonce)
    properties = {"Profile": "rev", "id": "theirs", "rev": "1-aa", "sequence": "1"}
    return other, other.send(properties, body)


@pytest.mark.parametrize("case", proofs(), ids=lambda case: case["nonce_hex"])
def test_right_proof_lets_the_revision_in(fixture: Fixture, case: dict[str, Any]) -> None:
    content, nonce = case["content_text"].encode(), bytes.fromhex(case["nonce_hex"])
    end, sent = push_known_blob(fixture, content, nonce)
    (request,) = end.requests("proveAttachment")
    assert request.properties["digest"] == blob(content)["digest"]
    assert request.body == nonce
    assert stored(fixture, "theirs") is None
    end.answer(request, case["reply_body"].encode())
    assert is_success(end.reply_to(sent))
    assert stored(fixture, "theirs") is not None


@pytest.mark.parametrize("proof", [b"", b"sha1-", b"sha1-15qwwqs6o1p86mxcrMDAuUpk69Z="])
def test_wrong_proof_is_403_and_stores_nothing(fixture: Fixture, proof: bytes) -> None:
    end, sent = push_known_blob(fixture, b"hello", bytes(range(16)))
    end.answer(end.requests("proveAttachment")[0], proof)
    assert error(end.reply_to(sent))[:2] == ("HTTP", 403)
    assert stored(fixture, "theirs") is None


def test_refused_proof_is_403_and_the_session_goes_on(fixture: Fixture) -> None:
    end, sent = push_known_blob(fixture, b"hello", bytes(range(16)))
    end.client.send_error(end.requests("proveAttachment")[0].head, "LiteCore", 7, "No such blob")
    end.run()
    assert error(end.reply_to(sent))[:2] == ("HTTP", 403)
    assert is_success(push(end, "other", "1-aa"))


def test_no_proof_is_asked_for_without_the_option(fixture: Fixture) -> None:
    end = fixture.end()
    push(end, "a", "1-aa", json.dumps({"pic": blob(b"x")}).encode())
    serve_blob(end, end.requests("getAttachment")[0], b"x")
    assert is_success(push(end, "b", "1-aa", json.dumps({"pic": blob(b"x")}).encode()))
    assert end.requests("proveAttachment") == []


@pytest.mark.parametrize("versions", [False, True])
def test_client_that_has_the_blob_proves_it(fixture: Fixture, versions: bool) -> None:
    one, other = PeerDatabase(versions=versions), PeerDatabase(versions=versions)
    for database in (one, other):
        database.save(database.identity, {"pic": database.save_blob(b"shared " * 1000)})
        options = SyncOptions(pull=False)
        end = JoinedEnd(fixture.store, database, options, entropy=lambda count: b"n" * count)
        end.run()
        end.close()
        assert (end.peer.result.pushed, end.peer.result.push_errors) == (1, [])
