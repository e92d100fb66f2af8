"""Answers to `proposeChanges`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import CurrentRev
from edgesync.limits import Limits
from edgesync.replication.profiles import Proposal
from edgesync.replication.rev_forms import TreeForm, VersionForm
from tests.loopback import Message
from tests.replication.conftest import Fixture
from tests.replication.test_replicator import error

VECTORS = Path(__file__).parent.parent / "vectors"


def cases(name: str) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = json.loads((VECTORS / "propose.json").read_text())[name]
    return every


def expected(answer: Any) -> tuple[int, str]:
    return (answer["status"], answer["rev"]) if isinstance(answer, dict) else (answer, "")


@pytest.mark.parametrize("case", cases("rev_trees"), ids=json.dumps)
def test_decision_table_of_trees(case: dict[str, Any]) -> None:
    local = case["local"]
    current = CurrentRev(RevID(local["rev"]), local["deleted"], "") if local else None
    verdict = TreeForm().decide(current, Proposal("doc", case["proposed"], case["parent"] or ""))
    status, rev = expected(case["answer"])
    assert (verdict.status, verdict.current if rev else "") == (status, rev)


@pytest.mark.parametrize("case", cases("version_vectors"), ids=json.dumps)
def test_decision_table_of_versions(case: dict[str, Any]) -> None:
    local = case["local"]
    current = CurrentRev(RevID("1-aa"), local["deleted"], local["rev"]) if local else None
    proposal = Proposal("doc", case["proposed"], case["parent"] or "")
    verdict = VersionForm().decide(current, proposal)
    status, rev = expected(case["answer"])
    assert (verdict.status, verdict.current if rev else "") == (status, rev)


def statuses(reply: Message | None) -> Any:
    assert reply is not None
    assert not reply.head.is_error, reply
    return json.loads(reply.body)


def test_reply_says_blobs_and_history(fixture: Fixture) -> None:
    reply = fixture.end().request("proposeChanges", b'[["a","1-aa",""]]')
    assert reply is not None
    assert reply.properties == {"blobs": "true", "maxHistory": "50"}
    assert reply.body == b"[]"
    assert reply.head.compressed


def test_conflict_is_an_object_for_who_asked(fixture: Fixture) -> None:
    fixture.put("a", "1-bb")
    proposal = b'[["a","1-aa",""],["b","1-aa"]]'
    end = fixture.end()
    reply = end.request("proposeChanges", proposal, conflictIncludesRev="true")
    assert statuses(reply) == [{"status": 409, "rev": "1-bb"}]


def test_conflict_is_a_number_for_a_client_of_version_2(fixture: Fixture) -> None:
    fixture.put("a", "1-bb")
    assert statuses(fixture.end(protocol=2).request("proposeChanges", b'[["a","1-aa",""]]')) == [
        409
    ]


@pytest.mark.parametrize(
    "entry",
    [
        '["_design","1-aa"]',
        '["","1-aa"]',
        '["a\\u0001b","1-aa"]',
        f'["{"x" * 241}","1-aa"]',
        '["a","aa"]',
        '["a","0-aa"]',
        '["a","1-AA"]',
        '["a",7]',
        "7",
        "[]",
    ],
)
def test_impossible_entry_is_400_and_the_others_are_answered(fixture: Fixture, entry: str) -> None:
    fixture.put("known", "1-aa")
    reply = fixture.end().request("proposeChanges", f'[{entry},["known","1-aa",""]]'.encode())
    assert statuses(reply) == [400, 304]


@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b"7"])
def test_body_that_is_no_array_is_refused(fixture: Fixture, body: bytes) -> None:
    assert error(fixture.end().request("proposeChanges", body)) == (
        "BLIP",
        400,
        "Invalid JSON body",
    )


def test_too_many_entries_are_refused(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_proposals=2))
    assert error(end.request("proposeChanges", b"[[],[],[]]"))[:2] == ("BLIP", 400)


def test_empty_noreply_proposal_is_ignored(fixture: Fixture) -> None:
    end = fixture.end()
    assert end.request("proposeChanges", b"[]", noreply=True) is None
    assert not end.replicator.is_active


def test_changes_from_a_client_must_be_proposed(fixture: Fixture) -> None:
    assert error(fixture.end().request("changes", b'[[1,"a","1-aa"]]'))[:2] == ("BLIP", 409)


def test_proposals_wait_while_too_many_revisions_are_to_come(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_rev_requests_outstanding=2))
    assert statuses(end.request("proposeChanges", b'[["a","1-aa",""],["b","1-aa",""]]')) == []
    waiting = end.send({"Profile": "proposeChanges"}, b'[["c","1-aa",""]]')
    assert end.reply_to(waiting) is None
    end.request("rev", b"{}", id="a", rev="1-aa", sequence="1")
    assert statuses(end.reply_to(waiting)) == []


def test_norev_makes_room_for_further_proposals(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_rev_requests_outstanding=1))
    end.request("proposeChanges", b'[["a","1-aa",""]]')
    waiting = end.send({"Profile": "proposeChanges"}, b'[["c","1-aa",""]]')
    end.request("norev", noreply=True, id="a", rev="1-aa", sequence="1", error="404")
    assert statuses(end.reply_to(waiting)) == []
