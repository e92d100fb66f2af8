"""Which request goes where: session modes, unknown profiles, limits over all."""

from __future__ import annotations

import json

import pytest

from edgesync.documents.store_calls import DEFAULT_COLLECTION
from edgesync.errors import PeerSilentError, ProtocolError
from edgesync.limits import Limits
from edgesync.replication.replicator import DeadlinePassed, FramesReceived, Resumed
from tests.loopback import Message, PassiveEnd
from tests.replication.conftest import Fixture

BOTH = ("field.meters", "field.trucks")


def error(reply: Message | None) -> tuple[str, int, str]:
    """Return domain, code and text of an error reply."""
    assert reply is not None
    assert reply.head.is_error, reply
    return reply.head.error_domain, reply.head.error_code, reply.body.decode()


def get_collections(end: PassiveEnd, *names: str) -> Message | None:
    body = {"checkpoint_ids": [f"cp-{name}" for name in names], "collections": list(names)}
    return end.request("getCollections", json.dumps(body).encode())


def test_unknown_profile_is_404_in_the_words_that_clients_know(fixture: Fixture) -> None:
    assert error(fixture.end().request("getEverything")) == ("BLIP", 404, "no handler for message")


def test_ping_is_answered_in_any_mode(fixture: Fixture) -> None:
    end = fixture.end()
    reply = end.request("PING")
    assert reply is not None
    assert not reply.head.is_error
    assert get_collections(end, "_default") is not None  # the mode is still open


def test_legacy_session_never_names_a_collection(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("getCheckpoint", client="cp-A")
    end.request("subChanges")
    assert [m.properties for m in end.requests("changes")] == [{"Profile": "changes"}] * 2


def test_collection_property_in_a_legacy_session_is_refused(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("getCheckpoint", client="cp-A")
    assert error(end.request("subChanges", collection="0")) == (
        "HTTP",
        400,
        "inappropriate use of the collection property.",
    )


def test_collection_property_before_get_collections_is_refused(fixture: Fixture) -> None:
    reply = fixture.end().request("subChanges", collection="0")
    assert error(reply)[:2] == ("HTTP", 400)


def test_missing_collection_property_is_refused_after_get_collections(fixture: Fixture) -> None:
    end = fixture.end()
    get_collections(end, "_default")
    assert error(end.request("subChanges"))[:2] == ("HTTP", 400)


@pytest.mark.parametrize("index", ["1", "-1", "x", ""])
def test_index_out_of_range_is_refused(fixture: Fixture, index: str) -> None:
    end = fixture.end()
    get_collections(end, "_default")
    assert error(end.request("getCheckpoint", client="cp-A", collection=index)) == (
        "HTTP",
        400,
        "the collection property is out of range.",
    )


def test_set_checkpoint_refuses_a_bad_collection_in_domain_blip(fixture: Fixture) -> None:
    end = fixture.end()
    get_collections(end, "_default")
    reply = end.request("setCheckpoint", b"{}", client="cp-A", rev="", collection="7")
    assert error(reply)[:2] == ("BLIP", 400)


def test_legacy_client_is_refused_where_the_default_collection_is_not_offered(
    fixture: Fixture,
) -> None:
    fixture.store.create_collections(BOTH)
    end = fixture.end(collections=BOTH)
    assert error(end.request("getCheckpoint", client="cp-A")) == (
        "BLIP",
        400,
        "This server is not configured for 3.0 client support",
    )


def test_get_collections_must_come_first(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("getCheckpoint", client="cp-A")
    assert error(get_collections(end, "_default")) == (
        "BLIP",
        400,
        "Invalid getCollections message: not the first message",
    )


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"[]", "no root"),
        (b"nonsense", "no root"),
        (b'{"collections":["_default"]}', "no checkpoint_ids"),
        (b'{"checkpoint_ids":["cp-A"]}', "no collections"),
        (b'{"checkpoint_ids":[],"collections":[]}', "no collections"),
        (
            b'{"checkpoint_ids":["cp-A"],"collections":["a","b"]}',
            "mismatched checkpoint_ids and collections",
        ),
        (b'{"checkpoint_ids":["cp-A"],"collections":[7]}', "empty collection path"),
        (b'{"checkpoint_ids":["cp-A"],"collections":[""]}', "empty collection path"),
        (
            b'{"checkpoint_ids":["cp-A","cp-B"],"collections":["_default","_default._default"]}',
            "duplicate collection path",
        ),
    ],
)
def test_malformed_get_collections(fixture: Fixture, body: bytes, what: str) -> None:
    reply = fixture.end().request("getCollections", body)
    assert error(reply) == ("BLIP", 400, f"Invalid getCollections message: {what}")


def test_collection_that_is_not_offered_is_null_and_ends_the_session(fixture: Fixture) -> None:
    fixture.store.create_collections(BOTH)
    end = fixture.end(collections=BOTH)
    reply = get_collections(end, "field.meters", "field.none")
    assert reply is not None
    assert json.loads(reply.body) == [{}, None]
    assert error(end.request("subChanges", collection="0"))[:2] == ("HTTP", 400)


def test_get_collections_returns_the_checkpoints_with_their_revisions(fixture: Fixture) -> None:
    fixture.store.create_collections(BOTH)
    end = fixture.end(collections=BOTH)
    end.request("PING")
    get_collections(end, *BOTH)
    end.request("setCheckpoint", b'{"local":5}', client="cp-field.trucks", rev="", collection="1")
    reply = get_collections(fixture.end(collections=BOTH), *BOTH)
    assert reply is not None
    entries = json.loads(reply.body)
    assert entries[0] == {}
    assert entries[1]["local"] == 5
    assert entries[1]["rev"]


def test_default_scope_may_be_left_out(fixture: Fixture) -> None:
    fixture.store.create_collections(["_default.notes"])
    end = fixture.end(collections=["_default.notes", DEFAULT_COLLECTION])
    reply = get_collections(end, "notes", "_default._default")
    assert reply is not None
    assert json.loads(reply.body) == [{}, {}]


def test_messages_carry_the_collection_index(fixture: Fixture) -> None:
    fixture.store.create_collections(BOTH)
    fixture.put("truck", "1-aa", collection="field.trucks")
    end = fixture.end(collections=BOTH)
    get_collections(end, *BOTH)
    end.request("subChanges", collection="1")
    offer = end.requests("changes")[0]
    assert offer.properties["collection"] == "1"
    end.answer(offer, b"[[]]")
    assert end.requests("rev")[0].properties["collection"] == "1"


def test_read_only_refuses_pushes_in_the_words_that_clients_know(fixture: Fixture) -> None:
    end = fixture.end(read_only=True)
    for profile in ("proposeChanges", "changes", "rev"):
        assert error(end.request(profile, b'[["a","1-aa",""]]')) == (
            "HTTP",
            403,
            "Attempting to push to a pull-only replicator",
        )
    assert end.request("proposeChanges", b"[]", noreply=True) is None
    reply = end.request("subChanges")
    assert reply is not None
    assert not reply.head.is_error


def test_silent_peer_is_given_up(fixture: Fixture) -> None:
    fixture.put("doc", "1-aa")
    end = fixture.end()
    end.request("subChanges")
    deadline = end.replicator.next_deadline()
    assert deadline is not None
    end.now = deadline - 1
    end.receive(DeadlinePassed())
    end.now = deadline
    with pytest.raises(PeerSilentError):
        end.receive(DeadlinePassed())


def test_idle_peer_has_no_deadline(fixture: Fixture) -> None:
    end = fixture.end()
    end.request("subChanges", continuous="true")
    assert end.replicator.next_deadline() is None
    assert not end.replicator.is_active


def test_too_many_half_sent_bodies_end_the_connection(fixture: Fixture) -> None:
    limits = Limits(max_buffered_bytes=100_000, max_document_bytes=90_000)
    end = fixture.end(limits=limits)
    for number in range(5):
        message = end.client.send_request({"Profile": "rev", "id": f"doc-{number}"}, bytes(80_000))
        assert message is not None
    with pytest.raises(ProtocolError):
        end.run()


def test_document_above_the_limit_is_413_and_the_session_goes_on(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_document_bytes=50_000))
    body = json.dumps({"text": "x" * 60_000}).encode()
    assert error(end.request("rev", body, id="large", rev="1-aa", sequence="1"))[:2] == (
        "HTTP",
        413,
    )
    reply = end.request("rev", b'{"n":1}', id="small", rev="1-bb", sequence="2")
    assert reply is not None
    assert not reply.head.is_error


# --- many frames at once -----------------------------------------------------------------


def frames_of_revs(end: PassiveEnd, count: int, size: int = 1) -> list[bytes]:
    """Return the frames of that many revisions, each of one frame."""
    for number in range(count):
        body = b'{"x":"%s"}' % (b"y" * size)
        properties = {"Profile": "rev", "id": f"doc-{number}", "rev": "1-aa", "sequence": "1"}
        end.client.send_request(properties, body)
    frames = [end.client.frame_to_send() for _ in range(count)]
    assert end.client.frame_to_send() is None
    return [frame for frame in frames if frame is not None]


def test_frames_that_came_together_are_all_taken(fixture: Fixture) -> None:
    end = fixture.end()
    end.receive(FramesReceived(frames_of_revs(end, 50)))
    end.run()
    assert end.replicator.revisions_in == 50
    assert len(end.received) == 50


def test_frames_wait_while_too_much_waits_for_the_store(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_unanswered_bytes=3000))
    frames = frames_of_revs(end, 10, 1000)
    end.replicator.receive(FramesReceived(frames), 0.0)
    assert end.replicator.has_backlog
    assert len(end.replicator.store_calls()) == 3
    end.replicator.receive(Resumed(), 0.0)
    assert end.replicator.store_calls() == []


def test_no_more_frames_are_taken_before_the_last_ones(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_unanswered_bytes=500))
    frames = frames_of_revs(end, 3, 1000)
    end.replicator.receive(FramesReceived(frames[:2]), 0.0)
    with pytest.raises(RuntimeError):
        end.replicator.receive(FramesReceived(frames[2:]), 0.0)


def test_others_have_their_turn_after_some_hundred_frames(fixture: Fixture) -> None:
    end = fixture.end()
    end.replicator.receive(FramesReceived(frames_of_revs(end, 300)), 0.0)
    assert end.replicator.has_backlog
    end.replicator.receive(Resumed(), 0.0)
    assert not end.replicator.has_backlog


def test_all_frames_before_a_broken_one_count(fixture: Fixture) -> None:
    end = fixture.end()
    frames = [*frames_of_revs(end, 3), b"\xff"]
    with pytest.raises(ProtocolError):
        end.replicator.receive(FramesReceived(frames), 0.0)
    assert len(end.replicator.store_calls()) == 3
