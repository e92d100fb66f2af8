"""Many documents, large blobs, sudden ends: against the process that users run."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.active_peer.failures import SyncError
from tests.active_peer.peer_database import DEFAULT_COLLECTION, PeerDatabase
from tests.active_peer.sync import sync
from tests.integration.service import Service

WORDS = ("pump", "valve", "pressure", "boiler", "level", "bilge", "engine", "oil", "water")
KILLS = 30
MIB = 1024 * 1024


def reading(number: int, size: int = 1000) -> dict[str, object]:
    """Return a document of about that many bytes."""
    rng = random.Random(number)
    text = ""
    while len(text) < size - 60:
        text += rng.choice(WORDS) + " "
    return {"n": number, "value": rng.random(), "text": text}


def test_ten_thousand_documents(tmp_path: Path) -> None:
    first, second = PeerDatabase(), PeerDatabase()
    for number in range(10_000):
        first.save(f"doc-{number:05}", reading(number))
    with Service(tmp_path) as service:
        pushed = sync(first, service.url, pull=False)
        pulled = sync(second, service.url, push=False)
        assert service.stop() == 0
    assert (pushed.pushed, pulled.pulled) == (10_000, 10_000)
    assert pushed.complaints == pulled.complaints == []
    assert second.digest(revisions=True) == first.digest(revisions=True)


def test_large_blob_never_sits_in_memory(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    rng = random.Random(7)
    with source.open("wb") as stream:
        for _ in range(200):
            stream.write(rng.randbytes(MIB))
    first, second = PeerDatabase(tmp_path / "first"), PeerDatabase(tmp_path / "second")
    with Service(tmp_path) as service:
        warm = PeerDatabase()
        warm.save("warm", {"pic": warm.save_blob(b"x" * 100_000, "image/png")})
        sync(warm, service.url)
        before = service.memory_kib()
        first.save("film", {"film": first.save_blob(source, "video/mp4")})
        sync(first, service.url, pull=False)
        sync(second, service.url, push=False)
        grown = service.peak_memory_kib() - before
    assert second.missing_blobs() == []
    assert second.get("film") == first.get("film")
    assert grown < 16 * 1024, f"{grown} KiB"


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    rng = random.Random(11)
    client = PeerDatabase()
    service = Service(tmp_path)
    for round_number in range(KILLS):
        for number in range(200):
            client.save(f"doc-{round_number}-{number}", reading(number, 500))
        with service:
            killer = threading.Timer(rng.uniform(0.0, 0.25), service.kill)
            killer.start()
            with contextlib.suppress(SyncError):  # killed in the middle
                sync(client, service.url, pull=False, timeout_s=10)
            killer.join()
        check_integrity(service.database_file)
        assert_acknowledged_are_there(client, service)
    with service:
        sync(client, service.url, pull=False)
        other = PeerDatabase()
        assert sync(other, service.url, push=False).complaints == []
    assert other.digest(revisions=True) == client.digest(revisions=True)


def check_integrity(file: Path) -> None:
    if not file.exists():
        return  # killed before it was made
    connection = sqlite3.connect(file)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def assert_acknowledged_are_there(client: PeerDatabase, service: Service) -> None:
    """Compare what the client counts as pushed with the rows of the file."""
    known = client.remote(service.url).of(DEFAULT_COLLECTION)
    acknowledged = {(doc_id, server.rev_id) for doc_id, server in known.items()}
    if not service.database_file.exists():
        assert not acknowledged
        return
    connection = sqlite3.connect(service.database_file)
    try:
        stored = set(connection.execute("SELECT doc_id, rev_id FROM document"))
    finally:
        connection.close()
    assert acknowledged <= stored


def test_client_resumes_where_the_killed_service_left_it(tmp_path: Path) -> None:
    client, other = PeerDatabase(), PeerDatabase()
    service = Service(tmp_path)
    with service:
        for number in range(50):
            client.save(f"doc-{number}", {"n": number})
        sync(client, service.url)
        sync(other, service.url)
        service.kill()
    with service:
        client.save("late", {"n": 1})
        again = sync(client, service.url)
        assert (again.pushed, again.already_there, again.pulled) == (1, 0, 0)
        resumed = sync(other, service.url)
        assert resumed.pulled == 1


def test_stop_while_a_client_pushes_loses_nothing(tmp_path: Path) -> None:
    client = PeerDatabase()
    for number in range(5_000):
        client.save(f"doc-{number}", reading(number))
    service = Service(tmp_path)
    with service:
        stopper = threading.Timer(0.2, service.stop)
        stopper.start()
        with pytest.raises(SyncError) as caught:
            sync(client, service.url, pull=False)
        stopper.join()
        assert caught.value.close_code == 4001
    assert "Traceback" not in service.log
    check_integrity(service.database_file)
    assert_acknowledged_are_there(client, service)


def test_folder_of_json_files_goes_through(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    values = {
        "reading": {"n": 1, "big": 9007199254740993, "f": 1.0, "text": "Füllstand \U0001d11e"},
        "empty": {},
        "nested": {"a": [1, [2, {"b": None}], True], "": ""},
    }
    for name, value in values.items():
        (source / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False))
    with Service(tmp_path) as service:
        for verb, folder in (("push", source), ("pull", target)):
            done = subprocess.run(
                [sys.executable, "-m", "tests.active_peer", verb, service.url, str(folder)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in target.glob("*.json")}
    found.pop(".active_peer", None)
    assert found == values
    assert isinstance(found["reading"]["f"], float)


def test_service_is_idle_when_its_clients_are(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        sync(PeerDatabase(), service.url)
        time.sleep(0.5)
        before = service.cpu_s()
        time.sleep(2)
        assert service.cpu_s() - before < 0.1
