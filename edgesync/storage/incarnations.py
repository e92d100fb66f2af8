"""Sequences of a database that was put back: above all that its name has ever given out.

A client that has seen sequence 900 never asks for less. But a backup does not know how
many the database gave out after it was made, nor what earlier restores of it gave out.
So a restored database is another incarnation under the same name, and its sequences
begin a span above those of the one before it; no incarnation gives out a span.

Where the last one began is written down beside the database's folder, in a file that
outlives it: NAME.sequences, made by the first restore. The clock is but a second bound,
for a new card, which has no such file: clocks are set back, and then would repeat what
was given out. `Database.delete` leaves the file, so that not even a database of the
same name that is made anew can confuse a client. Folders that were copied by hand are no
backups, and are not recognised.

Spec: replication.md §2, §7.3; documents.md §10.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from edgesync.storage.blobs import sync_folder
from edgesync.storage.schema import name_database, read_info, write_info

SPAN: Final = 1 << 36
"""Two years at a thousand changes a second. Sequences stay below 2^53, which every JSON
parser reads exactly, for a hundred thousand restores."""
SEQUENCES_PER_SECOND: Final = 1 << 20
"""More than any database gives out."""
MARK_SUFFIX: Final = ".sequences"


class _Mark(NamedTuple):
    """Which incarnation is in place, and after which sequence its own begin."""

    source: str
    began: int


def begin_incarnation(
    connection: sqlite3.Connection, folder: Path, clock: Callable[[], float]
) -> None:
    """Give a database that is not the one before it a span of sequences of its own.

    Args:
        connection: The writer's.
        folder: The database's.
        clock: Returns seconds since 1970.

    Raises:
        OSError: The mark cannot be written.
        sqlite3.Error: The database cannot be written.
    """
    path = folder.with_suffix(MARK_SUFFIX)
    mark = _read(path)
    is_copy = bool(read_info(connection, "is_copy"))
    if not is_copy and mark == _mark_in(connection):
        return
    began = _beginning(connection, mark, is_copy, clock)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if is_copy:
            name_database(connection)
            write_info(connection, "is_copy", 0)
        write_info(connection, "last_sequence", began)
        write_info(connection, "began", began)
        now = _mark_in(connection)
        assert now is not None
        # First the mark: with it alone, as after a power cut, the next start begins anew.
        _write(path, now)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _beginning(
    connection: sqlite3.Connection, mark: _Mark | None, is_copy: bool, clock: Callable[[], float]
) -> int:
    last = read_info(connection, "last_sequence")
    assert isinstance(last, int)
    bounds = [last]
    if mark is not None:
        bounds.append(mark.began + SPAN)
    if is_copy:
        bounds += [last + SPAN, int(clock() * SEQUENCES_PER_SECOND)]
    return max(bounds)


def _mark_in(connection: sqlite3.Connection) -> _Mark | None:
    """Return what the mark says if it is about this database; None if it was never put back."""
    source, began = read_info(connection, "source_id"), read_info(connection, "began")
    assert isinstance(source, bytes)
    return _Mark(source.hex(), began) if isinstance(began, int) else None


def _read(path: Path) -> _Mark | None:
    """Return a mark; None if there is none, or what is there is none."""
    try:
        found = orjson.loads(path.read_bytes())
        return _Mark(str(found["source"]), int(found["began"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, mark: _Mark) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(orjson.dumps(mark._asdict()))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(str(path.parent))
