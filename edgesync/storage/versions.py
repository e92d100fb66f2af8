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
        self.source = source_id(random_bytes)
        self._hybrid = HybridClock(last if isinstance(last, int) else 0)
        self._saved = self._hybrid.last

    def next(self, vector: str | None) -> str:
        """Return the vector of an edit of ours, or of a client without vectors.

        Args:
            vector: Of the revision that is edited; None for a new document.
        """
        time = self._hybrid.tick(int(self._clock() * NS))
        if vector is None:
            return f"{time:x}@{self.source}"
        return str(edited(parse_vector(vector), Version(time, self.source)))

    def admit(self, doc_id: str, vector: VersionVector) -> None:
        """Take note of a peer's times, unless they are from the future.

        A clock that is behind what it has seen, or behind the making of this program, is
        wrong, as on a board that has no battery and no network. Such a clock refuses
        nothing within a year: the clients' clocks are better.

        Raises:
            ClockBehindError: A time is further ahead than `max_clock_skew_s`.

        Spec: documents.md §9.1.
        """
        now_ns = int(self._clock() * NS)
        reference = max(now_ns, self._hybrid.last, RELEASED_AT_S * NS)
        is_wrong = reference > now_ns + int(self._max_skew_s * NS)
        latest = vector.latest_time
        skew_s = max(self._max_skew_s, YEAR_S) if is_wrong else self._max_skew_s
        if is_too_far_ahead(latest, reference, skew_s):
            raise ClockBehindError(doc_id, (latest - reference) / NS)
        self._hybrid.see(latest)

    def save(self) -> None:
        """Write where the clock stands, at the end of a transaction."""
        if self._hybrid.last > self._saved:
            write_info(self._connection, "clock", self._hybrid.last)

    def publish(self) -> None:
        """Note that it is durable."""
        self._saved = self._hybrid.last

    def fill(self) -> None:
        """Give vectors to the documents of a database from before there were any.

        Before a client with vectors may see them: it must never be given a tree ID.

        Spec: documents.md §9.5.
        """
        connection = self._connection
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


def tree_id_for(vector: VersionVector, parent: RevID | None) -> RevID:
    """Return the tree ID of a revision that came as a version. Spec: documents.md §9.6."""
    digest = hashlib.sha1(f"{vector.current} {parent or ''}".encode(), usedforsecurity=False)
    return RevID(f"{generation(parent) + 1 if parent else 1}-{digest.hexdigest()}")
