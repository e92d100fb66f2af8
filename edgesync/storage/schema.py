"""The tables, their versions, and how connections are opened."""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path
from typing import Final

from edgesync.errors import StoreDamagedError, StoreVersionError

APPLICATION_ID: Final = int.from_bytes(b"edsy", "big")

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE info (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID",
        "INSERT INTO info VALUES ('last_sequence', 0)",
        # Numbers of collections are not reused: a reader may still hold an old one.
        """CREATE TABLE collection (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            scope TEXT NOT NULL,
            name TEXT NOT NULL,
            UNIQUE (scope, name)
        ) STRICT""",
        "INSERT INTO collection (scope, name) VALUES ('_default', '_default')",
        # A document with its current revision. `revisions` counts all of its tree and
        # `leaves` those without a child; `vector` is the version vector.
        # The body comes last: the other columns are read without its overflow pages.
        """CREATE TABLE document (
            id INTEGER PRIMARY KEY,
            collection INTEGER NOT NULL,
            doc_id TEXT NOT NULL,
            sequence INTEGER NOT NULL,
            rev_id TEXT NOT NULL,
            parent TEXT,
            deleted INTEGER NOT NULL,
            leaves INTEGER NOT NULL,
            revisions INTEGER NOT NULL,
            expires_at REAL,
            vector TEXT,
            body_bytes INTEGER NOT NULL,
            body TEXT NOT NULL
        ) STRICT""",
        "CREATE UNIQUE INDEX document_by_id ON document (collection, doc_id)",
        "CREATE INDEX document_by_sequence ON document (collection, sequence, deleted)",
        """CREATE INDEX document_by_expiry ON document (expires_at)
            WHERE expires_at IS NOT NULL""",
        # All revisions but the current ones; leaves among them keep their bodies.
        """CREATE TABLE revision (
            document INTEGER NOT NULL,
            rev_id TEXT NOT NULL,
            parent TEXT,
            deleted INTEGER NOT NULL,
            vector TEXT,
            body TEXT,
            PRIMARY KEY (document, rev_id)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE blob_reference (
            document INTEGER NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (document, digest)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE checkpoint (
            id TEXT PRIMARY KEY,
            rev INTEGER NOT NULL,
            body BLOB NOT NULL,
            saved_at REAL NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # Where the hybrid clock stands (documents.md §9.1).
        "INSERT INTO info VALUES ('clock', 0)",
        # Documents that have no vector yet get one when the database is opened.
        """INSERT INTO info
            SELECT 'lacks_vectors', 1 WHERE EXISTS (SELECT 1 FROM document)""",
        # Bodies of revisions that were current once, to make deltas from; the oldest go
        # first. `version` is the current version of the revision's vector.
        """CREATE TABLE kept_body (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            document INTEGER NOT NULL,
            rev_id TEXT NOT NULL,
            version TEXT NOT NULL,
            body_bytes INTEGER NOT NULL,
            body TEXT NOT NULL,
            UNIQUE (document, rev_id)
        ) STRICT""",
    ),
    (
        # A revision that is not current has no vector: if it becomes current again, it
        # gets that of the edit which made it so.
        "ALTER TABLE revision DROP COLUMN vector",
        # Which blobs does no document need? Asked blob by blob.
        "CREATE INDEX blob_reference_by_digest ON blob_reference (digest)",
        # Seconds that the database was open, ever. Checkpoints grow old by it and not
        # by the clock, which jumps by decades on a board that learns the time late.
        "INSERT INTO info VALUES ('service_s', 0)",
        "ALTER TABLE checkpoint RENAME COLUMN saved_at TO used_at",
        "UPDATE checkpoint SET used_at = 0",
    ),
)
"""What leads from each version to the next; `user_version` counts them."""

VERSION: Final = len(MIGRATIONS)

_PRAGMAS: Final = (
    # 4 MiB of pages a connection: a board has 512 MB for everything.
    "PRAGMA cache_size = -4096",
    # Read by system calls: through a mapping a worn card would kill the process.
    "PRAGMA mmap_size = 0",
    # Only we open this file; a command of a curious person may lock it for a moment.
    "PRAGMA busy_timeout = 5000",
)
_WRITER_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # An answered revision is on the card.
    "PRAGMA synchronous = FULL",
    # 8 MiB of WAL between checkpoints: a page that changes often is written once into
    # the database for all of them. More would make the rare slow commit slower.
    "PRAGMA wal_autocheckpoint = 2048",
    "PRAGMA journal_size_limit = 16777216",
)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the database, making or migrating it.

    Raises:
        StoreVersionError: A newer edgesync wrote it.
        StoreDamagedError: It is something else's database.
        sqlite3.Error: It cannot be opened.
    """
    connection = _connect(path)
    try:
        _check_origin(connection, path)
        for pragma in _WRITER_PRAGMAS:
            connection.execute(pragma)
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that reads beside the writer."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # Each connection is used by one thread, but closed by whoever closes the engine.
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=128
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except BaseException:  # it is no database
        connection.close()
        raise
    return connection


def _check_origin(connection: sqlite3.Connection, path: Path) -> None:
    application_id = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    if application_id != APPLICATION_ID:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application_id or version or tables:
            raise StoreDamagedError(f"{path} is not a database of edgesync")
    if version > VERSION:
        raise StoreVersionError(
            f"{path} has format {version}, and this edgesync knows up to {VERSION}",
            hint="update edgesync, or restore a backup from before the update",
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _migrate(connection: sqlite3.Connection) -> None:
    version = _pragma(connection, "user_version")
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version == 0:
        name_database(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def name_database(connection: sqlite3.Connection) -> None:
    """Give the database the identities that no other one has. Spec: documents.md §9.1, §10."""
    write_info(connection, "source_id", os.urandom(16))
    write_info(connection, "private_uuid", uuid.uuid4().bytes)
    write_info(connection, "public_uuid", uuid.uuid4().bytes)


def read_info(connection: sqlite3.Connection, key: str) -> int | bytes | None:
    """Return a fact about the database, None if it is not recorded."""
    row = connection.execute("SELECT value FROM info WHERE key = ?", (key,)).fetchone()
    value: int | bytes | None = row[0] if row else None
    return value


def write_info(connection: sqlite3.Connection, key: str, value: int | bytes) -> None:
    """Record a fact about the database."""
    connection.execute("INSERT OR REPLACE INTO info VALUES (?, ?)", (key, value))
