"""Sequences, given out by the writer, and the changes feed that follows them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from edgesync.documents.store_calls import Change, ChangesPage, Committed, ReadChanges
from edgesync.storage.schema import read_info, write_info

MAX_SEQUENCE: Final = 2**63 - 1  # SQLite's largest integer
MAX_IDS_LOOKED_UP: Final = 500
"""A filter of more documents is cheaper applied to the feed than looked up one by one."""
PAGES_SCANNED: Final = 10
"""How many pages a filtered feed looks through for one; then others have their turn."""

# A page comes as one row of JSON: each row that SQLite steps to gives Python's lock away.
_FEED: Final = """SELECT json_group_array(json_array(sequence, doc_id, rev_id, deleted, body_bytes,
    vector)) FROM (SELECT sequence, doc_id, rev_id, deleted, body_bytes, vector FROM document
    WHERE collection = ? AND sequence > ? AND (expires_at IS NULL OR expires_at > ?)
    ORDER BY sequence LIMIT ?)"""
_ACTIVE_FEED: Final = """SELECT json_group_array(json_array(sequence, doc_id, rev_id, deleted,
    body_bytes, vector)) FROM (SELECT sequence, doc_id, rev_id, deleted, body_bytes, vector
    FROM document WHERE collection = ? AND sequence > ? AND deleted = 0
        AND (expires_at IS NULL OR expires_at > ?)
    ORDER BY sequence LIMIT ?)"""
_BY_ID: Final = """SELECT sequence, doc_id, rev_id, deleted, body_bytes, vector FROM document
    WHERE collection = ? AND doc_id = ? AND sequence > ?
        AND (expires_at IS NULL OR expires_at > ?)"""


class Sequences:
    """The counter of changes: one for the database, rising, never given out twice.

    A transaction that is rolled back leaves a gap, so not even a commit that
    failed half-way can lead to a sequence with two meanings.

    Spec: documents.md §10; replication.md §2.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read where the counter stands."""
        self._connection = connection
        last = read_info(connection, "last_sequence")
        assert isinstance(last, int)
        self._last = last
        self._changed: dict[str, int] = {}
        self.committed = last
        """The last sequence that is durable; any thread may look."""

    def take(self, collection: str) -> int:
        """Return the next sequence, for a change of a collection."""
        self._last += 1
        self._changed[collection] = self._last
        return self._last

    def drop(self, collection: str) -> None:
        """Tell nobody of changes of a collection that is deleted."""
        self._changed.pop(collection, None)

    def save(self) -> None:
        """Write the counter, at the end of a transaction."""
        if self._last > self.committed:
            write_info(self._connection, "last_sequence", self._last)

    def publish(self) -> Committed | None:
        """Show readers what was committed; return what changed, None if nothing did."""
        self.committed = self._last
        if not self._changed:
            return None
        committed = Committed(self._changed)
        self._changed = {}
        return committed

    def forget(self) -> None:
        """Drop what the transaction changed."""
        self._changed = {}


class ChangesReader:
    """Read the changes feed, a page at a time. Spec: replication.md §4 steps 3 to 5."""

    def __init__(self, connection: sqlite3.Connection, last_sequence: Callable[[], int]) -> None:
        """Take a connection to read from.

        Args:
            connection: Of the reading thread.
            last_sequence: Returns the last durable sequence of the database.
        """
        self._connection = connection
        self._last_sequence = last_sequence

    def read(self, call: ReadChanges, collection: int, now: float) -> ChangesPage:
        """Return the changes after a sequence.

        Args:
            call: What is wanted; `since` may be any integer.
            collection: Its number.
            now: Seconds since 1970: what has expired is left out.
        """
        # Read first: what is committed by now, the feed below shows.
        last = self._last_sequence()
        since = min(max(call.since, 0), MAX_SEQUENCE)
        if call.doc_ids is None:
            rows = self._feed(call, collection, since, now, call.limit)
            return _page(rows, call.limit, last)
        if len(call.doc_ids) <= MAX_IDS_LOOKED_UP:
            return _page(self._look_up(call, collection, since, now), call.limit, last)
        return self._filtered(call, collection, since, now, last)

    def _feed(
        self, call: ReadChanges, collection: int, since: int, now: float, limit: int
    ) -> list[Change]:
        """Return one entry more than the limit if there is one."""
        statement = _ACTIVE_FEED if call.active_only else _FEED
        values = collection, since, now, limit + 1
        (page,) = self._connection.execute(statement, values).fetchone()
        changes = _changes(orjson.loads(page))
        changes.sort()  # they are sorted, but SQLite makes no promise
        return changes

    def _look_up(self, call: ReadChanges, collection: int, since: int, now: float) -> list[Change]:
        assert call.doc_ids is not None
        found: list[Change] = []
        for doc_id in call.doc_ids:
            rows = self._connection.execute(_BY_ID, (collection, doc_id, since, now))
            found.extend(_changes(rows))
        found.sort()
        return [change for change in found if not (call.active_only and change.deleted)]

    def _filtered(
        self, call: ReadChanges, collection: int, since: int, now: float, last: int
    ) -> ChangesPage:
        assert call.doc_ids is not None
        scan = call.limit * PAGES_SCANNED
        seen = self._feed(call, collection, since, now, scan)
        wanted = [change for change in seen[:scan] if change.doc_id in call.doc_ids]
        if len(seen) <= scan or len(wanted) > call.limit:
            return _page(wanted, call.limit, last)
        return ChangesPage(tuple(wanted), seen[scan - 1].sequence, False)


def _changes(rows: Iterable[tuple[int, str, str, int, int, str]]) -> list[Change]:
    return [
        Change(sequence, doc_id, rev_id, deleted == 1, body_bytes, vector)  # type: ignore[arg-type]
        for sequence, doc_id, rev_id, deleted, body_bytes, vector in rows
    ]


def _page(changes: list[Change], limit: int, last_sequence: int) -> ChangesPage:
    """Cut a page from all that is left, or from at least one entry more than the limit."""
    if len(changes) > limit:
        page = tuple(changes[:limit])
        return ChangesPage(page, page[-1].sequence, False)
    if changes:  # a commit may have come between
        last_sequence = max(last_sequence, changes[-1].sequence)
    return ChangesPage(tuple(changes), last_sequence, True)
