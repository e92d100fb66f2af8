"""The doctor with a service: each cause is made, and has to be found."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgesync.api.answers import ListenerAnswer
from edgesync.cli.checks import Level
from edgesync.cli.doctor import certificate, discovery
from tests.api.box import Box
from tests.cli.desk import Desk


def findings(desk: Desk, arguments: str = "") -> dict[str, dict[str, Any]]:
    """Return what is found by check; the worst of each."""
    found: dict[str, dict[str, Any]] = {}
    for each in json.loads(desk.raw(f"edgesync --json doctor {arguments} 2>/dev/null")):
        if each["check"] not in found or each["level"] == "bad":
            found[each["check"]] = each
    return found


def test_a_box_that_is_well_has_nothing_bad(tmp_path: Path) -> None:
    with Box(tmp_path):
        found = findings(Desk(tmp_path))
    assert found["service"]["level"] == "ok"
    assert found["listener"]["level"] == "ok"
    assert found["database"]["level"] == "ok"
    assert found["permissions"]["level"] == "ok"


def test_a_service_that_is_down_is_found(tmp_path: Path) -> None:
    found = findings(Desk(tmp_path), "--config none")
    assert found["service"]["level"] == "bad"
    assert "systemctl start edgesyncd" in found["service"]["hint"]


def test_the_port_that_kept_the_service_from_starting_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = tmp_path / "edgesync.toml"
        config.write_text(f'[listener.field]\ninterface = "127.0.0.1"\nport = {port}\n')
        found = findings(Desk(tmp_path), f"--config {config}")
    assert f"port {port}" in found["port"]["text"]


def test_a_listener_that_waits_for_its_interface_is_found(tmp_path: Path) -> None:
    settings = 'database = "db"\n[listener.radio]\ndatabase = "db"\n'
    with Box(tmp_path, settings=f'{settings}interface = "wlan77"\nadvertise = false') as box:
        deadline = time.monotonic() + 10
        while box.client.listener("radio")["state"] != "waiting":
            assert time.monotonic() < deadline
        found = findings(Desk(tmp_path))
    assert found["interface"]["level"] == "bad"
    assert "wlan77" in found["interface"]["text"]
    assert found["listener"]["level"] == "ok"


def test_a_database_that_is_damaged_while_it_is_served_is_found(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.ask("PUT", "/db/photo/pic", body=b"\x89PNG" * 100)
        blobs = box.database_file.parent / "blobs"
        (blob,) = (path for path in blobs.rglob("*") if path.is_file())
        blob.write_bytes(b"other")
        desk = Desk(tmp_path)
        found = findings(desk)
        assert findings(desk, "--quick").get("database") is None
    assert found["database"]["level"] == "bad"
    assert "database restore db" in found["database"]["hint"]


def test_a_database_that_cannot_be_opened_is_found(tmp_path: Path) -> None:
    box = Box(tmp_path)
    with box:
        box.stop()
    box.database_file.write_bytes(b"noise" * 1000)
    for leftover in box.database_file.parent.glob("database.sqlite3-*"):
        leftover.unlink()
    desk = Desk(tmp_path)
    with box.without_listener():
        found = findings(desk)
        status = desk.type("edgesync status | tail -4")
    assert found["database"]["level"] == "bad"
    assert found["listener"]["level"] == "bad"
    assert found["database files"]["level"] == "bad"
    assert '! database "db" is not open' in status
    assert '! "edgesync doctor" says what to do' in status


def test_a_database_whose_clock_was_set_back_is_found(tmp_path: Path) -> None:
    ahead_s = 3 * 3600 + 60
    box = Box(tmp_path)
    with box:
        box.stop()
    with closing(sqlite3.connect(box.database_file, isolation_level=None)) as connection:
        ahead_ns = int((time.time() + ahead_s) * 1e9)
        connection.execute("UPDATE info SET value = ? WHERE key = 'clock'", (ahead_ns,))
    with box:
        reported = box.client.database("db")["versions_ahead_s"]
        findings_ = json.loads(Desk(tmp_path).raw("edgesync --json doctor --quick"))
    assert ahead_s - 60 < reported <= ahead_s
    (found,) = (each for each in findings_ if each["text"].startswith('database "db"'))
    assert found["level"] == "warning"
    assert "its versions are 3 h" in found["text"]
    assert "timedatectl" in found["hint"]


def test_a_configuration_that_could_not_be_reloaded_is_found(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        (tmp_path / "edgesync.toml").write_text("[listener.x]\nprt = 1\n")
        box.reload()
        deadline = time.monotonic() + 10
        while not box.client.status()["config_problems"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        desk = Desk(tmp_path)
        found = findings(desk, "--quick")
        status = desk.type("edgesync status | tail -2")
    assert found["configuration"]["level"] == "bad"
    assert "listener.x.prt is not a key" in found["configuration"]["text"]
    assert "! the configuration was not reloaded, and the former one goes on: " in status


def listener(expires_in: timedelta, label: str | None) -> ListenerAnswer:
    ends = datetime.now(UTC) + expires_in
    return {"name": "field", "identity": label, "expires_at": ends.isoformat()}  # type: ignore[typeddict-item]  # what counts


def test_a_certificate_that_has_ended_is_found_with_the_command_that_renews_it() -> None:
    finding = certificate(listener(timedelta(days=-1), "kitchen"), datetime.now(UTC))
    assert finding.level is Level.BAD
    assert '"edgesync identity renew kitchen"' in finding.hint


def test_a_certificate_that_ends_soon_is_found() -> None:
    assert certificate(listener(timedelta(days=5), None), datetime.now(UTC)).level is Level.WARNING
    assert certificate(listener(timedelta(days=50), None), datetime.now(UTC)).level is Level.GOOD


def test_mdns_that_is_blocked_is_found() -> None:
    ours = {"field on kitchen"}
    assert discovery({}, ours, ours | {"other"}).level is Level.GOOD
    assert discovery({}, ours, {"other"}).level is Level.BAD
    assert discovery({"eth0": "permission denied"}, set(), set()).level is Level.BAD
    assert discovery({}, set(), {"other"}).level is Level.UNKNOWN
    assert "5353" in discovery({}, ours, set()).hint
