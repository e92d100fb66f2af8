from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

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
