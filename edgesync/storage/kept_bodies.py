"""Bodies of revisions that were current once, to make deltas from. Spec: documents.md §2, §8.

Only their text: what a delta makes of one is a body of its own, and its blobs are
asked for. So nothing here keeps a blob from being removed.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from edgesync.documents.store_calls import DeltaBase
from edgesync.limits import Limits

MAX_ID: Final = 2**63 - 1  # SQLite's largest integer

_KEEP: Final = """INSERT OR REPLACE INTO kept_body (document, rev_id, version, body_bytes, body)
    SELECT id, rev_id, ?, body_bytes, body FROM document WHERE id = ? AND deleted = 0"""
_DROP_OLD: Final = """DELETE FROM kept_body WHERE document = ? AND id NOT IN
    (SELECT id FROM kept_body WHERE document = ? ORDER BY id DESC LIMIT ?)"""
_NEWEST_FIRST: Final = "SELECT id, body_bytes FROM kept_body ORDER BY id DESC"


class KeptBodies:
    """The writer's side: keep what is replaced, within a budget.

    Attributes:
        is_wanted: Whether anybody takes deltas; without, a card need not wear for them.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self.is_wanted = False
        self._execute = connection.cursor().execute
        self._limits = limits
        # At least what there is: what is dropped is not subtracted. None: not counted yet.
        self._bytes: int | None = None

    def keep(self, document: int, vector: str, body_bytes: int) -> None:
        """Keep the body of a document's current revision, which is about to be replaced."""
        limits = self._limits
        is_fit = limits.min_delta_body_bytes <= body_bytes <= limits.max_delta_body_bytes
        if not (self.is_wanted and is_fit):
            return
        self._execute(_KEEP, (current_version(vector), document))
        self._execute(_DROP_OLD, (document, document, limits.max_kept_bodies))
        if self._bytes is not None:
            self._bytes += body_bytes
        if self._bytes is None or self._bytes > limits.max_kept_body_bytes:
            self._stay_within_budget()

    def forget(self, document: int) -> None:
        """Drop the bodies of a document that is purged."""
        self._execute("DELETE FROM kept_body WHERE document = ?", (document,))

    def roll_back(self) -> None:
        """Count anew, as what was dropped may be back."""
        self._bytes = None

    def _stay_within_budget(self) -> None:
        """Count what there is; if it is a lot, drop the older ones, so as not to count often."""
        budget = self._limits.max_kept_body_bytes
        total = fitting = 0
        oldest_fitting = MAX_ID
        for number, body_bytes in self._execute(_NEWEST_FIRST):
            total += body_bytes
            if total <= budget // 2:
                fitting, oldest_fitting = total, number
        if total > budget * 3 // 4:
            self._execute("DELETE FROM kept_body WHERE id < ?", (oldest_fitting,))
            total = fitting
        self._bytes = total


def find_base(
    connection: sqlite3.Connection, document: int, known: frozenset[str]
) -> DeltaBase | None:
    """Return the newest kept revision of a document that is among those known to a peer."""
    rows = connection.execute(
        "SELECT id, version, rev_id FROM kept_body WHERE document = ? ORDER BY id DESC",
        (document,),
    ).fetchall()
    for number, *names in rows:
        for rev in names:
            if rev in known:
                return _base(connection, number, rev)
    return None


def _base(connection: sqlite3.Connection, number: int, rev: str) -> DeltaBase | None:
    row = connection.execute(
        "SELECT CAST(body AS BLOB) FROM kept_body WHERE id = ?", (number,)
    ).fetchone()
    return DeltaBase(rev, row[0]) if row else None  # a commit may have dropped it meanwhile


def current_version(vector: str) -> str:
    """Return the first version of a vector that we have written ourselves."""
    return vector.partition(";")[0].partition(",")[0]
