"""What a subscription offers, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgesync.documents.store_calls import DEFAULT_COLLECTION, CreateCollection
from edgesync.limits import Limits
from tests.loopback import Message, PassiveEnd
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import push
from tests.replication.test_replicator import error


def offers(end: PassiveEnd) -> list[list[str]]:
    """Return the document IDs of each `changes`, as they came."""
    return [[entry[1] for entry in json.loads(m.body)] for m in end.requests("changes")]


def entries(message: Message) -> Any:
    return json.loads(message.body)


def test_reply_comes_before_the_first_changes(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    assert [m.type.name for m in end.received][:2] == ["RPY", "MSG"]


def test_entry_says_sequence_id_revision_deletion_and_size(fixture: Fixture) -> None:
    sequence = fixture.put("doc", "1-aa", body=b'{"n":1}')
    tombstone = fixture.put("gone", "2-bb", "1-aa", deleted=True)
    end = fixture.end()
    end.request("subChanges")
    offer = end.requests("changes")[0]
    assert entries(offer) == [
        [sequence, "doc", "1-aa", False, 7],
        [tombstone, "gone", "2-bb", True, 2],
    ]
    assert offer.head.urgent
    assert offer.head.compressed


def test_caught_up_is_an_empty_changes_without_reply(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges")
    (signal,) = end.requests("changes")
    assert signal.body == b"[]"
    assert signal.head.noreply
    assert signal.head.urgent
    assert not signal.head.compressed


def test_caught_up_comes_once_after_the_last_batch(fixture: Fixture) -> None:
    for number in range(5):
        fixture.put(f"doc-{number}", "1-aa")
    end = fixture.end(limits=Limits(changes_batch=2, max_changes_unanswered=4))
    end.request("subChanges")
    assert offers(end) == [["doc-0", "doc-1"], ["doc-2", "doc-3"], ["doc-4"], []]


def test_since_is_exclusive(fixture: Fixture) -> None:
    first = fixture.put("a", "1-aa")
    fixture.put("b", "1-aa")
    end = fixture.end()
    end.request("subChanges", since=str(first))
    assert offers(end) == [["b"], []]


@pytest.mark.parametrize("since", ["-5", "x", '"12:3"', "", "1.5"])
def test_since_that_is_no_sequence_counts_as_none(fixture: Fixture, since: str) -> None:
    fixture.put("a", "1-aa")
    end = fixture.end()
    end.request("subChanges", since=since)
    assert offers(end)[0] == ["a"]


def test_active_only_leaves_tombstones_out_until_caught_up(fixture: Fixture) -> None:
    fixture.put("gone", "1-aa", deleted=True)
    fixture.put("here", "1-aa")
    end = fixture.end()
    end.request("subChanges", activeOnly="true", continuous="true")
    end.answer(end.requests("changes")[0], b"[]")
    fixture.put("here", "2-bb", "1-aa", deleted=True)
    end.run()
    assert offers(end) == [["here"], [], ["here"]]


def test_only_the_documents_asked_for(fixture: Fixture) -> None:
    for name in "abc":
        fixture.put(name, "1-aa")
    end = fixture.end()
    end.request("subChanges", b'{"docIDs":["a","c","none"]}')
    assert offers(end) == [["a", "c"], []]


def test_empty_list_of_documents_means_none(fixture: Fixture) -> None:
    fixture.put("a", "1-aa")
    end = fixture.end()
    end.request("subChanges", b'{"docIDs":[]}')
    assert offers(end) == [[]]


def test_filters_are_refused(fixture: Fixture) -> None:
    end = fixture.end()
    reply = end.request("subChanges", filter="sync_gateway/bychannel", channels="a")
    assert error(reply) == ("LiteCore", 19, "Filtering not supported")


def test_version_vectors_are_refused_in_a_session_of_version_3(fixture: Fixture) -> None:
    reply = fixture.end().request("subChanges", versioning="version-vectors")
    assert error(reply) == ("LiteCore", 501, "Incompatible document versioning.")


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b'{"docIDs":7}', b'{"docIDs":[7]}'])
def test_malformed_body_is_refused(fixture: Fixture, body: bytes) -> None:
    assert error(fixture.end().request("subChanges", body))[:2] == ("BLIP", 400)


def test_second_subscription_is_refused_while_the_first_lives(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges", continuous="true")
    assert error(end.request("subChanges", continuous="true"))[:2] == ("BLIP", 400)


def test_at_most_two_changes_are_unanswered(fixture: Fixture) -> None:
    for number in range(8):
        fixture.put(f"doc-{number}", "1-aa")
    end = fixture.end(limits=Limits(changes_batch=1))
    end.request("subChanges")
    assert len(end.requests("changes")) == 2
    end.answer(end.requests("changes")[0], b"[]")
    assert len(end.requests("changes")) == 3


def test_no_history_is_read_while_many_revisions_are_queued(fixture: Fixture) -> None:
    for number in range(6):
        fixture.put(f"doc-{number}", "1-aa")
    limits = Limits(changes_batch=3, max_changes_unanswered=1, max_revs_queued=1)
    end = fixture.end(limits=Limits(changes_batch=3, max_changes_unanswered=1))
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b"[[],[],[]]")
    assert len(end.requests("changes")) >= 2
    assert limits.max_revs_queued == 1


def test_continuous_feed_offers_a_commit_at_once(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges", continuous="true")
    fixture.put("live", "1-aa")
    end.run()
    assert offers(end) == [[], ["live"]]


def test_one_shot_feed_ends_when_caught_up(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges")
    fixture.put("late", "1-aa")
    end.run()
    assert offers(end) == [[]]


def test_feed_of_one_collection_ignores_the_others(fixture: Fixture) -> None:
    fixture.store.ask(lambda call_id: CreateCollection(call_id, "field.other"))
    end = fixture.end()
    end.request("subChanges", continuous="true")
    fixture.put("doc", "1-aa", collection="field.other")
    end.run()
    assert offers(end) == [[]]


def test_document_that_changes_often_is_offered_once_at_its_last(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges", continuous="true")
    fixture.put("doc", "1-aa")
    end.run()
    fixture.put("doc", "2-bb", "1-aa")
    fixture.put("doc", "3-cc", "2-bb", "1-aa")
    end.run()
    assert len(offers(end)) == 2
    end.answer(end.requests("changes")[1], b"[0]")
    assert entries(end.requests("changes")[2])[0][2] == "3-cc"


def test_newer_revision_waits_until_the_older_is_answered(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa", body=b'{"n":1}')
    end = fixture.end()
    end.request("subChanges", continuous="true")
    end.answer(end.requests("changes")[0], b"[[]]")
    fixture.put("doc", "2-bb", "1-aa")
    fixture.put("other", "1-aa")
    end.run()
    assert offers(end) == [["doc"], []]
    end.answer(end.requests("rev")[0])
    assert offers(end) == [["doc"], [], ["doc", "other"]]


def test_revision_a_client_pushed_is_not_offered_back(fixture: Fixture) -> None:
    end, other = fixture.end(), fixture.end()
    end.request("subChanges", continuous="true")
    other.request("subChanges", continuous="true")
    push(end, "mine", "1-aa")
    end.run()
    other.run()
    assert offers(end) == [[]]
    assert offers(other) == [[], ["mine"]]


def test_error_reply_to_changes_stops_the_feed(fixture: Fixture) -> None:
    fixture.put("a", "1-aa")
    end = fixture.end()
    end.request("subChanges", continuous="true")
    end.client.send_error(end.requests("changes")[0].head, "LiteCore", 26, "no")
    end.run()
    fixture.put("b", "1-aa")
    end.run()
    assert offers(end) == [["a"], []]
    assert not end.replicator.is_active


def test_idle_subscription_is_not_active(fixture: Fixture) -> None:
    fixture.put("a", "1-aa")
    end = fixture.end()
    end.request("subChanges", continuous="true")
    assert end.replicator.is_active
    end.answer(end.requests("changes")[0], b"[]")
    assert not end.replicator.is_active


def test_unknown_document_collection_ends_the_feed(fixture: Fixture) -> None:
    end = fixture.end(collections=[DEFAULT_COLLECTION, "field.none"])
    body = {"checkpoint_ids": ["cp-A"], "collections": ["field.none"]}
    end.request("getCollections", json.dumps(body).encode())
    end.request("subChanges", collection="0")
    assert end.requests("changes") == []
