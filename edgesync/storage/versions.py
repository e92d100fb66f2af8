"""Give every revision a version vector, whoever made it. Spec: documents.md §9.6."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from typing import Final

from edgesync.documents.hybrid_clock import HybridClock, is_too_far_ahead
from edgesync.documents.rev_id import RevID, generation
from edgesync.documents.version_vector import (
    Version,
    VersionVector,
    edited,
    parse_vector,
    source_id,
)
from edgesync.errors import ClockBehindError
from edgesync.limits import Limits
from edgesync.storage.schema import read_info, write_info

NS: Final = 1_000_000_000
YEAR_S: Final = 366 * 86_400.0
RELEASED_AT_S: Final = 1_795_000_000
"""A clock before this release (November 2026) is wrong."""
FILLED_AT_A_TIME: Final = 1000


class Versions:
    """The database's own source, and its hybrid clock, which is saved with each commit.

    Attributes:
        source: Names this database in version vectors.
    """

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float], limits: Limits
    ) -> None:
        """Read the source and where the clock stands.

        Args:
            connection: The writer's.
            clock: Returns seconds since 1970.
            limits: `max_clock_skew_s` counts.
        """
        self._connection = connection
        self._clock = clock
        self._max_skew_s = limits.max_clock_skew_s
        random_bytes, last = read_info(connection, "source_id"), read_info(connection, "clock")
        assert isinstance(random_bytes, bytes)
        assert isinstance(last, int)
        self.source = source_id(random_bytes)
        self._hybrid = HybridClock(last)
        self._saved = last
        # What the clock has shown at the latest, as far as we know.
        self._reached_ns = max(last, RELEASED_AT_S * NS)

    def _now_ns(self) -> int:
        now_ns = int(self._clock() * NS)
        self._reached_ns = max(self._reached_ns, now_ns)
        return now_ns

    def next(self, vector: str | None) -> str:
        """Return the vector of an edit of ours, or of a client without vectors.

        Args:
            vector: Of the revision that is edited; None for a new document.
        """
        time = self._hybrid.tick(self._now_ns())
        if vector is None or vector.partition("@")[2] == self.source:  # nobody else's edits
            return f"{time:x}@{self.source}"
        return str(edited(parse_vector(vector), Version(time, self.source)))

    def admit(self, doc_id: str, vector: VersionVector) -> None:
        """Take note of a peer's times, unless they are from the future.

        A clock that has gone back, or stands before the making of this program, is wrong,
        as on a board that has no battery and no network: the clients' clocks are better.
        Then the bound is a year after the latest that the clock has shown. What a peer
        says never moves the bound, or by one step after the other it could lead anywhere.

        Raises:
            ClockBehindError: A time is further ahead than `max_clock_skew_s`.

        Spec: documents.md §9.1.
        """
        now_ns = self._now_ns()
        latest = vector.latest_time
        if is_too_far_ahead(self._reached_ns, now_ns, self._max_skew_s):
            is_refused = is_too_far_ahead(latest, self._reached_ns, YEAR_S)
        else:
            is_refused = is_too_far_ahead(latest, now_ns, self._max_skew_s)
        if is_refused:
            raise ClockBehindError(doc_id, (latest - now_ns) / NS)
        self._hybrid.see(latest)

    def save(self) -> None:
        """Write where the clock stands, at the end of a transaction."""
        if self._hybrid.last > self._saved:
            write_info(self._connection, "clock", self._hybrid.last)

    def publish(self) -> None:
        """Note that it is durable."""
        self._saved = self._hybrid.last

    def ahead_s(self) -> float:
        """Return how far what was given out is ahead of the clock; any thread may ask.

        Spec: documents.md §9.1.
        """
        return max(0.0, self._saved / NS - self._clock())

    def fill(self) -> None:
        """Give vectors to the documents of a database from before there were any.

        Before a client with vectors may see them: it must never be given a tree ID.

        Spec: documents.md §9.5.
        """
        connection = self._connection
        if not read_info(connection, "lacks_vectors"):
            return
        while rows := connection.execute(
            "SELECT id FROM document WHERE vector IS NULL ORDER BY sequence LIMIT ?",
            (FILLED_AT_A_TIME,),
        ).fetchall():
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE document SET vector = ? WHERE id = ?",
                [(self.next(None), document) for (document,) in rows],
            )
            self.save()
            connection.execute("COMMIT")
            self.publish()
        write_info(connection, "lacks_vectors", 0)


def tree_id_for(vector: VersionVector, parent: RevID | None) -> RevID:
    """Return the tree ID of a revision that came as a version. Spec: documents.md §9.6."""
    digest = hashlib.sha1(f"{vector.current} {parent or ''}".encode(), usedforsecurity=False)
    return RevID(f"{generation(parent) + 1 if parent else 1}-{digest.hexdigest()}")
