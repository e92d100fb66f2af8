"""A session that is cut off leaves nothing behind that waits for the garbage collector."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from edgesync.errors import ProtocolError
from edgesync.replication.replicator import FramesReceived
from tests.loopback import PassiveEnd
from tests.replication.conftest import Fixture
from tests.replication.test_incoming_revs import blob, push
from tests.replication.test_outgoing_revs import want_all

PARTS = ("edgesync.replication.", "edgesync.blip.connection.")
Cut = Callable[[Fixture, PassiveEnd], None]


def while_offered(fixture: Fixture, end: PassiveEnd) -> None:
    for number in range(500):
        fixture.put(f"doc-{number}", "1-aa")
    end.request("subChanges", continuous="true")
    assert end.requests("changes")


def while_revisions_are_sent(fixture: Fixture, end: PassiveEnd) -> None:
    while_offered(fixture, end)
    want_all(end)
    assert end.requests("rev")  # not one of them is answered


def while_live(_fixture: Fixture, end: PassiveEnd) -> None:
    end.request("subChanges", continuous="true")
    push(end, "doc", "1-aa")


def while_blobs_are_fetched(_fixture: Fixture, end: PassiveEnd) -> None:
    for number in range(50):
        push(end, f"photo-{number}", "1-aa", json.dumps(blob(bytes((number,)))).encode())
    assert end.requests("getAttachment")


def after_a_blob_was_fetched(_fixture: Fixture, end: PassiveEnd) -> None:
    push(end, "photo", "1-aa", json.dumps(blob(b"content")).encode())
    end.answer(end.requests("getAttachment")[0], b"content")


def while_a_blob_is_read(fixture: Fixture, end: PassiveEnd) -> None:
    other = fixture.end()
    content = bytes(300_000)
    wanted = blob(content)
    push(other, "photo", "1-aa", json.dumps(wanted).encode())
    other.answer(other.requests("getAttachment")[0], content)
    finish(other)
    request = {"Profile": "getAttachment", "digest": str(wanted["digest"]), "docID": "photo"}
    end.client.send_request(request)
    frame = end.client.frame_to_send()
    assert frame is not None
    end.receive(FramesReceived((frame,)))


def while_frames_are_taken(_fixture: Fixture, end: PassiveEnd) -> None:
    end.client.send_request({"Profile": "rev", "id": "doc", "rev": "1-aa"}, bytes(100_000))
    frame = end.client.frame_to_send()
    assert frame is not None
    end.receive(FramesReceived((frame,)))  # the first of several


def after_a_frame_against_the_rules(_fixture: Fixture, end: PassiveEnd) -> None:
    end.client.send_request({"Profile": "getCheckpoint", "client": "cp"})
    frame = end.client.frame_to_send()
    assert frame is not None
    with pytest.raises(ProtocolError):
        end.receive(FramesReceived((frame[:-1] + bytes((frame[-1] ^ 1,)),)))


def finish(end: PassiveEnd) -> None:
    end.close()
    del end.replicator, end.client


def parts() -> Counter[str]:
    """Count what replicators and connections consist of."""
    names = (f"{type(each).__module__}.{type(each).__name__}" for each in gc.get_objects())
    return Counter(name for name in names if name.startswith(PARTS))


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "cut",
    [
        while_offered,
        while_revisions_are_sent,
        while_live,
        while_blobs_are_fetched,
        after_a_blob_was_fetched,
        while_a_blob_is_read,
        while_frames_are_taken,
        after_a_frame_against_the_rules,
    ],
)
def test_session_that_is_cut_off_is_freed_at_once(fixture: Fixture, cut: Cut) -> None:
    before = parts()
    end = fixture.end()
    cut(fixture, end)
    assert parts() - before
    finish(end)
    assert parts() - before == Counter()
