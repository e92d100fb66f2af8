"""Conversations of real clients, replayed. Source: vectors/recorded/README.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgesync.documents.names import collection_path
from edgesync.documents.store_calls import FindMissingBlobs, GetCheckpoint, ReadRev, StoredRev
from edgesync.documents.version_vector import parse_vector
from tests.loopback import Store
from tests.replication.replay import Mark, Replay, messages

VERSION_VECTORS = 4
RECORDED = Path(__file__).parent.parent / "vectors" / "recorded"

ELSEWHERE = {
    "failures": "handshakes: tests/net and tests/test_listener.py",
    "push-rejected-403": "the refusal of an access rule, which this peer does not have",
    "push-delta-refused": "the refusal of a delta that we apply: test_deltas.py",
    "push-busy-503": "a store that is busy: test_incoming_revs.py",
    "checkpoint-conflict": "another client's save in between: test_checkpoints.py",
}


NEVER_SO = {
    "pull-tree-docs.cbl-4.0.3": "the recorded server offers tree IDs; ours makes vectors",
    "tree-ids-trap.cbl-4.0.3": "what a server must not do: test_version_sessions.py",
    "pull-from-v3-server.cbl-4.0.3": "our protocol 3 refuses vectors: test_changes_feed.py",
    "pushpull-v3-server.cbl-4.0.3": "no protocol in common: tests/net",
}


def recordings() -> list[Path]:
    files = sorted(RECORDED.glob("*.json"))
    return [
        file
        for file in files
        if file.name.partition(".")[0] not in ELSEWHERE and file.stem not in NEVER_SO
    ]


def load(file: Path) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads(file.read_text())
    return recording


@pytest.mark.parametrize("file", recordings(), ids=lambda file: str(file.stem))
def test_a_real_client_gets_the_answers_it_was_content_with(file: Path, tmp_path: Path) -> None:
    recording = load(file)
    for place, connection in enumerate(recording["connections"]):
        store = Store(tmp_path / f"{place}.edgesync")
        replay = Replay(recording, connection, store)
        replay.run()
        replay.check_answers()
        replay.check_revs()
        if connection is recording["connections"][-1]:
            check_store(replay, recording["after"])
            fetched = tuple(
                m.properties["digest"] for m in replay.server_requests.get("getAttachment", [])
            )
            missing = store.ask(lambda call_id, f=fetched: FindMissingBlobs(call_id, f))  # type: ignore[misc]
            assert missing == ()
        store.close()


def check_store(replay: Replay, after: dict[str, Any]) -> None:
    pushed = replay.pushed()
    for name, documents in after["documents"].items():
        for document in documents:
            path, doc_id = collection_path(name), document["id"]
            found = replay.store.ask(lambda call_id, p=path, d=doc_id: ReadRev(call_id, p, d))  # type: ignore[misc]
            assert isinstance(found, StoredRev)
            assert found.deleted == document["deleted"]
            check_body(json.loads(found.body), document)
            if replay.protocol < VERSION_VECTORS:
                assert found.rev_id == document["rev"]
                assert list(found.ancestors) == document["history"]
            elif "@" in pushed.get((path, doc_id), ""):
                check_vector(found.vector, document["vector"])
    for checkpoint_id in after["checkpoints"]:
        call = replay.store.ask(lambda call_id, i=checkpoint_id: GetCheckpoint(call_id, i))  # type: ignore[misc]
        assert call is not None


def check_vector(found: str, recorded: str) -> None:
    """Compare vectors; ours may have a version of our own in front (documents.md §9.6)."""
    if found != recorded:
        ours, theirs = parse_vector(found), parse_vector(recorded)
        assert all(ours.contains(version) for version in theirs.versions)
        assert len(ours.versions) == len(theirs.versions) + 1


def check_body(body: object, document: dict[str, Any]) -> None:
    if "body" in document:
        assert body == document["body"]
    else:
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(canonical.encode()).hexdigest() == document["body_sha256"]


@pytest.mark.parametrize("file", recordings(), ids=lambda file: str(file.stem))
def test_every_recording_has_something_to_replay(file: Path) -> None:
    recording = load(file)
    found = [messages(c, recording.get("blobs", {})) for c in recording["connections"]]
    assert all(any(not isinstance(m, Mark) and m.sender == "client" for m in ms) for ms in found)
