from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.documents.body import blob_digest
from edgesync.documents.store_calls import (
    Backup,
    BlobLength,
    BlobPiece,
    Checkpoint,
    Compact,
    GetCheckpoint,
    ReadBlob,
    SetCheckpoint,
    StoreDone,
    Verify,
)
from edgesync.documents.version_vector import Order, compare, parse_vector
from edgesync.errors import StoreClosedError, StoreError
from edgesync.storage.blobs import BlobFiles
from tests.storage.store import Store, inserting

CONTENT = b"0123456789"
DIGEST = blob_digest(CONTENT)


def backup(store: Store, target: Path) -> None:
    store.ask(lambda i: Backup(i, target))


def verify(store: Store) -> tuple[str, ...]:
    return store.ask(lambda i: Verify(i), tuple)


def blob_file(folder: Path) -> Path:
    return Path(BlobFiles(folder / "blobs").path(DIGEST))


# --- backup --------------------------------------------------------------------------


def test_backup_is_a_database_with_all_there_is(store: Store, tmp_path: Path) -> None:
    store.create_collection("s.c")
    store.add_blob(CONTENT)
    store.insert("a", "2-bb 1-aa", b'{"x":1}', blobs=(DIGEST,))
    store.insert("b", "1-aa", collection="s.c")
    store.ask(lambda i: SetCheckpoint(i, "cp", "", b"state"))
    backup(store, tmp_path / "copy")
    with Store(tmp_path / "copy") as copy:
        assert copy.as_tree("a") == ("a", "2-bb", 1, False, b'{"x":1}', ("1-aa",))
        assert copy.read("b", "s.c") is not None
        assert copy.ask(lambda i: GetCheckpoint(i, "cp")) == Checkpoint("1-cc", b"state")
        assert copy.ask(lambda i: ReadBlob(i, DIGEST, 0, 99)) == BlobPiece(CONTENT, True)
        assert verify(copy) == ()


def test_blobs_that_no_document_needs_are_not_copied(store: Store, tmp_path: Path) -> None:
    store.add_blob(CONTENT)
    backup(store, tmp_path / "copy")
    with Store(tmp_path / "copy") as copy:
        assert copy.ask(lambda i: BlobLength(i, DIGEST)) is None


def test_sequences_are_not_reused_after_a_restore(store: Store, tmp_path: Path) -> None:
    store.insert("a", "1-aa")
    backup(store, tmp_path / "copy")
    later = store.insert("b", "1-aa").sequence
    with Store(tmp_path / "copy") as copy:
        assert copy.changes().changes[0].sequence == 1
        restored = copy.insert("b", "1-bb").sequence
    assert later < restored < 2**53


def test_sequences_are_not_reused_after_a_second_restore(store: Store, tmp_path: Path) -> None:
    backup(store, tmp_path / "copy")
    with Store(tmp_path / "copy") as copy:
        backup(copy, tmp_path / "copy2")
        first = copy.insert("a", "1-aa").sequence
    with Store(tmp_path / "copy2") as copy:
        assert copy.insert("a", "1-aa").sequence > first


def test_restored_database_goes_on_counting(store: Store, tmp_path: Path) -> None:
    backup(store, tmp_path / "copy")
    with Store(tmp_path / "copy") as copy:
        first = copy.insert("a", "1-aa").sequence
    with Store(tmp_path / "copy") as copy:
        assert copy.insert("b", "1-aa").sequence == first + 1


def test_copy_gets_identities_of_its_own(store: Store, folder: Path, tmp_path: Path) -> None:
    backup(store, tmp_path / "copy")
    Store(tmp_path / "copy").close()
    found: list[object] = []
    for name in (folder, tmp_path / "copy"):
        with closing(sqlite3.connect(name / "database.sqlite3")) as connection:
            (row,) = connection.execute("SELECT value FROM info WHERE key = 'source_id'")
            found.append(row[0])
    assert found[0] != found[1]


def test_copy_s_edits_are_its_own_and_newer(store: Store, tmp_path: Path) -> None:
    """Also if its clock is behind what the original gave out."""
    store.insert("a", "1-aa")
    backup(store, tmp_path / "copy")
    original = parse_vector(store.vector_of("a"))
    with Store(tmp_path / "copy", clock=lambda: 1000.0) as copy:
        assert copy.vector_of("a") == str(original)
        copy.insert("a", "2-bb 1-aa")
        copied = parse_vector(copy.vector_of("a"))
    assert compare(copied, original) is Order.NEWER
    assert copied.current.source != original.current.source
    assert copied.current.time > original.current.time


def test_copy_and_original_conflict_when_both_go_on(store: Store, tmp_path: Path) -> None:
    store.insert("a", "1-aa")
    backup(store, tmp_path / "copy")
    with Store(tmp_path / "copy") as copy:
        copy.insert("a", "2-bb 1-aa")
        store.insert("a", "2-cc 1-aa")
        vectors = parse_vector(copy.vector_of("a")), parse_vector(store.vector_of("a"))
    assert compare(*vectors) is Order.CONFLICT


def test_backup_does_not_write_over_anything(store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(StoreError):
        backup(store, tmp_path / "copy")


def test_backup_takes_over_from_one_that_was_cut_short(store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy.partial").mkdir()
    (tmp_path / "copy.partial" / "database.sqlite3").write_bytes(b"half")
    backup(store, tmp_path / "copy")
    assert not (tmp_path / "copy.partial").exists()


def test_backup_is_of_one_moment_while_others_write(store: Store, tmp_path: Path) -> None:
    store.ask_all(
        [inserting(f"d{number:03}", "1-aa", b'{"x":"%s"}' % (b"y" * 5000)) for number in range(300)]
    )
    answers: list[StoreDone] = []
    other = store.engine.connect(lambda *done: answers.extend(done))
    other.submit([Backup(1, tmp_path / "copy")])
    written = 0
    while not answers:
        store.ask_all(
            [
                inserting(f"d{number:03}", f"{written + 2}-aa {written + 1}-aa")
                for number in (0, 299)
            ]
        )
        written += 1
    assert answers == [(1, None)]
    with Store(tmp_path / "copy") as copy:
        assert copy.rev_of("d000") == copy.rev_of("d299")
        assert verify(copy) == ()


# --- verification --------------------------------------------------------------------


def test_sound_database_has_no_findings(store: Store) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", blobs=(DIGEST,))
    assert verify(store) == ()


def test_damaged_blob_is_found(store: Store, folder: Path) -> None:
    store.add_blob(CONTENT)
    blob_file(folder).write_bytes(b"0123456780")
    assert verify(store) == (f"blob {DIGEST} has another content",)


def test_lost_blob_is_found(store: Store, folder: Path) -> None:
    store.add_blob(CONTENT)
    store.insert("a", "1-aa", blobs=(DIGEST,))
    blob_file(folder).unlink()
    assert verify(store) == (f"blob {DIGEST} is missing",)


def test_damaged_body_is_found(folder: Path) -> None:
    with Store(folder) as store:
        store.insert("a", "1-aa")
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection, connection:
        connection.execute("UPDATE document SET body = '[]'")
    with Store(folder) as store:
        assert verify(store) == ('document "a" is not a JSON object',)


def test_damaged_page_is_found(folder: Path) -> None:
    with Store(folder) as store:
        store.ask_all(
            [inserting(f"d{number}", "1-aa", b'{"x":"%s"}' % (b"y" * 900)) for number in range(300)]
        )
    file = folder / "database.sqlite3"
    damaged = bytearray(file.read_bytes())
    middle = len(damaged) // 2 // 4096 * 4096
    damaged[middle : middle + 4096] = b"\xa5" * 4096
    file.write_bytes(damaged)
    with Store(folder) as store:
        assert verify(store) != ()


def test_many_findings_are_cut_short(folder: Path) -> None:
    with Store(folder) as store:
        store.ask_all([inserting(f"d{number}", "1-aa") for number in range(150)])
    with closing(sqlite3.connect(folder / "database.sqlite3")) as connection, connection:
        connection.execute("UPDATE document SET body = '[]'")
    with Store(folder) as store:
        assert len(verify(store)) == 101


def test_upkeep_is_given_up_when_the_database_closes(folder: Path, tmp_path: Path) -> None:
    store = Store(folder)
    store.ask_all(
        [inserting(f"d{number}", "1-aa", b'{"x":"%s"}' % (b"y" * 9000)) for number in range(600)]
    )
    answers: list[StoreDone] = []
    client = store.engine.connect(lambda *done: answers.extend(done))
    client.submit([Backup(number, tmp_path / f"copy{number}") for number in range(20)])
    store.close()
    assert isinstance(answers[-1].result, StoreClosedError)
    assert not list(tmp_path.glob("*.partial"))


# --- compaction ------------------------------------------------------------------------


def test_compaction_gives_room_back(store: Store, folder: Path) -> None:
    store.ask_all(
        [inserting(f"d{number}", "1-aa", b'{"x":"%s"}' % (b"y" * 9000)) for number in range(100)]
    )
    for number in range(99):
        store.purge(f"d{number}")
    store.ask(lambda i: Compact(i))
    assert (folder / "database.sqlite3").stat().st_size < 100_000
    assert (folder / "database.sqlite3-wal").stat().st_size == 0
    assert store.rev_of("d99") == "1-aa"
    assert store.insert("a", "1-aa").is_new
