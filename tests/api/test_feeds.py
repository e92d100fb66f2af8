"""Changes feeds of the local API."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import sync
from tests.api.box import Box


@contextmanager
def feed(box: Box, query: str) -> Iterator[HTTPResponse]:
    connection = box.connection()
    try:
        connection.request("GET", f"/db/_changes?{query}")
        yield connection.getresponse()
    finally:
        connection.close()


def next_row(response: HTTPResponse) -> dict[str, Any]:
    """Return the next line that says something."""
    while not (line := response.readline()).strip():
        assert line, "the feed has ended"
    row: dict[str, Any] = json.loads(line)
    return row


def newest(box: Box) -> int:
    return int(box.ask("GET", "/db/_changes").json["last_seq"])


def after(seconds: float, box: Box, path: str) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: box.ask("PUT", path, {"n": 1}))
    timer.start()
    return timer


def test_changes_come_in_their_order_with_their_revisions(box: Box) -> None:
    since = newest(box)
    revs = [box.ask("PUT", f"/db/order-{n}", {"n": n}).json["rev"] for n in range(3)]
    reply = box.ask("GET", f"/db/_changes?since={since}").json
    assert [row["id"] for row in reply["results"]] == ["order-0", "order-1", "order-2"]
    assert [row["changes"][0]["rev"] for row in reply["results"]] == revs
    assert reply["last_seq"] == reply["results"][-1]["seq"]


def test_a_page_ends_at_the_limit_and_goes_on_from_there(box: Box) -> None:
    since = newest(box)
    docs = [{"_id": f"limit-{n:03}"} for n in range(250)]
    box.ask("POST", "/db/_bulk_docs", {"docs": docs})
    first = box.ask("GET", f"/db/_changes?since={since}&limit=210").json
    rest = box.ask("GET", f"/db/_changes?since={first['last_seq']}").json
    found = [row["id"] for row in first["results"] + rest["results"]]
    assert found == [doc["_id"] for doc in docs]


def test_bodies_come_if_they_are_asked_for(box: Box) -> None:
    since = newest(box)
    rev = box.ask("PUT", "/db/with-body", {"n": 7}).json["rev"]
    (row,) = box.ask("GET", f"/db/_changes?since={since}&include_docs=true").json["results"]
    assert row["doc"] == {"_id": "with-body", "_rev": rev, "n": 7}


def test_a_deletion_is_marked(box: Box) -> None:
    rev = box.ask("PUT", "/db/deleted", {"n": 7}).json["rev"]
    since = newest(box)
    box.ask("DELETE", f"/db/deleted?rev={rev}")
    (row,) = box.ask("GET", f"/db/_changes?since={since}&include_docs=true").json["results"]
    assert row["deleted"]
    assert row["doc"]["_deleted"]


def test_longpoll_answers_at_once_when_there_is_something(box: Box) -> None:
    since = newest(box)
    box.ask("PUT", "/db/there", {"n": 1})
    began = time.monotonic()
    reply = box.ask("GET", f"/db/_changes?feed=longpoll&since={since}").json
    assert [row["id"] for row in reply["results"]] == ["there"]
    assert time.monotonic() - began < 2


def test_longpoll_waits_for_the_next_change(box: Box) -> None:
    timer = after(0.3, box, "/db/awaited")
    reply = box.ask("GET", "/db/_changes?feed=longpoll&since=now").json
    timer.join()
    assert [row["id"] for row in reply["results"]] == ["awaited"]


def test_longpoll_ends_with_its_time(box: Box) -> None:
    since = newest(box)
    began = time.monotonic()
    reply = box.ask("GET", f"/db/_changes?feed=longpoll&since={since}&timeout=300").json
    assert reply == {"results": [], "last_seq": since}
    assert 0.2 < time.monotonic() - began < 3


def test_continuous_tells_of_each_change_as_it_happens(box: Box) -> None:
    with feed(box, "feed=continuous&since=now") as response:
        for number in range(3):
            box.ask("PUT", f"/db/live-{number}", {"n": number})
            began = time.monotonic()
            assert next_row(response)["id"] == f"live-{number}"
            assert time.monotonic() - began < 1


def test_continuous_begins_with_what_was_missed(box: Box) -> None:
    since = newest(box)
    box.ask("PUT", "/db/missed", {"n": 1})
    with feed(box, f"feed=continuous&since={since}") as response:
        assert next_row(response)["id"] == "missed"


def test_continuous_ends_at_its_limit(box: Box) -> None:
    since = newest(box)
    box.ask("PUT", "/db/the-last-of-it", {"n": 1})
    with feed(box, f"feed=continuous&since={since}&limit=1") as response:
        assert len(response.read().split()) == 1


def test_a_silent_feed_shows_that_it_lives(box: Box) -> None:
    with feed(box, "feed=continuous&since=now&heartbeat=1000") as response:
        assert [response.readline() for _ in range(2)] == [b"\n", b"\n"]


def test_what_a_client_pushes_is_in_the_feed(box: Box) -> None:
    client = PeerDatabase()
    client.save("pushed-by-client", {"n": 1})
    with feed(box, "feed=continuous&since=now&include_docs=true") as response:
        sync(client, box.url, pull=False)
        row = next_row(response)
    assert (row["id"], row["doc"]["n"]) == ("pushed-by-client", 1)


@pytest.mark.parametrize("query", ["feed=fast", "since=x", "since=-1", "timeout=soon"])
def test_a_wrong_parameter_is_named(box: Box, query: str) -> None:
    reply = box.ask("GET", f"/db/_changes?{query}")
    assert reply.status == 400
    assert query.partition("=")[0] in reply.json["reason"]


def test_a_feed_does_not_keep_the_service_from_ending(tmp_path_factory: object) -> None:
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    with Box(tmp_path_factory.mktemp("box")) as box, feed(box, "feed=continuous&since=now"):
        began = time.monotonic()
        assert box.stop() == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in box.log
