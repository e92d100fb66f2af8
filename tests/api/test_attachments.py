"""Attachments: blobs that programs on the box put into documents."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync import Database
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import sync
from tests.api.box import Box

MIB = 1024 * 1024
PNG = {"Content-Type": "image/png"}


def pieces(mib: int) -> Iterator[bytes]:
    rng = random.Random(5)
    for _ in range(mib):
        yield rng.randbytes(MIB)


def test_an_attachment_makes_its_document(box: Box) -> None:
    assert box.ask("PUT", "/db/photo/pic", body=b"\x89PNG", headers=PNG).status == 201
    blob = box.ask("GET", "/db/photo").json["pic"]
    assert (blob["@type"], blob["length"], blob["content_type"]) == ("blob", 4, "image/png")
    read = box.ask("GET", "/db/photo/pic")
    assert (read.content, read.headers["content-type"]) == (b"\x89PNG", "image/png")
    assert read.headers["etag"] == f'"{blob["digest"]}"'


def test_an_attachment_of_a_document_needs_its_revision(box: Box) -> None:
    rev = box.ask("PUT", "/db/owned", {"n": 1}).json["rev"]
    assert box.ask("PUT", "/db/owned/pic", body=b"x", headers=PNG).status == 409
    assert box.ask("PUT", f"/db/owned/pic?rev={rev}", body=b"x", headers=PNG).status == 201
    assert box.ask("GET", "/db/owned").json["n"] == 1


def test_a_deleted_attachment_leaves_the_rest(box: Box) -> None:
    rev = box.ask("PUT", "/db/less/pic", body=b"x", headers=PNG).json["rev"]
    assert box.ask("DELETE", "/db/less/pic").status == 409
    assert box.ask("DELETE", f"/db/less/pic?rev={rev}").status == 200
    assert box.ask("GET", "/db/less/pic").status == 404
    assert "pic" not in box.ask("GET", "/db/less").json


def test_another_property_is_given_as_json(box: Box) -> None:
    box.ask("PUT", "/db/values", {"list": [1, 2]})
    assert box.ask("GET", "/db/values/list").json == [1, 2]
    assert box.ask("GET", "/db/values/none").status == 404


def test_a_request_without_content_is_refused(box: Box) -> None:
    assert box.ask("PUT", "/db/empty/pic").status in (201, 400)  # http.client sends length 0
    connection = box.connection()
    connection.putrequest("PUT", "/db/empty2/pic")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_a_large_attachment_is_never_whole_in_memory(tmp_path: Path) -> None:
    digest = hashlib.sha1(b"".join(pieces(64)), usedforsecurity=False).digest()
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/warm/pic", body=b"x" * MIB)
        box.ask("GET", "/db/warm/pic")
        before = box.memory_kib()
        assert box.ask("PUT", "/db/film/video", body=pieces(64)).status == 201
        read = box.ask("GET", "/db/film/video")
        assert hashlib.sha1(read.content, usedforsecurity=False).digest() == digest
        assert box.peak_memory_kib() - before < 16 * 1024


def test_an_attachment_above_the_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    with Box(tmp_path, settings=f"[limits]\nmax_blob_bytes = {MIB}") as box:
        assert box.ask("PUT", "/db/film/video", body=b"x" * (MIB + 1)).status == 413
        chunked = box.ask("PUT", "/db/film/video", body=iter([b"x" * MIB, b"x"]))
        assert chunked.status == 413
        assert box.ask("GET", "/db/film").status == 404
        folder = box.database_file.parent / "blobs"
        assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_clients_get_the_attachment(box: Box) -> None:
    box.ask("PUT", "/db/synced/pic", body=b"\x89PNG", headers=PNG)
    client = PeerDatabase()
    sync(client, box.url, push=False)
    assert client.missing_blobs() == []
    assert client.get("synced") is not None


@pytest.mark.parametrize(
    "odd",
    [
        {"content_type": "text/plain\r\nX-Evil: 1"},
        {"content_type": "t\u00e9xt"},
        {"content_type": ["x"]},
        {"length": 10**6},
        {"length": 1},
        {"length": -1},
    ],
    ids=str,
)
def test_what_a_document_says_of_its_blob_is_not_believed(box: Box, odd: dict[str, object]) -> None:
    blob = box.ask("POST", "/_edgesync/databases/db/blobs", body=b"\x89PNG").json
    path = f"/db/{hashlib.sha1(str(odd).encode()).hexdigest()}"
    assert box.ask("PUT", path, {"pic": {**blob, **odd}}).status == 201
    read = box.ask("GET", f"{path}/pic")
    assert (read.status, read.content) == (200, b"\x89PNG")
    assert read.headers["content-length"] == "4"
    assert read.headers["content-type"] == "application/octet-stream"
    assert "X-Evil" not in read.headers


def test_a_blob_is_read_from_where_it_was_sought(tmp_path: Path) -> None:
    with Database.open("db", directory=tmp_path) as db:
        found = db.get_blob(db.save_blob(io.BytesIO(b"0123456789"), "text/plain"))
        assert found is not None
        assert (found.seek(0, io.SEEK_END), found.read()) == (10, b"")
        assert (found.seek(-3, io.SEEK_END), found.read(2)) == (7, b"78")
        assert (found.seek(-1, io.SEEK_CUR), found.read(), found.tell()) == (8, b"89", 10)
        with pytest.raises(ValueError, match="nothing before its beginning"):
            found.seek(-1)
