"""Database, Collection and Document from an application's side."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from edgesync import Change, Database, Document, Limits
from edgesync.errors import (
    BlobNotFoundError,
    BodyTooLargeError,
    CollectionNotFoundError,
    ConflictError,
    InvalidBodyError,
    InvalidDocIDError,
    InvalidNameError,
    NotFoundError,
    StoreClosedError,
    StoreInUseError,
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.open("stock", directory=tmp_path) as database:
        yield database


def test_saved_document_is_read_back(db: Database) -> None:
    saved = db.default_collection.save("boiler", {"setpoint": 21, "on": True})
    found = db.default_collection.get("boiler")
    assert found == saved
    assert found is not None
    assert dict(found.body) == {"setpoint": 21, "on": True}
    assert found.revision_id.startswith("1-")
    assert not found.deleted


def test_documents_are_immutable_values(db: Database) -> None:
    saved = db.default_collection.save("boiler", {"setpoint": 21})
    with pytest.raises(TypeError):
        saved.body["setpoint"] = 22  # type: ignore[index]
    with pytest.raises(AttributeError):
        saved.sequence = 7  # type: ignore[misc]


def test_update_needs_the_current_revision(db: Database) -> None:
    stock = db.default_collection
    first = stock.save("boiler", {"setpoint": 21})
    second = stock.save("boiler", {"setpoint": 22}, parent=first.revision_id)
    assert second.revision_id.startswith("2-")
    with pytest.raises(ConflictError, match="boiler"):
        stock.save("boiler", {"setpoint": 23}, parent=first.revision_id)
    with pytest.raises(ConflictError):
        stock.save("boiler", {"setpoint": 23})
    found = stock.get("boiler")
    assert found == second


def test_document_without_id_gets_one(db: Database) -> None:
    first, second = (db.default_collection.save(None, {"n": n}) for n in range(2))
    assert first.id != second.id
    assert first.id.startswith("~")
    assert len(first.id) == 23


def test_deleted_document_is_gone_and_can_be_made_again(db: Database) -> None:
    stock = db.default_collection
    stock.save("boiler", {"n": 1})
    tombstone = stock.delete("boiler")
    assert tombstone.deleted
    assert stock.get("boiler") is None
    assert stock.count == 0
    again = stock.save("boiler", {"n": 2})
    assert again.revision_id.startswith("3-")


def test_deleting_what_is_not_there_is_an_error(db: Database) -> None:
    with pytest.raises(NotFoundError):
        db.default_collection.delete("none")


def test_purged_document_leaves_no_trace(db: Database) -> None:
    stock = db.default_collection
    stock.save("boiler", {"n": 1})
    assert stock.purge("boiler")
    assert not stock.purge("boiler")
    assert list(stock.changes()) == []
    assert stock.save("boiler", {"n": 1}).revision_id.startswith("1-")


def test_expired_document_is_purged(db: Database) -> None:
    stock = db.default_collection
    stock.save("short", {"n": 1})
    assert stock.set_expiration("short", time.time() - 1)
    assert stock.get("short") is None
    assert not stock.set_expiration("none", None)


def test_documents_come_in_the_order_of_their_ids(db: Database) -> None:
    stock = db.default_collection
    names = sorted(f"doc-{n:03}" for n in range(450))
    for name in reversed(names):
        stock.save(name, {})
    stock.delete("doc-007")
    names.remove("doc-007")
    assert [document.id for document in stock.documents()] == names
    assert stock.count == len(names)


def test_changes_tell_the_latest_of_each_document(db: Database) -> None:
    stock = db.default_collection
    first = stock.save("a", {"n": 1})
    stock.save("b", {"n": 1})
    last = stock.save("a", {"n": 2}, parent=first.revision_id)
    assert [(c.doc_id, c.rev_id) for c in stock.changes()][-1] == ("a", last.revision_id)
    assert len(list(stock.changes())) == 2
    assert list(stock.changes(since=last.sequence)) == []


def test_change_listener_hears_of_every_save(db: Database) -> None:
    stock = db.default_collection
    stock.save("before", {})
    heard: list[Change] = []
    stop = stock.add_change_listener(heard.extend)
    stock.save("one", {})
    stock.save("two", {})
    with gevent.Timeout(5):
        while {change.doc_id for change in heard} != {"one", "two"}:
            gevent.sleep(0.01)
    stop()
    stock.save("three", {})
    gevent.sleep(0.05)
    assert {change.doc_id for change in heard} == {"one", "two"}


@pytest.mark.parametrize("doc_id", ["_doc", "a\nb", "x" * 241])
def test_impossible_document_id_is_refused(db: Database, doc_id: str) -> None:
    with pytest.raises(InvalidDocIDError):
        db.default_collection.save(doc_id, {})


@pytest.mark.parametrize("body", [{"_id": "x"}, {"n": float("nan")}, {"n": {1, 2}}, {1: 2}])
def test_impossible_body_is_refused(db: Database, body: dict[str, object]) -> None:
    with pytest.raises(InvalidBodyError):
        db.default_collection.save("doc", body)
    assert db.default_collection.get("doc") is None


def test_too_large_a_document_is_refused(tmp_path: Path) -> None:
    limits = Limits(max_document_bytes=100)
    with Database.open("small", directory=tmp_path, limits=limits) as db:
        with pytest.raises(BodyTooLargeError) as caught:
            db.default_collection.save("doc", {"text": "x" * 100})
        assert "100" in str(caught.value)


def test_collections_are_made_found_and_removed(db: Database) -> None:
    items = db.create_collection("inventory.items")
    assert db.create_collection("inventory.items") == items
    assert db.collection("inventory.items") == items
    assert (items.scope, items.name) == ("inventory", "items")
    assert {c.path for c in db.collections} == {"_default._default", "inventory.items"}
    items.save("doc", {})
    assert db.default_collection.get("doc") is None
    db.delete_collection("inventory.items")
    with pytest.raises(CollectionNotFoundError):
        db.collection("inventory.items")
    with pytest.raises(CollectionNotFoundError):
        items.get("doc")


@pytest.mark.parametrize("name", ["_hidden", "%x", "a b", "a.b.c", "", ".", "a.", "\u00e4"])
def test_impossible_collection_name_is_refused(db: Database, name: str) -> None:
    with pytest.raises(InvalidNameError):
        db.create_collection(name)


def test_default_collection_stays(db: Database) -> None:
    with pytest.raises(InvalidNameError):
        db.delete_collection("_default")


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a.b", "x" * 241])
def test_impossible_database_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidNameError):
        Database.open(name, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_blob_is_stored_and_read_in_pieces(db: Database) -> None:
    content = bytes(range(256)) * 1000
    properties = db.save_blob(io.BytesIO(content), "image/png")
    assert properties["length"] == len(content)
    db.default_collection.save("photo", {"pic": properties})
    stream = db.get_blob(properties)
    assert stream is not None
    assert stream.read(10) == content[:10]
    assert stream.read() == content[10:]


def test_empty_blob(db: Database) -> None:
    properties = db.save_blob(io.BytesIO(b""))
    assert properties["digest"] == "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="
    stream = db.get_blob(properties)
    assert stream is not None
    assert stream.read() == b""


def test_absent_blob_is_none_and_cannot_be_referred_to(db: Database) -> None:
    properties = {"@type": "blob", "digest": "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="}
    assert db.get_blob(properties) is None
    assert db.get_blob({"digest": "../../etc/passwd"}) is None
    with pytest.raises(BlobNotFoundError):
        db.default_collection.save("photo", {"pic": properties})


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    with Database.open("stock", directory=tmp_path) as db:
        saved = db.create_collection("a.b").save("doc", {"n": 1})
    with Database.open("stock", directory=tmp_path) as db:
        assert db.collection("a.b").get("doc") == saved
        assert db.default_collection.save("x", {}).sequence > saved.sequence


def test_second_process_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from edgesync import Database; from edgesync.errors import StoreInUseError\n"
        "try: Database.open('stock', directory=sys.argv[1])\n"
        "except StoreInUseError as error: print(error)"
    )
    with Database.open("stock", directory=tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "stock" in done.stdout
        with pytest.raises(StoreInUseError):
            Database.open("stock", directory=tmp_path)


def test_closed_database_refuses_calls(tmp_path: Path) -> None:
    db = Database.open("stock", directory=tmp_path)
    collection = db.default_collection
    db.close()
    db.close()
    with pytest.raises(StoreClosedError):
        collection.get("doc")


def test_deleted_database_leaves_no_files(tmp_path: Path) -> None:
    db = Database.open("stock", directory=tmp_path)
    db.default_collection.save("doc", {})
    db.delete()
    assert list(tmp_path.iterdir()) == []


def test_calls_block_the_calling_greenlet_only(db: Database) -> None:
    ticks: list[int] = []

    def tick() -> None:
        for n in range(1000):
            ticks.append(n)
            gevent.sleep(0)

    ticker = gevent.spawn(tick)
    for n in range(20):
        db.default_collection.save(f"doc-{n}", {})
    assert ticks
    ticker.kill()


def test_backup_is_a_database_of_its_own(db: Database, tmp_path: Path) -> None:
    properties = db.save_blob(io.BytesIO(b"content"))
    saved: Document = db.default_collection.save("photo", {"pic": properties})
    db.backup(tmp_path / "copies" / "stock.edgesync")
    db.default_collection.save("later", {})
    with Database.open("stock", directory=tmp_path / "copies") as copy:
        found = copy.default_collection.get("photo")
        assert found is not None
        assert found.body == saved.body
        assert copy.default_collection.get("later") is None
        stream = copy.get_blob(properties)
        assert stream is not None
        assert stream.read() == b"content"


def test_sound_database_verifies_and_compacts(db: Database) -> None:
    db.default_collection.save("photo", {"pic": db.save_blob(io.BytesIO(b"content"))})
    assert db.verify() == ()
    db.compact()
    assert db.default_collection.get("photo") is not None
