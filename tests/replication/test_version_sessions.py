"""Sessions of protocol 4: version vectors, and tree IDs only where an upgraded client has them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from edgesync.documents.store_calls import DEFAULT_COLLECTION, DeleteCollection, StoredRev
from tests.loopback import Message, PassiveEnd
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import is_success, push, stored
from tests.replication.test_replicator import error, get_collections
from tests.replication.test_rev_finder import statuses

ONE = "AAECAwQFBgcICQoLDA0ODw"
OTHER = "EBESExQVFhcYGRobHB0eHw"
V1, V2, V3 = (f"18600{n}0000000000@{ONE}" for n in (1, 2, 3))
W1, W2 = (f"18600{n}0000000000@{OTHER}" for n in (1, 2))
T1, T2 = "1-aa", "2-bb"
TREE_ID = re.compile(r"\b[1-9][0-9]*-[0-9a-f]{2,}")


@pytest.fixture
def end(fixture: Fixture) -> PassiveEnd:
    return session(fixture)


def session(fixture: Fixture, **more: Any) -> PassiveEnd:
    """Begin a session of protocol 4 about the default collection."""
    made = fixture.end(protocol=4, **more)
    get_collections(made, "_default")
    return made


def propose(end: PassiveEnd, *entries: list[object], ask_for_rev: bool = True) -> Any:
    properties = {"Profile": "proposeChanges", "collection": "0"}
    if ask_for_rev:
        properties["conflictIncludesRev"] = "true"
    return statuses(end.reply_to(end.send(properties, json.dumps(entries).encode())))


def push4(
    end: PassiveEnd, doc_id: str, rev: str, body: bytes = b"{}", **more: str
) -> Message | None:
    return push(end, doc_id, rev, body, collection="0", **more)


def subscribe(end: PassiveEnd, **more: str) -> list[list[Any]]:
    """Subscribe; return all that is offered."""
    properties = {"Profile": "subChanges", "collection": "0", "versioning": "version-vectors"}
    end.send({**properties, **more})
    return [entry for m in end.requests("changes") for entry in json.loads(m.body)]


def vector_of(fixture: Fixture, doc_id: str) -> str:
    found = stored(fixture, doc_id)
    assert isinstance(found, StoredRev)
    return found.vector


def tree_ids_said(end: PassiveEnd) -> list[str]:
    """Return the tree IDs in what the server has said to a client."""
    said: list[str] = []
    for message in end.received:
        names = ("rev", "history", "replacedRev", "deltaSrc")
        said += [message.properties.get(name, "") for name in names]
        if message.profile == "changes":
            said += [entry[2] for entry in json.loads(message.body)]
    return [found for text in said for found in TREE_ID.findall(text)]


# --- proposals ----------------------------------------------------------------------


def test_new_version_is_wanted(end: PassiveEnd) -> None:
    assert propose(end, ["doc", V1, "", 8]) == []


def test_entry_of_two_elements_is_enough(end: PassiveEnd) -> None:
    assert propose(end, ["doc", V1]) == []


def test_reply_to_versions_names_no_length_of_history(end: PassiveEnd) -> None:
    reply = end.request("proposeChanges", b"[]", collection="0")
    assert reply is not None
    assert reply.properties == {"blobs": "true"}


def test_known_version_is_304(end: PassiveEnd) -> None:
    push4(end, "doc", V2)
    assert propose(end, ["doc", V2], ["doc", V1]) == [304, 304]


def test_conflict_tells_our_whole_vector(end: PassiveEnd) -> None:
    push4(end, "doc", V2, history=W1)
    assert propose(end, ["doc", W2]) == [{"status": 409, "rev": f"{V2}; {W1}"}]


def test_conflict_is_a_number_for_who_does_not_ask_for_more(end: PassiveEnd) -> None:
    push4(end, "doc", V1)
    assert propose(end, ["doc", W2], ask_for_rev=False) == [409]


def test_vector_that_contains_ours_is_wanted_whatever_its_parent(end: PassiveEnd) -> None:
    push4(end, "doc", V1)
    assert propose(end, ["doc", f"{W2}; {V1}", W1]) == []


def test_edit_of_our_version_is_wanted_by_its_parent(end: PassiveEnd) -> None:
    push4(end, "doc", V1)
    assert propose(end, ["doc", W2, V1]) == []


def test_own_version_that_was_refused_is_wanted_with_ours_behind_it(end: PassiveEnd) -> None:
    push4(end, "doc", W1)
    assert propose(end, ["doc", V1])[0]["status"] == 409
    assert propose(end, ["doc", f"{V1}; {W1}", W1]) == []
    assert is_success(push4(end, "doc", V1, history=W1))


@pytest.mark.parametrize(
    "rev", ["", "1@x", f"*@{ONE}", "18600100@*", f"{V1}; {V2}", f"{V1}; {W1}; {W2}", "x" * 70_000]
)
def test_malformed_version_is_400_and_the_others_are_answered(end: PassiveEnd, rev: str) -> None:
    push4(end, "known", V1)
    assert propose(end, ["doc", rev], ["known", V1]) == [400, 304]


# --- revisions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rev", "history", "vector"),
    [
        (V1, "", V1),
        (V2, W1, f"{V2}; {W1}"),
        (V3, f"{V2}, {W2};", f"{V3}, {V2}, {W2};"),
        (V3, f"{V2}, {W2}; 1860000000000000@AAAAAAAAAAAAAAAAAAAAAQ",
         f"{V3}, {V2}, {W2}; 1860000000000000@AAAAAAAAAAAAAAAAAAAAAQ"),
        (V2, f"{W1}, {T2}, {T1}", f"{V2}; {W1}"),
        (V2, f"{T2}, {T1}", V2),
    ],
)  # fmt: skip
def test_vector_is_put_together_of_rev_and_history(
    fixture: Fixture, end: PassiveEnd, rev: str, history: str, vector: str
) -> None:
    assert is_success(push4(end, "doc", rev, history=history))
    assert vector_of(fixture, "doc") == vector


def test_revision_in_conflict_is_409(fixture: Fixture, end: PassiveEnd) -> None:
    push4(end, "doc", V1)
    assert error(push4(end, "doc", W2))[:2] == ("HTTP", 409)
    assert vector_of(fixture, "doc") == V1


@pytest.mark.parametrize("rev", [V2, V1])
def test_known_or_older_version_is_a_noop(end: PassiveEnd, rev: str) -> None:
    push4(end, "doc", V2)
    reply = push4(end, "doc", rev)
    assert reply is not None
    assert reply.properties == {"noop": "true"}


def test_legacy_history_of_our_revision_makes_a_version_newer(
    fixture: Fixture, end: PassiveEnd
) -> None:
    fixture.put("doc", T2, T1)
    ours = vector_of(fixture, "doc")
    assert propose(end, ["doc", V1, T2]) == []
    assert is_success(push4(end, "doc", V1, history=f"{T2}, {T1}"))
    current, _, older = vector_of(fixture, "doc").partition("; ")
    assert (current.partition("@")[2], older) == (ours.partition("@")[2], V1)
    assert current > ours  # of one author, the later


def test_legacy_history_without_our_revision_is_a_conflict(
    fixture: Fixture, end: PassiveEnd
) -> None:
    fixture.put("doc", T2, T1)
    assert propose(end, ["doc", V1, T1])[0]["status"] == 409
    assert error(push4(end, "doc", V1, history=T1))[:2] == ("HTTP", 409)


def test_tree_id_of_an_upgraded_client_goes_by_the_rules_of_trees(
    fixture: Fixture, end: PassiveEnd
) -> None:
    fixture.put("known", T1)
    fixture.put("other", "1-cc")
    assert propose(end, ["known", T1, ""], ["new", T2, ""], ["other", T1, ""]) == [
        304,
        0,
        {"status": 409, "rev": "1-cc"},
    ]
    assert is_success(push4(end, "new", T2, b'{"n":1}', history=T1))
    found = stored(fixture, "new")
    assert found is not None
    assert (found.rev_id, found.ancestors) == (T2, (T1,))
    assert "@" in found.vector


def test_document_is_made_anew_over_a_tombstone_of_another_author(
    fixture: Fixture, end: PassiveEnd
) -> None:
    push4(end, "doc", W1, deleted="1")
    assert propose(end, ["doc", V1, ""]) == []
    assert is_success(push4(end, "doc", V1, b'{"n":1}'))
    found = stored(fixture, "doc")
    assert found is not None
    assert not found.deleted
    assert W1 in found.vector


def test_client_that_settles_for_our_tombstone_hears_of_the_document_made_anew(
    fixture: Fixture, end: PassiveEnd
) -> None:
    """It then has `W1; V1`, to which `V1; W1` is nothing new."""
    push4(session(fixture), "doc", W1, deleted="1")
    subscribe(end, continuous="true")
    end.answer(end.requests("changes")[0], b"[[]]")
    push4(end, "doc", V1, b'{"n":1}')
    end.answer(end.requests("rev")[0])
    ((_, _, rev, deleted, _),) = json.loads(end.requests("changes")[-1].body)
    assert not deleted
    assert rev.partition(";")[0] not in (V1, W1)
    assert V1 in rev
    assert W1 in rev


# --- what is offered ----------------------------------------------------------------


def test_whole_vector_is_offered_and_split_when_sent(end: PassiveEnd) -> None:
    push4(end, "doc", V2, b'{"n":2}', history=W1)
    assert [entry[2] for entry in subscribe(end)] == [f"{V2}; {W1}"]
    end.answer(end.requests("changes")[0], b"[[]]")
    properties = end.requests("rev")[0].properties
    assert (properties["rev"], properties["history"]) == (V2, W1)


def test_sent_merge_keeps_its_semicolon(end: PassiveEnd) -> None:
    push4(end, "doc", V3, history=f"{V2}, {W2};")
    subscribe(end)
    end.answer(end.requests("changes")[0], b"[[]]")
    assert end.requests("rev")[0].properties["history"] == f"{V2}, {W2};"


def test_document_of_a_tree_client_is_offered_as_a_version_of_ours(fixture: Fixture) -> None:
    fixture.put("doc", T2, T1, body=b'{"n":1}')
    end = session(fixture)
    ((_, doc_id, rev, deleted, _),) = subscribe(end)
    assert (doc_id, rev, deleted) == ("doc", vector_of(fixture, "doc"), False)
    end.answer(end.requests("changes")[0], b"[[]]")
    sent = end.requests("rev")[0]
    assert (sent.properties["rev"], sent.body) == (rev, b'{"n":1}')
    assert "history" not in sent.properties
    assert tree_ids_said(end) == []


def test_tree_session_is_refused_the_versions_it_would_store(fixture: Fixture) -> None:
    for more in ({"versioning": "rev-trees"}, {}):
        end = session(fixture)
        reply = end.reply_to(end.send({"Profile": "subChanges", "collection": "0", **more}))
        assert error(reply)[:2] == ("LiteCore", 501)


def test_replacement_comes_under_the_announced_sequence(fixture: Fixture) -> None:
    sequence = fixture.put("doc", T1)
    announced = vector_of(fixture, "doc")
    end = session(fixture)
    subscribe(end, sendReplacementRevs="1")
    fixture.put("doc", T2, T1, body=b'{"n":2}')
    end.answer(end.requests("changes")[0], b"[[]]")
    (sent,) = end.requests("rev")
    assert sent.properties["rev"] == vector_of(fixture, "doc").partition(";")[0]
    assert sent.properties["replacedRev"] == announced
    assert sent.properties["sequence"] == str(sequence)
    assert tree_ids_said(end) == []


def test_superseded_revision_is_410_for_who_takes_no_replacement(fixture: Fixture) -> None:
    sequence = fixture.put("doc", T1)
    announced = vector_of(fixture, "doc")
    end = session(fixture)
    subscribe(end)
    fixture.put("doc", T2, T1)
    end.answer(end.requests("changes")[0], b"[[]]")
    (said,) = end.requests("norev")
    assert said.properties == {
        "Profile": "norev",
        "collection": "0",
        "id": "doc",
        "rev": announced,
        "sequence": str(sequence),
        "error": "410",
    }


def test_pushed_version_is_not_offered_back_on_a_live_feed(fixture: Fixture) -> None:
    end, other = session(fixture), session(fixture)
    subscribe(end, continuous="true")
    subscribe(other, continuous="true")
    push4(end, "doc", V1)
    other.run()
    assert [json.loads(m.body) for m in end.requests("changes")] == [[]]
    assert len(other.requests("changes")) == 2


def test_revision_is_offered_back_to_who_was_just_offered_another_one(fixture: Fixture) -> None:
    """It may settle for the other one before it hears that its own is stored."""
    fixture.put("doc", T2, T1, deleted=True)
    end = fixture.end()
    end.request("subChanges", continuous="true")
    end.answer(end.requests("changes")[0], b"[[]]")
    assert is_success(push(end, "doc", "1-cc", b'{"n":1}'))
    end.answer(end.requests("rev")[0])
    assert json.loads(end.requests("changes")[-1].body)[0][1:3] == ["doc", "1-cc"]


# --- other requests -------------------------------------------------------------------


def test_get_rev_gives_the_document_under_its_version(end: PassiveEnd) -> None:
    push4(end, "doc", V1, b'{"n":1}')
    reply = end.request("getRev", collection="0", id="doc")
    assert reply is not None
    assert (reply.properties, reply.body) == ({"rev": V1}, b'{"n":1}')
    again = end.request("getRev", collection="0", id="doc", ifNotRev=V1)
    assert error(again)[:2] == ("HTTP", 304)


def test_get_rev_knows_no_deleted_document(end: PassiveEnd) -> None:
    push4(end, "doc", V1, deleted="1")
    for doc_id in ("doc", "none"):
        assert error(end.request("getRev", collection="0", id=doc_id))[:2] == ("HTTP", 404)


def test_put_rev_stores_like_rev(fixture: Fixture, end: PassiveEnd) -> None:
    reply = end.request("putRev", b'{"n":1}', collection="0", id="doc", rev=V1, sequence="1")
    assert is_success(reply)
    assert vector_of(fixture, "doc") == V1


def test_unsub_changes_ends_the_feed_and_leaves_room_for_another(
    fixture: Fixture, end: PassiveEnd
) -> None:
    subscribe(end, continuous="true")
    assert is_success(end.request("unsubChanges", collection="0"))
    fixture.put("doc", T1)
    end.run()
    assert len(end.requests("changes")) == 1
    assert [entry[1] for entry in subscribe(end)] == ["doc"]


def test_read_only_session_takes_no_versions_but_gives_them(fixture: Fixture) -> None:
    fixture.put("doc", T1)
    end = session(fixture, read_only=True)
    for profile in ("proposeChanges", "changes", "rev", "putRev"):
        reply = end.request(profile, b"[]", collection="0", id="x", rev=V1)
        assert error(reply) == ("HTTP", 403, "Attempting to push to a pull-only replicator")
    assert [entry[1] for entry in subscribe(end)] == ["doc"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_collection_deleted_under_a_client_ends_its_feed_and_refuses_its_pushes(
    fixture: Fixture, protocol: int
) -> None:
    fixture.store.create_collections(["field.meters"])
    end = fixture.end(collections=[DEFAULT_COLLECTION, "field.meters"], protocol=protocol)
    get_collections(end, "field.meters", "_default")
    versioning = "version-vectors" if protocol >= 4 else "rev-trees"
    rev = V1 if protocol >= 4 else T1
    end.request("subChanges", collection="0", continuous="true", versioning=versioning)
    fixture.store.ask(lambda call_id: DeleteCollection(call_id, "field.meters"))
    proposal = json.dumps([["doc", rev]]).encode()
    assert error(end.request("proposeChanges", proposal, collection="0"))[:2] == ("HTTP", 404)
    assert error(push(end, "doc", rev, collection="0"))[:2] == ("HTTP", 404)
    assert is_success(push(end, "doc", rev, collection="1"))
    assert not end.replicator.is_active
