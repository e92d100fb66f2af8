"""Deltas both ways: what they save, when they are not used, and what happens if they fail."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from edgesync.limits import Limits
from tests.active_peer.joined import JoinedEnd, sync_joined
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.peer_database import PeerDatabase
from tests.loopback import Message, PassiveEnd
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import (
    blob,
    is_success,
    push,
    serve_blob,
    stored,
)
from tests.replication.test_outgoing_revs import want_all
from tests.replication.test_replicator import error

BIG = {"pad": "x" * 400}
BOTH = pytest.mark.parametrize("versions", [False, True], ids=["trees", "versions"])


def body(**more: object) -> bytes:
    return json.dumps({**BIG, **more}).encode()


def database(versions: bool) -> PeerDatabase:
    return PeerDatabase(versions=versions)


def measured(fixture: Fixture, made: PeerDatabase, *, deltas: bool = True) -> tuple[Result, int]:
    """Synchronise once; return what was done, and the bytes of all frames."""
    end = JoinedEnd(fixture.store, made, SyncOptions(), deltas=deltas)
    end.run()
    end.close()
    assert end.peer.is_finished
    assert end.peer.result.complaints == []
    return end.peer.result, end.bytes_moved


# --- what they save ---------------------------------------------------------------


def report(mark: int) -> dict[str, object]:
    """Return a document of 20 kB that does not compress well."""
    chance = random.Random(7)
    rows = [{"at": n, "key": chance.randbytes(50).hex()} for n in range(160)]
    return {"mark": mark, "rows": rows}


@BOTH
def test_edit_of_a_field_in_20_kb_costs_less_than_2_kb_each_way(
    fixture: Fixture, versions: bool
) -> None:
    one, other = database(versions), database(versions)
    one.save("report", report(1))
    _, whole_up = measured(fixture, one)
    _, whole_down = measured(fixture, other)
    assert min(whole_up, whole_down) > 9_000
    one.save("report", report(2))
    result, up = measured(fixture, one)
    assert result.deltas_pushed == 1
    result, down = measured(fixture, other)
    assert result.deltas_pulled == 1
    assert other.get("report") == report(2)
    assert max(up, down) < 2000


@pytest.mark.parametrize("versions", [(False, True), (True, False)])
def test_edit_of_one_kind_of_client_reaches_the_other_as_a_delta(
    fixture: Fixture, versions: tuple[bool, bool]
) -> None:
    one, other = map(database, versions)
    one.save("doc", {**BIG, "n": 0})
    measured(fixture, one)
    measured(fixture, other)
    for turn in range(1, 4):
        one.save("doc", {**BIG, "n": turn})
        measured(fixture, one)
        assert measured(fixture, other)[0].deltas_pulled == 1
        one, other = other, one
    assert one.digest() == other.digest()


def test_delta_against_a_tree_id_that_an_upgraded_client_has_left(fixture: Fixture) -> None:
    one, other = database(False), database(False)
    one.save("doc", {**BIG, "n": 1})
    measured(fixture, one)
    measured(fixture, other)
    one.upgrade()
    one.save("doc", {**BIG, "n": 2})
    assert measured(fixture, one)[0].deltas_pushed == 1
    other.upgrade()
    assert measured(fixture, other)[0].deltas_pulled == 1
    assert other.get("doc") == {**BIG, "n": 2}


# --- announcing -------------------------------------------------------------------


def test_nothing_is_announced_when_they_are_off(fixture: Fixture) -> None:
    reply = fixture.end().request("proposeChanges", b'[["doc","1-aa",""]]')
    assert reply is not None
    assert "deltas" not in reply.properties


def test_they_are_announced_in_each_reply_to_proposals(fixture: Fixture) -> None:
    end = fixture.end(deltas=True)
    for doc_id in "ab":
        reply = end.request("proposeChanges", f'[["{doc_id}","1-aa",""]]'.encode())
        assert reply is not None
        assert reply.properties["deltas"] == "true"


@BOTH
def test_none_is_sent_when_they_are_off_whatever_the_client_says(
    fixture: Fixture, versions: bool
) -> None:
    one, other = database(versions), database(versions)
    for n in (1, 2):
        one.save("doc", {**BIG, "n": n})
        assert measured(fixture, one, deltas=False)[0].deltas_pushed == 0
        assert measured(fixture, other, deltas=False)[0].deltas_pulled == 0


def offer_second(fixture: Fixture, base: bytes, new: bytes, **more: Any) -> PassiveEnd:
    """Replace a revision, and have a client ask for the new one that has the old."""
    end = fixture.end(deltas=True, **more)
    fixture.put("doc", "1-aa", body=base)
    fixture.put("doc", "2-bb", "1-aa", body=new)
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b'[["1-aa"]]', {"deltas": "true"})
    return end


def test_delta_names_its_base_as_the_client_did(fixture: Fixture) -> None:
    end = offer_second(fixture, body(n=1), body(n=2))
    (sent,) = end.requests("rev")
    assert (sent.properties["deltaSrc"], json.loads(sent.body)) == ("1-aa", {"n": 2})


def test_client_that_announces_nothing_gets_none(fixture: Fixture) -> None:
    end = fixture.end(deltas=True)
    fixture.put("doc", "1-aa", body=body(n=1))
    fixture.put("doc", "2-bb", "1-aa", body=body(n=2))
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b'[["1-aa"]]')
    assert "deltaSrc" not in end.requests("rev")[0].properties


def test_one_announcement_holds_for_the_connection(fixture: Fixture) -> None:
    end = offer_second(fixture, body(n=1), body(n=2), limits=Limits(changes_batch=1))
    end.answer(end.requests("rev")[0])
    again = fixture.end(deltas=True)
    again.request("subChanges", continuous="true")
    again.answer(again.requests("changes")[0], b"[0]", {"deltas": "true"})
    fixture.put("doc", "3-cc", "2-bb", "1-aa", body=body(n=3))
    again.run()
    again.answer(again.requests("changes")[-1], b'[["2-bb"]]')
    assert again.requests("rev")[0].properties["deltaSrc"] == "2-bb"


# --- what goes whole ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "new"),
    [
        (body(n=1), b'{"n":2}'),  # small
        (b'{"n":1}', body(n=2)),  # a base that is not kept
        (b"{}", body(n=2)),
        (body(n=1), json.dumps({"pad": "y" * 300_000}).encode()),  # huge
        (body(n=1), json.dumps({"other": "y" * 500}).encode()),  # nothing in common
    ],
    ids=["small", "small base", "empty base", "huge", "all new"],
)
def test_body_goes_whole_where_a_delta_saves_nothing(
    fixture: Fixture, base: bytes, new: bytes
) -> None:
    (sent,) = offer_second(fixture, base, new).requests("rev")
    assert "deltaSrc" not in sent.properties
    assert json.loads(sent.body) == json.loads(new)


def test_tombstone_goes_whole(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa", body=body(n=1))
    fixture.end(deltas=True).close()
    fixture.put("doc", "2-bb", "1-aa", body=body(gone=True), deleted=True)
    end = fixture.end(deltas=True)
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b'[["1-aa"]]', {"deltas": "true"})
    assert "deltaSrc" not in end.requests("rev")[0].properties


def test_revision_after_a_tombstone_goes_whole(fixture: Fixture) -> None:
    end = fixture.end(deltas=True)
    fixture.put("doc", "1-aa", body=body(n=1), deleted=True)
    fixture.put("doc", "2-bb", "1-aa", body=body(n=2))
    end.request("subChanges")
    end.answer(end.requests("changes")[0], b'[["1-aa"]]', {"deltas": "true"})
    assert "deltaSrc" not in end.requests("rev")[0].properties


# --- blobs ------------------------------------------------------------------------


@BOTH
def test_replaced_blob_is_seen_by_clients_that_look_into_the_delta_alone(
    fixture: Fixture, versions: bool
) -> None:
    one, other = database(versions), database(versions)
    for content in (b"first " * 100, b"second " * 100):
        one.save("doc", {**BIG, "pics": [one.save_blob(content, "text/plain")]})
        measured(fixture, one)
        result, _ = measured(fixture, other)
    assert result.deltas_pulled == 1
    assert other.missing_blobs() == []
    assert one.digest() == other.digest()


def test_delta_that_changes_a_digest_makes_us_fetch_the_blob(fixture: Fixture) -> None:
    old, new = blob(b"old"), blob(b"brand new")
    end = fixture.end(deltas=True)
    push(end, "doc", "1-aa", body(pic=old))
    serve_blob(end, end.requests("getAttachment")[0], b"old")
    delta = {"pic": {"digest": new["digest"], "length": new["length"]}}
    push(end, "doc", "2-bb", json.dumps(delta).encode(), history="1-aa", deltaSrc="1-aa")
    request = end.requests("getAttachment")[1]
    assert request.properties["digest"] == new["digest"]
    assert stored_body(fixture)["pic"] == old
    serve_blob(end, request, b"brand new")
    assert stored_body(fixture)["pic"] == new


def stored_body(fixture: Fixture) -> Any:
    found = stored(fixture, "doc")
    assert found is not None
    return json.loads(found.body)


# --- deltas from a client -------------------------------------------------------------


def push_delta(fixture: Fixture, delta: bytes, source: str = "1-aa") -> Message | None:
    end = fixture.end(deltas=True)
    push(end, "doc", "1-aa", body(n=1))
    return push(end, "doc", "2-bb", delta, history="1-aa", deltaSrc=source)


def test_delta_is_applied_to_the_revision_it_names(fixture: Fixture) -> None:
    assert is_success(push_delta(fixture, b'{"n":2}'))
    assert stored_body(fixture) == {**BIG, "n": 2}


@pytest.mark.parametrize("source", ["1-bb", "", "nonsense", "18600100@x", "2-bb"])
def test_delta_against_an_unknown_revision_is_422(fixture: Fixture, source: str) -> None:
    assert error(push_delta(fixture, b'{"n":2}', source))[:2] == ("HTTP", 422)
    assert stored_body(fixture)["n"] == 1


@pytest.mark.parametrize(
    "delta", [b"", b"[]", b"7", b"nonsense", b'{"n":[1,2,3]}', b'{"none":[]}', b'{"n":{"a":1}}']
)
def test_delta_that_does_not_apply_is_422(fixture: Fixture, delta: bytes) -> None:
    assert error(push_delta(fixture, delta))[:2] == ("HTTP", 422)
    assert stored_body(fixture)["n"] == 1


# What JSON parsers take, our encoder does not.
@pytest.mark.parametrize("depth", [150, 300, 900])
def test_delta_that_nests_too_deep_is_refused(fixture: Fixture, depth: int) -> None:
    delta = b'{"new":' + b"[[" * depth + b"]]" * depth + b"}"
    domain, code = error(push_delta(fixture, delta))[:2]
    assert (domain, code) == ("HTTP", 422)
    assert "new" not in stored_body(fixture)


def test_delta_against_a_tombstone_is_422(fixture: Fixture) -> None:
    end = fixture.end(deltas=True)
    push(end, "doc", "1-aa", body(n=1), deleted="1")
    reply = push(end, "doc", "2-bb", b'{"n":2}', history="1-aa", deltaSrc="1-aa")
    assert error(reply)[:2] == ("HTTP", 422)


@BOTH
def test_refused_delta_is_followed_by_the_whole_body(fixture: Fixture, versions: bool) -> None:
    made, other = database(versions), database(versions)
    made.save("doc", {**BIG, "n": 1})
    measured(fixture, made)
    server_rev = made.remote("memory:").of("_default._default")
    server_rev["doc"] = server_rev["doc"]._replace(body=body(n="wrong", none="x"))
    made.save("doc", {**BIG, "n": 2})
    result, _ = measured(fixture, made)
    assert (result.pushed, result.deltas_pushed, result.push_errors) == (1, 1, [])
    sync_joined(fixture.store, other)
    assert other.get("doc") == {**BIG, "n": 2}


# --- a client that cannot apply ours ----------------------------------------------------


@pytest.mark.parametrize(("domain", "code"), [("HTTP", 422), ("LiteCore", 31), ("LiteCore", 32)])
def test_client_that_cannot_apply_a_delta_gets_the_body_once(
    fixture: Fixture, domain: str, code: int
) -> None:
    end = offer_second(fixture, body(n=1), body(n=2))
    for _ in range(2):  # the second refusal is of the body, and final
        end.client.send_error(end.requests("rev")[-1].head, domain, code, "no")
        end.run()
    delta, whole = end.requests("rev")
    assert "deltaSrc" not in whole.properties
    assert whole.properties["sequence"] == delta.properties["sequence"]
    assert json.loads(whole.body) == {**BIG, "n": 2}
    assert not end.replicator.is_active


@pytest.mark.parametrize(("domain", "code"), [("HTTP", 403), ("LiteCore", 8), ("BLIP", 501)])
def test_other_refusals_of_a_delta_are_final(fixture: Fixture, domain: str, code: int) -> None:
    end = offer_second(fixture, body(n=1), body(n=2))
    end.client.send_error(end.requests("rev")[0].head, domain, code, "no")
    end.run()
    assert len(end.requests("rev")) == 1
    assert not end.replicator.is_active


def test_client_without_the_base_it_named_asks_for_the_body(fixture: Fixture) -> None:
    one, other = database(True), database(True)
    one.save("doc", {**BIG, "n": 1})
    measured(fixture, one)
    measured(fixture, other)
    other_doc = other.default_collection.document("doc")
    assert other_doc is not None
    other.default_collection.store("doc", other_doc.revision, b'{"pad":1}', deleted=False)
    one.save("doc", {"pad": "x" * 399 + "y", "n": 1})
    measured(fixture, one)
    result, _ = measured(fixture, other)
    assert other.get("doc") == one.get("doc")
    assert result.deltas_pulled == 1


def test_wanted_revision_is_offered_deltas_only_among_what_is_kept(fixture: Fixture) -> None:
    end = fixture.end(deltas=True)
    history: list[str] = []
    for number in range(1, 9):
        history.insert(0, f"{number}-aa")
        fixture.put("doc", *history, body=body(n=number))
    end.request("subChanges")
    want_all(end, deltas="true")
    assert "deltaSrc" not in end.requests("rev")[0].properties
    again = fixture.end(deltas=True)
    again.request("subChanges")
    again.answer(again.requests("changes")[0], b'[["1-aa","5-aa"]]', {"deltas": "true"})
    assert again.requests("rev")[0].properties["deltaSrc"] == "5-aa"
