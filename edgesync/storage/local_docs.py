"""Checkpoints: what clients want kept beside the documents. Spec: replication.md §3.3, §7."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from edgesync.documents.store_calls import Checkpoint, SetCheckpoint
from edgesync.errors import CheckpointConflictError
from edgesync.storage.schema import read_info, write_info

DAY_S: Final = 86_400.0
MAX_UNUSED_S: Final = 90 * DAY_S
"""A client that was away for longer starts over. Spec: replication.md §7.3."""


class Checkpoints:
    """The table of checkpoints; they are no documents and have no sequence.

    To read one is to use it, but costs no write: its ID is only noted, and the use is
    written down later, at most once a day. Time is counted in seconds that the
    database was open.
    """

    def __init__(self, connection: sqlite3.Connection, uptime: Callable[[], float]) -> None:
        """Take the writer's connection.

        Args:
            connection: The writer's.
            uptime: Returns seconds that pass evenly.
        """
        self._connection = connection
        self._uptime = uptime
        served = read_info(connection, "service_s")
        assert isinstance(served, int)
        self._opened_at = uptime() - served
        self._read: set[str] = set()

    def note_use(self, checkpoint_id: str) -> None:
        """Note that a checkpoint was read; on any thread."""
        self._read.add(checkpoint_id)

    def set(self, call: SetCheckpoint) -> str:
        """Save a checkpoint over the revision the client knows; return the new revision.

        Raises:
            CheckpointConflictError: Another revision is stored, or none.

        Spec: replication.md §3.3.
        """
        row = self._connection.execute(
            "SELECT rev FROM checkpoint WHERE id = ?", (call.checkpoint_id,)
        ).fetchone()
        rev: int = row[0] if row else 0
        if call.rev != _rev_text(rev):
            raise CheckpointConflictError(
                f"the stored checkpoint has the revision {_rev_text(rev) or 'of none'}, "
                f"not {call.rev[:50] or 'none'}",
                hint="read it and try again",
            )
        self._connection.execute(
            "INSERT OR REPLACE INTO checkpoint (id, rev, body, used_at) VALUES (?, ?, ?, ?)",
            (call.checkpoint_id, rev + 1, call.body, self._served_s()),
        )
        return _rev_text(rev + 1)

    def drop_old(self) -> int:
        """Delete those that have not been used for long; return how many."""
        served_s = self._served_s()
        write_info(self._connection, "service_s", int(served_s))
        read = tuple(self._read)
        self._connection.executemany(
            "UPDATE checkpoint SET used_at = ? WHERE id = ? AND used_at < ?",
            [(served_s, checkpoint_id, served_s - DAY_S) for checkpoint_id in read],
        )
        self._read.difference_update(read)
        return self._connection.execute(
            "DELETE FROM checkpoint WHERE used_at < ?", (served_s - MAX_UNUSED_S,)
        ).rowcount

    def _served_s(self) -> float:
        return self._uptime() - self._opened_at


def find_checkpoint(connection: sqlite3.Connection, checkpoint_id: str) -> Checkpoint | None:
    """Return a checkpoint as it was saved."""
    row = connection.execute(
        "SELECT rev, body FROM checkpoint WHERE id = ?", (checkpoint_id,)
    ).fetchone()
    return Checkpoint(_rev_text(row[0]), row[1]) if row else None


def _rev_text(rev: int) -> str:
    """Return a revision as the client sees it; empty: none is stored."""
    return f"{rev}-cc" if rev else ""
