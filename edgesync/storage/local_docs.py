"""Checkpoints: what clients want kept beside the documents. Spec: replication.md §3.3, §7."""

from __future__ import annotations

import sqlite3

from edgesync.documents.store_calls import Checkpoint, SetCheckpoint
from edgesync.errors import CheckpointConflictError


class Checkpoints:
    """The table of checkpoints; they are no documents and have no sequence."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, checkpoint_id: str) -> Checkpoint | None:
        """Return a checkpoint as it was saved."""
        row = self._connection.execute(
            "SELECT rev, body FROM checkpoint WHERE id = ?", (checkpoint_id,)
        ).fetchone()
        return Checkpoint(_rev_text(row[0]), row[1]) if row else None

    def set(self, call: SetCheckpoint, now: float) -> str:
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
            "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?)",
            (call.checkpoint_id, rev + 1, call.body, now),
        )
        return _rev_text(rev + 1)


def _rev_text(rev: int) -> str:
    """Return a revision as the client sees it; empty: none is stored."""
    return f"{rev}-cc" if rev else ""
