"""Attachments: blobs that programs on the box put into documents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

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
