from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.documents.store_calls import Checkpoint, GetCheckpoint, Verify
from edgesync.documents.version_vector import Order, compare, parse_vector
from edgesync.errors import StoreDamagedError, StoreVersionError
from edgesync.storage import schema
from tests.storage.store import Store


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def ask(folder: Path, statement: str) -> object:
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection:
        (answer,) = connection.execute(statement).fetchone()
        return answer


def test_newer_database_is_refused(folder: Path) -> None:
    Store(folder).close()
    change(folder, f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(StoreVersionError):
        Store(folder)


def test_refused_database_may_be_opened_by_others(folder: Path) -> None:
    Store(folder).close()
    change(folder, f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(StoreVersionError):
        Store(folder)
    change(folder, f"PRAGMA user_version = {schema.VERSION}")
    Store(folder).close()


def test_database_of_another_program_is_refused(folder: Path) -> None:
    folder.mkdir()
    change(folder, "CREATE TABLE document (id)")
    with pytest.raises(StoreDamagedError):
        Store(folder)
    assert ask(folder, "PRAGMA journal_mode") == "delete"


def test_file_that_is_no_database_is_damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "database.sqlite3").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StoreDamagedError):
        Store(folder)


def test_database_says_what_it_is(folder: Path) -> None:
    Store(folder).close()
    assert ask(folder, "PRAGMA application_id") == schema.APPLICATION_ID
    assert ask(folder, "PRAGMA user_version") == schema.VERSION
    assert ask(folder, "PRAGMA journal_mode") == "wal"


def test_bodies_are_read_by_the_json_functions_of_sqlite(folder: Path) -> None:
    with Store(folder) as store:
        store.insert("a", "1-aa", b'{"x": {"y": 7}}')
    assert ask(folder, "SELECT body ->> '$.x.y' FROM document") == 7


def test_each_database_has_its_own_identities(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Store(tmp_path / name).close()
    for key in ("source_id", "private_uuid", "public_uuid"):
        statement = f"SELECT value FROM info WHERE key = '{key}'"
        first, second = ask(tmp_path / "a", statement), ask(tmp_path / "b", statement)
        assert isinstance(first, bytes)
        assert len(first) == 16
        assert first != second


def test_identities_survive_reopening(folder: Path) -> None:
    Store(folder).close()
    statement = "SELECT value FROM info WHERE key = 'source_id'"
    first = ask(folder, statement)
    Store(folder).close()
    assert ask(folder, statement) == first


def test_acknowledged_writes_are_synced(folder: Path) -> None:
    with closing(schema.open_writer(folder.parent / "x.sqlite3")) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_readers_cannot_write(folder: Path) -> None:
    schema.open_writer(folder.parent / "x.sqlite3").close()
    with (
        closing(schema.open_reader(folder.parent / "x.sqlite3")) as connection,
        pytest.raises(sqlite3.OperationalError),
    ):
        connection.execute("DELETE FROM document")


# --- migration ---------------------------------------------------------------------------

FORMAT_1 = """
CREATE TABLE info (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
INSERT INTO info VALUES ('last_sequence', 9), ('source_id', x'00000000000000000000000000000007'),
    ('private_uuid', randomblob(16)), ('public_uuid', randomblob(16));
CREATE TABLE collection (id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL,
    name TEXT NOT NULL, UNIQUE (scope, name)) STRICT;
INSERT INTO collection (scope, name) VALUES ('_default', '_default');
CREATE TABLE document (id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, doc_id TEXT NOT NULL,
    sequence INTEGER NOT NULL, rev_id TEXT NOT NULL, parent TEXT, deleted INTEGER NOT NULL,
    leaves INTEGER NOT NULL, revisions INTEGER NOT NULL, expires_at REAL, vector TEXT,
    body_bytes INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE UNIQUE INDEX document_by_id ON document (collection, doc_id);
CREATE INDEX document_by_sequence ON document (collection, sequence, deleted);
CREATE INDEX document_by_expiry ON document (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE revision (document INTEGER NOT NULL, rev_id TEXT NOT NULL, parent TEXT,
    deleted INTEGER NOT NULL, vector TEXT, body TEXT, PRIMARY KEY (document, rev_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE blob_reference (document INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (document, digest)) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (id TEXT PRIMARY KEY, rev INTEGER NOT NULL, body BLOB NOT NULL,
    saved_at REAL NOT NULL) STRICT, WITHOUT ROWID;

INSERT INTO document VALUES
    (1, 1, 'chain', 3, '2-bb', '1-aa', 0, 1, 2, NULL, NULL, 7, '{"x":2}'),
    (2, 1, 'anew', 9, '1-cc', NULL, 0, 2, 3, NULL, NULL, 7, '{"x":3}'),
    (3, 1, 'gone', 5, '1-dd', NULL, 1, 1, 1, NULL, NULL, 2, '{}');
INSERT INTO revision VALUES (1, '1-aa', NULL, 0, NULL, NULL),
    (2, '2-bb', '1-aa', 1, NULL, '{"old":1}'), (2, '1-aa', NULL, 0, NULL, NULL);
INSERT INTO checkpoint VALUES ('cp', 4, x'7b7d', 1700000000.0);
PRAGMA application_id = 1701081977;
PRAGMA user_version = 1;
"""


@pytest.fixture
def old(folder: Path) -> Path:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection:
        connection.executescript(FORMAT_1)
    return folder


def test_documents_of_an_old_database_get_vectors_in_their_order(old: Path) -> None:
    with Store(old) as store:
        versions = [
            parse_vector(store.vector_of(name)).current for name in ("chain", "gone", "anew")
        ]
    assert versions == sorted(versions)
    assert {version.source for version in versions} == {"AAAAAAAAAAAAAAAAAAAABw"}


def test_vectors_of_an_old_database_are_given_once(old: Path) -> None:
    with Store(old) as store:
        first = store.vector_of("chain")
    with Store(old) as store:
        assert store.vector_of("chain") == first


def test_many_documents_of_an_old_database_get_vectors(old: Path) -> None:
    change(
        old,
        """WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 2500)
            INSERT INTO document SELECT value + 10, 1, 'd' || value, value + 10, '1-aa', NULL, 0, 1,
            1, NULL, NULL, 2, '{}' FROM n""",
    )
    Store(old).close()
    assert ask(old, "SELECT count(DISTINCT vector) FROM document") == 2503
    assert ask(old, "SELECT max(vector) > min(vector) FROM document") == 1


def test_documents_of_an_old_database_stay_as_they_were(old: Path) -> None:
    with Store(old) as store:
        assert store.as_tree("chain") == ("chain", "2-bb", 3, False, b'{"x":2}', ("1-aa",))
        assert store.as_tree("anew") == ("anew", "1-cc", 9, False, b'{"x":3}', ())
        assert store.changed_ids() == ["chain", "gone", "anew"]
        assert store.ask(lambda i: GetCheckpoint(i, "cp")) == Checkpoint("4-cc", b"{}")
        assert store.ask(lambda i: Verify(i)) == ()


def test_documents_of_an_old_database_go_on(old: Path) -> None:
    with Store(old) as store:
        assert store.insert("chain", "3-cc 2-bb").sequence == 10
        before = store.vector_of("anew")
        store.insert("anew", "2-ee 1-cc", deleted=True)  # higher than the old tombstone
        assert store.as_tree("anew") == ("anew", "2-ee", 11, True, b"{}", ("1-cc",))
        store.insert("gone", "2-ff 1-dd", b'{"x":1}')
        assert store.rev_of("gone") == "2-ff"
        assert compare(parse_vector(store.vector_of("anew")), parse_vector(before)) is Order.NEWER


def test_old_tombstone_of_an_old_database_may_win_again(old: Path) -> None:
    with Store(old) as store:
        before = store.vector_of("anew")
        store.insert("anew", "2-00 1-cc", deleted=True)
        assert store.as_tree("anew") == ("anew", "2-bb", 10, True, b'{"old":1}', ("1-aa",))
        assert compare(parse_vector(store.vector_of("anew")), parse_vector(before)) is Order.NEWER


def test_migrated_database_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Store(old).close()
    Store(tmp_path / "new").close()
    statement = """SELECT group_concat(name || type || tbl_name)
        FROM (SELECT * FROM sqlite_schema ORDER BY name)"""
    assert ask(old, statement) == ask(tmp_path / "new", statement)
    for table in ("document", "revision", "kept_body", "checkpoint", "blob_reference"):
        columns = f"SELECT group_concat(name || type || pk) FROM pragma_table_info('{table}')"
        assert ask(old, columns) == ask(tmp_path / "new", columns)
