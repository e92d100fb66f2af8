"""Conversations of real clients, replayed. Source: vectors/recorded/README.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgesync.documents.names import collection_path
from edgesync.documents.store_calls import FindMissingBlobs, GetCheckpoint, ReadRev, StoredRev
from tests.loopback import Store
from tests.replication.replay import Mark, Replay, messages

RECORDED = Path(__file__).parent.parent / "vectors" / "recorded"

ELSEWHERE = {
    "failures": "handshakes: tests/net and tests/test_listener.py",
    "push-delta": "deltas are not spoken yet",
    "push-delta-refused": "deltas are not spoken yet",
    "pull-delta": "deltas are not spoken yet",
    "pull-delta-blob": "deltas are not spoken yet",
    "push-rejected-403": "the refusal of an access rule, which this peer does not have",
    "push-busy-503": "a store that is busy: test_replicator.py",
    "checkpoint-conflict": "another client's save in between: test_checkpoints.py",
}


def recordings(client: str) -> list[Path]:
    files = sorted(RECORDED.glob(f"*.{client}.json"))
    return [file for file in files if file.name.partition(".")[0] not in ELSEWHERE]


def load(file: Path) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads(file.read_text())
    return recording


@pytest.mark.parametrize("file", recordings("cbl-3.2.4"), ids=lambda file: str(file.stem))
def test_a_real_client_gets_the_answers_it_was_content_with(file: Path, tmp_path: Path) -> None:
    recording = load(file)
    for place, connection in enumerate(recording["connections"]):
        store = Store(tmp_path / f"{place}.edgesync")
        replay = Replay(recording, connection, store)
        replay.run()
        replay.check_answers()
        replay.check_revs()
        if connection is recording["connections"][-1]:
            check_store(store, recording["after"])
            fetched = tuple(m.properties["digest"] for m in replay.server_requests("getAttachment"))
            missing = store.ask(lambda call_id, f=fetched: FindMissingBlobs(call_id, f))  # type: ignore[misc]
            assert missing == ()
        store.close()


def check_store(store: Store, after: dict[str, Any]) -> None:
    for name, documents in after["documents"].items():
        for document in documents:
            path, doc_id = collection_path(name), document["id"]
            found = store.ask(lambda call_id, p=path, d=doc_id: ReadRev(call_id, p, d))  # type: ignore[misc]
            assert isinstance(found, StoredRev)
            assert (found.rev_id, found.deleted) == (document["rev"], document["deleted"])
            assert list(found.ancestors) == document["history"]
            check_body(json.loads(found.body), document)
    for checkpoint_id in after["checkpoints"]:
        assert store.ask(lambda call_id, i=checkpoint_id: GetCheckpoint(call_id, i)) is not None  # type: ignore[misc]


def check_body(body: object, document: dict[str, Any]) -> None:
    if "body" in document:
        assert body == document["body"]
    else:
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(canonical.encode()).hexdigest() == document["body_sha256"]


@pytest.mark.parametrize("file", recordings("cbl-3.2.4"), ids=lambda file: str(file.stem))
def test_every_recording_has_something_to_replay(file: Path) -> None:
    recording = load(file)
    found = [messages(c, recording.get("blobs", {})) for c in recording["connections"]]
    assert all(any(not isinstance(m, Mark) and m.sender == "client" for m in ms) for ms in found)
