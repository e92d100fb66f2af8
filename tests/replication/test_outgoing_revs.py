"""Revisions a client asked for."""

from __future__ import annotations

import json

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import DEFAULT_COLLECTION, PurgeDocument
from edgesync.limits import Limits
from edgesync.replication.rev_forms import history
from tests.loopback import PassiveEnd
from tests.replication.conftest import Fixture


def want_all(end: PassiveEnd, **properties: str) -> None:
    """Ask for everything that is offered."""
    for offer in list(end.requests("changes")):
        count = len(json.loads(offer.body))
        if count:
            end.answer(offer, json.dumps([[]] * count).encode(), properties)


def test_wanted_revision_is_sent(fixture: Fixture) -> None:
    sequence = fixture.put("doc", "2-bb", "1-aa", body=b'{"n":1}')
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    (rev,) = end.requests("rev")
    assert rev.properties == {
        "Profile": "rev",
        "id": "doc",
        "rev": "2-bb",
        "sequence": str(sequence),
        "history": "1-aa",
    }
    assert rev.body == b'{"n":1}'
    assert rev.head.compressed
    assert not rev.head.urgent


def test_tombstone_is_sent_as_deleted_with_an_empty_object(fixture: Fixture) -> None:
    fixture.put("doc", "2-bb", "1-aa", deleted=True)
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    (rev,) = end.requests("rev")
    assert rev.properties["deleted"] == "1"
    assert rev.body == b"{}"


def test_unwanted_revisions_are_not_sent(fixture: Fixture) -> None:
    for name in "abcd":
        fixture.put(name, "1-aa")
    end = fixture.end()
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b"[0,[],null]")
    assert [rev.properties["id"] for rev in end.requests("rev")] == ["b"]


def test_superseded_revision_gets_a_norev(fixture: Fixture) -> None:
    sequence = fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    fixture.put("doc", "2-bb", "1-aa")
    want_all(end)
    (norev,) = end.requests("norev")
    assert end.requests("rev") == []
    assert norev.head.noreply
    assert norev.properties == {
        "Profile": "norev",
        "id": "doc",
        "rev": "1-aa",
        "sequence": str(sequence),
        "error": "410",
    }


def test_purged_document_gets_a_norev(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    fixture.store.ask(lambda call_id: PurgeDocument(call_id, DEFAULT_COLLECTION, "doc"))
    want_all(end)
    assert end.requests("norev")[0].properties["error"] == "404"


def test_every_wanted_revision_is_followed_by_rev_or_norev(fixture: Fixture) -> None:
    for number in range(300):
        fixture.put(f"doc-{number}", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    fixture.put("doc-7", "2-bb", "1-aa")
    want_all(end)
    names = {m.properties["id"] for m in end.requests("rev") + end.requests("norev")}
    assert len(names) == 300


def test_unanswered_bytes_are_bounded(fixture: Fixture) -> None:
    body = json.dumps({"text": "x" * 9_900}).encode()
    for number in range(10):
        fixture.put(f"doc-{number}", "1-aa", body=body)
    end = fixture.end(limits=Limits(max_rev_bytes_unanswered=25_000))
    end.request("subChanges")
    want_all(end)
    assert len(end.requests("rev")) == 3
    end.answer(end.requests("rev")[0])
    assert len(end.requests("rev")) == 4


def test_number_of_unanswered_revisions_is_not_bounded(fixture: Fixture) -> None:
    for number in range(150):
        fixture.put(f"doc-{number}", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    assert len(end.requests("rev")) == 150


@pytest.mark.parametrize("domain", ["HTTP", "LiteCore"])
def test_error_reply_to_a_revision_is_final(fixture: Fixture, domain: str) -> None:
    fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    want_all(end)
    end.client.send_error(end.requests("rev")[0].head, domain, 403, "no")
    end.run()
    assert len(end.requests("rev")) == 1
    assert not end.replicator.is_active


def revs(*texts: str) -> tuple[RevID, ...]:
    return tuple(RevID(text) for text in texts)


def test_history_stops_at_the_first_known_revision() -> None:
    assert history(revs("4-dd", "3-cc", "2-bb", "1-aa"), frozenset({"3-cc"}), 50) == "4-dd,3-cc"


def test_history_counts_the_sent_revision() -> None:
    assert history(revs("4-dd", "3-cc", "2-bb", "1-aa"), frozenset(), 3) == "4-dd,3-cc"


def test_known_ancestor_beyond_the_limit_takes_the_last_place() -> None:
    chain = revs("5-ee", "4-dd", "3-cc", "2-bb", "1-aa")
    assert history(chain, frozenset({"1-aa"}), 4) == "5-ee,4-dd,1-aa"


def test_client_of_version_2_gets_twenty_revisions_by_default(fixture: Fixture) -> None:
    fixture.put("doc", *(f"{number}-aa" for number in range(40, 0, -1)))
    for protocol, count in ((2, 19), (3, 39)):
        end = fixture.end(protocol=protocol)
        end.request("subChanges")
        want_all(end)
        assert len(end.requests("rev")[0].properties["history"].split(",")) == count


def test_max_history_of_the_client_is_kept(fixture: Fixture) -> None:
    fixture.put("doc", *(f"{number}-aa" for number in range(10, 0, -1)))
    end = fixture.end()
    end.request("subChanges")
    want_all(end, maxHistory="3")
    assert end.requests("rev")[0].properties["history"] == "9-aa,8-aa"
