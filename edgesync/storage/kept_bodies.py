"""Bodies of revisions that were current once, to make deltas from. Spec: documents.md §2, §8."""

from __future__ import annotations

import sqlite3
from typing import Final

from edgesync.documents.store_calls import DeltaBase
from edgesync.limits import Limits

_KEEP: Final = """INSERT OR REPLACE INTO kept_body (document, rev_id, version, body_bytes, body)
    SELECT id, rev_id, ?, body_bytes, body FROM document WHERE id = ? AND deleted = 0"""
_DROP_OLD: Final = """DELETE FROM kept_body WHERE document = ? AND id NOT IN
    (SELECT id FROM kept_body WHERE document = ? ORDER BY id DESC LIMIT ?)"""
_DROP_OLDEST: Final = """DELETE FROM kept_body WHERE id IN
    (SELECT id FROM kept_body ORDER BY id LIMIT 100)"""


class KeptBodies:
    """The writer's side: keep what is replaced, within a budget.

    Attributes:
        is_wanted: Whether anybody takes deltas; without, a card need not wear for them.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self.is_wanted = False
        self._connection = connection
        self._limits = limits
        self._bytes = self._count()

    def keep(self, document: int, vector: str, body_bytes: int) -> None:
        """Keep the body of a document's current revision, which is about to be replaced."""
        limits, execute = self._limits, self._connection.execute
        is_fit = limits.min_delta_body_bytes <= body_bytes <= limits.max_delta_body_bytes
        if not (self.is_wanted and is_fit):
            return
        version = vector.partition(";")[0].partition(",")[0]
        execute(_KEEP, (version, document))
        execute(_DROP_OLD, (document, document, limits.max_kept_bodies))
        self._bytes += body_bytes
        if self._bytes > limits.max_kept_body_bytes:
            self._stay_within_budget()

    def forget(self, document: int) -> None:
        """Drop the bodies of a document that is purged."""
        self._connection.execute("DELETE FROM kept_body WHERE document = ?", (document,))

    def _stay_within_budget(self) -> None:
        """Count what is really there; if it is too much, make room for a while."""
        self._bytes = self._count()
        if self._bytes <= self._limits.max_kept_body_bytes:
            return
        while self._bytes > self._limits.max_kept_body_bytes // 2:
            self._connection.execute(_DROP_OLDEST)
            self._bytes = self._count()

    def _count(self) -> int:
        (total,) = self._connection.execute(
            "SELECT coalesce(sum(body_bytes), 0) FROM kept_body"
        ).fetchone()
        return int(total)


def find_base(
    connection: sqlite3.Connection, document: int, known: frozenset[str]
) -> DeltaBase | None:
    """Return the newest kept revision of a document that is among those known to a peer."""
    rows = connection.execute(
        "SELECT rev_id, version, CAST(body AS BLOB) FROM kept_body WHERE document = ?"
        " ORDER BY id DESC",
        (document,),
    )
    for rev_id, version, body in rows:
        for rev in (version, rev_id):
            if rev in known:
                return DeltaBase(rev, body)
    return None
