"""The dialogues of `vectors/conversations.json`, replayed like the recorded ones.

Each needs the store it takes for granted; a test puts it there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgesync.documents.store_calls import SetCheckpoint
from tests.loopback import Message, Store
from tests.replication.conftest import Fixture
from tests.replication.replay import Replay
from tests.replication.test_incoming_revs import is_success, stored
from tests.replication.test_replicator import error

VECTORS = Path(__file__).parent.parent / "vectors"
R1 = "1-11aa22bb33cc44dd55ee66ff7788990011223344"
R2 = "2-5566778899aabbccddeeff001122334455667788"
THEIRS = "1860020000000000@EBESExQVFhcYGRobHB0eHw"
OURS = "1860010000000000@AAECAwQFBgcICQoLDA0ODw"
SERVER = "1-0123456789abcdef0123456789abcdef01234567"


def document(doc_id: str, sequence: int, *revs: str, **more: object) -> dict[str, object]:
    return {
        "id": doc_id,
        "sequence": sequence,
        "deleted": False,
        "rev": revs[0],
        "history": list(revs[1:]),
        "body": {},
        **more,
    }


def state(*documents: dict[str, object], **more: object) -> dict[str, object]:
    return {"documents": {"_default": list(documents)}, "blobs": [], "checkpoints": {}, **more}


BEFORE: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "2.8 client, one-shot push and pull, default collection": (
        {},
        state(
            document("hello", 1, SERVER, body={"from": "server"}),
            document("doc-2", 2, "2-dd", "1-cc", deleted=True),
        ),
    ),
    "3.2 client, two collections, continuous": (
        {"collections_": ["inventory.hotel", "_default"]},
        {
            "documents": {
                "inventory.hotel": [
                    document("h1", 10, R2, R1, deleted=True),
                    document("h2", 11, SERVER),
                ]
            },
            "blobs": [],
            "checkpoints": {
                "cp-one=": {"rev": "0-3", "body": '{"time":1700000000,"local":5,"remote":9}'}
            },
        },
    ),
    "blob upload": ({}, state()),
    "delta refused, then full body": (
        {},
        state(checkpoints={"cp-D=": {"rev": "0-7", "body": '{"time":1700000000,"local":40}'}}),
    ),
    "checkpoint revision mismatch": ({}, state()),
    "read-only server": ({"read_only": True}, state()),
    "4.x client": (
        {},
        state(document("doc", 4, "2-bb", "1-aa", vector=f"{THEIRS}; {OURS}", body={"a": 2})),
    ),
    "branch switch of a 3.3/3.4 client": ({}, state(document("switch", 1, R2, R1))),
}


def conversations() -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = json.loads((VECTORS / "conversations.json").read_text())[
        "conversations"
    ]
    return every


def as_frames(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "from": step["from"],
            "decoded": {
                "type": step["type"],
                "number": step["number"],
                "flags": step["flags_hex"],
                "properties": step["properties"],
                "body": json.dumps(step["body_json"])
                if "body_json" in step
                else step.get("body_text", ""),
            },
        }
        for step in steps
    ]


def test_every_conversation_is_replayed() -> None:
    assert {c["name"] for c in conversations()} == BEFORE.keys()


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_conversation(name: str, tmp_path: Path) -> None:
    (conversation,) = [c for c in conversations() if c["name"] == name]
    server, before = BEFORE[name]
    frames = as_frames(conversation["steps"])
    if name == "3.2 client, two collections, continuous":
        superseded = document("h2", 12, "2-ee", SERVER, collection="inventory.hotel")
        frames.insert(4, {"from": "server", "edit": superseded})
    connection = {"before": before, "subprotocol": conversation["subprotocol"], "frames": frames}
    store = Store(tmp_path / "db.edgesync")
    replay = Replay({"server": server}, connection, store)
    if name == "checkpoint revision mismatch":
        replay.before_request[2] = lambda: store.ask(
            lambda call_id: SetCheckpoint(call_id, "cp-E=", "", b'{"time":1700000000,"local":2}')
        )
    replay.run()
    replay.check_answers()
    replay.check_revs()
    store.close()


def switch(fixture: Fixture, **more: str) -> Message | None:
    """Push a revision that does not descend from ours."""
    fixture.put("switch", R2, R1)
    properties = {"Profile": "rev", "id": "switch", "rev": "3-fe", "sequence": "9"}
    history = {"history": f"2-fe,{R1}"}
    end = fixture.end()
    return end.reply_to(end.send({**properties, **history, **more}, b'{"merged":true}'))


def test_branch_switch_closes_our_branch_with_the_clients_tombstone(fixture: Fixture) -> None:
    assert is_success(switch(fixture, deleted_branch=f"3-dd,{R2}"))
    found = stored(fixture, "switch")
    assert found is not None
    assert (found.rev_id, found.deleted, found.ancestors) == ("3-fe", False, ("2-fe", R1))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"deleted_branch": ""},
        {"deleted_branch": "3-dd,2-ee"},
        {"deleted_branch": R2},  # no tombstone on it
        {"noconflicts": "1"},
    ],
)
def test_branch_switch_that_does_not_close_our_branch_is_409(
    fixture: Fixture, more: dict[str, str]
) -> None:
    assert error(switch(fixture, **more))[:2] == ("HTTP", 409)
    found = stored(fixture, "switch")
    assert found is not None
    assert found.rev_id == R2


def test_malformed_closed_branch_is_400(fixture: Fixture) -> None:
    assert error(switch(fixture, deleted_branch=f"nonsense,{R2}"))[:2] == ("HTTP", 400)
