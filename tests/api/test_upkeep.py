"""Backup, restore, verification and compaction through the local API."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
import threading
import time
from pathlib import Path

import pytest

from edgesync.errors import ApiError
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync, sync
from tests.api.box import Box, Reply

TAR = {"Content-Type": "application/x-tar"}


def backup(box: Box, name: str = "db") -> bytes:
    reply = box.ask("GET", f"/_edgesync/databases/{name}/backup")
    assert reply.status == 200
    assert int(reply.headers["content-length"]) == len(reply.content)
    return reply.content


def restore(box: Box, content: bytes, name: str = "db") -> Reply:
    return box.ask("POST", f"/_edgesync/databases/{name}/restore", body=content, headers=TAR)


def last_line(reply: Reply) -> dict[str, object]:
    value: dict[str, object] = json.loads(reply.content.splitlines()[-1])
    return value


def until_tidy(folder: Path) -> None:
    """Wait until no folder of a backup is left; they go after the last byte was sent."""
    deadline = time.monotonic() + 10
    while list((folder / "state/work").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_backup_put_back_is_what_it_was(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/kept", {"n": 1})
        box.ask("PUT", "/db/photo/pic", body=b"\x89PNG")
        saved = backup(box)
        rev = box.ask("GET", "/db/kept").json["_rev"]
        box.ask("DELETE", f"/db/kept?rev={rev}")
        box.ask("PUT", "/db/later", {"n": 2})
        assert "result" in last_line(restore(box, saved))
        assert box.ask("GET", "/db/kept").json["n"] == 1
        assert box.ask("GET", "/db/photo/pic").content == b"\x89PNG"
        assert box.ask("GET", "/db/later").status == 404
        assert box.client.listener("test")["state"] == "serving"


def test_a_backup_is_a_tar_that_others_can_read(box: Box) -> None:
    box.ask("PUT", "/db/photo/pic", body=b"\x89PNG")
    with tarfile.open(fileobj=io.BytesIO(backup(box))) as tar:
        names = tar.getnames()
    assert names[:2] == ["edgesync-backup.json", "database.sqlite3"]
    assert names[2].startswith("blobs/")
    assert names[-1] == "SHA256SUMS"


def test_sequences_after_a_restore_are_above_all_that_were_given_out(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/early", {"n": 1})
        saved = backup(box)
        for number in range(20):
            box.ask("PUT", f"/db/lost-{number}", {"n": number})
        highest = box.ask("GET", "/db/_changes").json["last_seq"]
        for _ in range(2):  # the same backup, twice
            restore(box, saved)
            box.ask("POST", "/db", {"n": 2})
            now = box.ask("GET", "/db/_changes").json["last_seq"]
            assert now > highest
            highest = now


def test_sequences_of_a_restore_do_not_rely_on_the_clock(tmp_path: Path) -> None:
    """Here an earlier restore was in the year 2060, before the clock was set right."""
    ahead = 2_840_000_000 << 20
    with Box(tmp_path) as box:
        saved = backup(box)
        mark = box.folder / "state/databases/db.sequences"
        mark.write_text(f'{{"source": "00", "began": {ahead}}}')
        restore(box, saved)
        box.ask("POST", "/db", {"n": 1})
        assert box.ask("GET", "/db/_changes").json["last_seq"] > ahead


def test_clients_go_on_after_a_restore_and_lose_nothing(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        one, other = PeerDatabase(), PeerDatabase()
        one.save("before", {"n": 1})
        sync(one, box.url)
        sync(other, box.url)
        saved = backup(box)
        one.save("between", {"n": 2})
        sync(one, box.url)
        sync(other, box.url)
        restore(box, saved)
        one.save("after", {"n": 3})
        sync(one, box.url)
        sync(other, box.url)
    assert other.get("after") == {"n": 3}
    assert one.get("between") == {"n": 2}
    assert other.get("between") == {"n": 2}


def test_a_client_that_is_connected_comes_back_after_a_restore(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        saved = backup(box)
        client = PeerDatabase()
        with ContinuousSync(client, box.url, retry_after_s=0.05) as syncing:
            syncing.wait_idle()
            restore(box, saved)
            client.save("after", {"n": 1})
            syncing.wait_for(lambda: syncing.result.pushed == 1)


def test_a_backup_is_made_while_clients_push(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        client = PeerDatabase()
        for number in range(2000):
            client.save(f"doc-{number}", {"n": number})
        pusher = threading.Thread(target=lambda: sync(client, box.url, pull=False))
        pusher.start()
        saved = [backup(box) for _ in range(3)]
        pusher.join()
        for content in saved:
            assert "result" in last_line(restore(box, content, "copy"))
            assert box.ask("POST", "/_edgesync/databases/copy/verify").content == b'{"result":[]}\n'


@pytest.mark.parametrize("damage", ["cut", "noise", "foreign", "flipped", "path"])
def test_what_is_no_sound_backup_changes_nothing(tmp_path: Path, damage: str) -> None:
    with Box(tmp_path) as box:
        for number in range(50):
            box.ask("PUT", f"/db/kept-{number}", {"text": "x" * 500})
        content = backup(box)
        refused = restore(box, damaged(content, damage))
        assert "error" in last_line(refused)
        assert box.ask("GET", "/db/kept-7").status == 200
        assert box.client.listener("test")["state"] == "serving"
        until_tidy(tmp_path)
        assert not (tmp_path / "evil").exists()


def damaged(content: bytes, damage: str) -> bytes:
    match damage:
        case "cut":
            return content[: len(content) // 2]
        case "noise":
            return b"\x55" * 5000
        case "flipped":
            middle = len(content) // 2
            return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        manifest = b'{"format":1}'
        if damage == "path":
            add(tar, "edgesync-backup.json", manifest)
        add(tar, "blobs/../../../../evil", b"x")
    return target.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def test_a_database_that_is_damaged_is_told_of_and_can_be_restored(tmp_path: Path) -> None:
    box = Box(
        tmp_path,
        settings='database = "db"\n[database.other]\n[listener.other]\ndatabase = "other"\n'
        'interface = "127.0.0.1"\nport = 0',
    )
    with box:
        box.ask("PUT", "/db/kept", {"n": 1})
        saved = backup(box)
        box.stop()
    box.database_file.write_bytes(b"noise" * 5000)
    for leftover in box.database_file.parent.glob("database.sqlite3-*"):
        leftover.unlink()
    with box.without_listener():
        status = box.client.status()
        assert any('database "db" is not open' in problem for problem in status["problems"])
        deadline = time.monotonic() + 10
        while box.client.listener("other")["state"] != "serving":
            assert time.monotonic() < deadline
        assert box.client.listener("test")["state"] == "stopped"
        assert box.ask("GET", "/db/kept").status == 500
        assert "result" in last_line(restore(box, saved))
        assert box.ask("GET", "/db/kept").json["n"] == 1
        assert box.client.listener("test")["state"] == "serving"


@pytest.mark.parametrize("finished", [False, True])
def test_a_restore_that_a_power_cut_interrupted_is_finished(tmp_path: Path, finished: bool) -> None:
    box = Box(tmp_path)
    with box:
        box.ask("PUT", "/db/kept", {"n": 1})
        box.stop()
    folder = box.database_file.parent
    former = folder.with_name(folder.name + ".replaced")
    if finished:
        former.mkdir()
    else:
        folder.rename(former)
    with box:
        assert box.ask("GET", "/db/kept").status == 200
        assert not former.exists()


def test_a_database_that_was_created_is_there_after_a_restart(tmp_path: Path) -> None:
    box = Box(tmp_path)
    with box:
        made = {"name": "stock", "collections": ["inventory.items"]}
        assert box.ask("POST", "/_edgesync/databases", made).status == 201
        assert box.ask("POST", "/_edgesync/databases", made).status == 409
        assert box.ask("POST", "/_edgesync/databases", {"name": "a/b"}).status == 400
        box.ask("PUT", "/stock.inventory.items/bolt", {"n": 1})
        box.stop()
    with box:
        assert box.ask("GET", "/stock.inventory.items/bolt").status == 200


def test_verify_finds_a_damaged_blob(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/photo/pic", body=b"\x89PNG" * 1000)
        blobs = box.database_file.parent / "blobs"
        (blob,) = (path for path in blobs.rglob("*") if path.is_file())
        blob.write_bytes(b"something else")
        told: list[tuple[int, int]] = []
        found = box.client.work(
            "/_edgesync/databases/db/verify", lambda done, total: told.append((done, total))
        )
    assert isinstance(found, list)
    assert "has another content" in found[0]


def test_compact_gives_room_back(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        revs = [box.ask("POST", "/db", {"text": "x" * 20_000}).json for _ in range(50)]
        for each in revs:
            box.ask("DELETE", f"/db/{each['id']}?rev={each['rev']}")
        result = box.client.work("/_edgesync/databases/db/compact", lambda _done, _total: None)
    assert isinstance(result, dict)
    assert result["bytes_after"] < result["bytes_before"] / 2


def test_a_backup_that_nobody_takes_leaves_nothing_behind(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/film/video", body=b"x" * 5_000_000)
        connection = box.connection()
        connection.request("GET", "/_edgesync/databases/db/backup")
        connection.getresponse().read(1000)
        connection.close()
        box.ask("GET", "/db")
        until_tidy(tmp_path)


def test_a_copy_has_an_identity_of_its_own(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        saved = backup(box)
        restore(box, saved, "copy")
        box.stop()
        sources = []
        for name in ("db", "copy"):
            file = tmp_path / f"state/databases/{name}.edgesync/database.sqlite3"
            connection = sqlite3.connect(file)
            query = "SELECT value FROM info WHERE key = 'source_id'"
            sources.append(connection.execute(query).fetchone()[0])
            connection.close()
    assert sources[0] != sources[1]


def test_work_that_fails_is_an_error_of_the_client(box: Box) -> None:
    with pytest.raises(ApiError, match="no whole backup of edgesync"):
        box.client.work(
            "/_edgesync/databases/db/restore", lambda _done, _total: None, body=[b"noise" * 1000]
        )
