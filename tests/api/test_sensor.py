"""The sensor programs of examples/, and how fast their readings reach clients."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync, sync
from tests.api.box import Box

ROOT = Path(__file__).parents[2]
READINGS = 30


def run(box: Box, *command: str) -> str:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "EDGESYNC_SOCKET": str(box.socket)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout


def test_the_shell_program_stores_readings(box: Box) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    before = box.ask("GET", "/db").json["doc_count"]
    assert run(box, "examples/sensor.sh", "db", "2").count('"ok":true') == 2
    assert box.ask("GET", "/db").json["doc_count"] == before + 2


def test_the_python_program_replaces_its_reading(box: Box) -> None:
    said = run(box, sys.executable, "examples/sensor.py", "db.inventory.items", "2")
    assert [line.split()[1][:2] for line in said.splitlines()] == ["1-", "2-"]
    client = PeerDatabase()
    sync(client, box.url, push=False, collections=["inventory.items"])
    reading = client.get("load", "inventory.items")
    assert reading is not None
    assert set(reading) == {"load", "at"}


def test_a_reading_reaches_clients_within_milliseconds(box: Box) -> None:
    database = PeerDatabase()
    arrived = threading.Event()
    database.add_change_listener(arrived.set)
    client = ContinuousSync(database, box.url)
    times = []
    try:
        while not client.is_idle:
            time.sleep(0.02)
        for number in range(READINGS):
            arrived.clear()
            began = time.monotonic()
            box.ask("PUT", f"/db/reading-{number}", {"n": number})
            while database.get(f"reading-{number}") is None:
                arrived.wait(5)
            times.append(time.monotonic() - began)
    finally:
        client.stop()
    print(f"median {statistics.median(times) * 1000:.1f} ms, worst {max(times) * 1000:.1f} ms")
    # The promise is 25 ms on a machine that is not busy with tests.
    assert statistics.median(times) < 0.25
