"""Changes feeds: what changed since, and what changes from now on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import falcon
import gevent
import orjson
from gevent.event import Event

from edgesync import Change, Collection
from edgesync.api.box import Box
from edgesync.api.documents import Application, with_metadata
from edgesync.api.requests import JSON, JSON_LINES, choice, encoded, flag, number
from edgesync.api.statuses import refusal
from edgesync.errors import EdgeSyncError
from edgesync.limits import Limits

HEARTBEAT_MS: Final = 30_000
MIN_HEARTBEAT_MS: Final = 1_000
LONGPOLL_MS: Final = 60_000
PAGE_BYTES: Final = 64 * 1024
NEWEST: Final = 2**62
Feed = Literal["normal", "longpoll", "continuous"]
FEEDS: Final[tuple[Feed, ...]] = ("normal", "longpoll", "continuous")


def add_routes(application: Application, box: Box, limits: Limits) -> None:
    """Add the paths of this module."""
    application.add_route("/{keyspace}/_changes", _Changes(box, limits))


@dataclass(frozen=True, slots=True)
class _Query:
    """What a client wants to know."""

    since: int
    limit: int
    include_docs: bool
    heartbeat_s: float
    """A newline after this silence shows that the feed lives, and finds out who has gone."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class _Changes:
    box: Box
    limits: Limits

    def on_get(self, request: falcon.Request, response: falcon.Response, keyspace: str) -> None:
        collection = self.box.collection(keyspace)
        feed = choice(request, "feed", FEEDS, "normal")
        query = self._query(request, collection)
        if feed == "continuous":
            response.content_type = JSON_LINES
            response.stream = _continuous(collection, query)
            return
        wait_s = query.timeout_s if feed == "longpoll" else 0.0
        response.content_type = JSON
        response.stream = _results(collection, query, wait_s)

    def _query(self, request: falcon.Request, collection: Collection) -> _Query:
        now = request.params.get("since") == "now"
        heartbeat_ms = max(MIN_HEARTBEAT_MS, number(request, "heartbeat", HEARTBEAT_MS))
        timeout_ms = number(request, "timeout", LONGPOLL_MS)
        return _Query(
            collection.last_sequence if now else number(request, "since", 0),
            number(request, "limit", NEWEST) or NEWEST,
            flag(request, "include_docs"),
            heartbeat_ms / 1000,
            min(timeout_ms / 1000, self.limits.max_feed_wait_s),
        )


def _row(collection: Collection, change: Change, query: _Query) -> bytes:
    row: dict[str, object] = {
        "seq": change.sequence,
        "id": change.doc_id,
        "changes": [{"rev": change.rev_id}],
    }
    if change.deleted:
        row["deleted"] = True
    if query.include_docs:
        document = None if change.deleted else collection.get(change.doc_id)
        row["doc"] = (
            with_metadata(document)
            if document is not None
            else {"_id": change.doc_id, "_rev": change.rev_id, "_deleted": True}
        )
    return orjson.dumps(row)


def _results(collection: Collection, query: _Query, wait_s: float) -> Iterator[bytes]:
    """Yield the changes as one JSON object; wait for the first one if there is none."""
    yield b'{"results":['
    last, separator = query.since, b"\n"
    piece = bytearray()
    for change in _first_changes(collection, query, wait_s):
        if change is None:
            yield b"\n"
            continue
        piece += separator + _row(collection, change, query)
        last, separator = change.sequence, b",\n"
        if len(piece) > PAGE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b'\n],"last_seq":%d}\n' % last


def _first_changes(collection: Collection, query: _Query, wait_s: float) -> Iterator[Change | None]:
    """Yield the changes that there are, after waiting until there is one; None: a heartbeat."""
    with _Alarm(collection) as alarm:
        deadline = alarm.now() + wait_s
        while True:
            alarm.clear()
            found = False
            for change in islice(collection.changes(query.since), query.limit):
                found = True
                yield change
            left = deadline - alarm.now()
            if found or left <= 0:
                return
            if not alarm.wait(min(query.heartbeat_s, left)):
                yield None


def _continuous(collection: Collection, query: _Query) -> Iterator[bytes]:
    """Yield a line for each change, for ever."""
    since, left = query.since, query.limit
    try:
        with _Alarm(collection) as alarm:
            yield b"\n"  # with it go the headers: the feed is on
            while collection.database.is_open:
                alarm.clear()
                for change in islice(collection.changes(since), left):
                    yield _row(collection, change, query) + b"\n"
                    since, left = change.sequence, left - 1
                if left <= 0:
                    return
                if not alarm.wait(query.heartbeat_s):
                    yield b"\n"
    except EdgeSyncError as error:
        yield encoded(refusal(error)[1])


class _Alarm:
    """Rings when something in a collection changes."""

    def __init__(self, collection: Collection) -> None:
        self._event = Event()
        self._forget = collection.add_change_listener(lambda _changes: self._event.set())

    def __enter__(self) -> _Alarm:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._forget()

    def now(self) -> float:
        now: float = gevent.get_hub().loop.now()
        return now

    def clear(self) -> None:
        self._event.clear()

    def wait(self, timeout_s: float) -> bool:
        return self._event.wait(timeout_s)
