"""The units under a systemd that runs: Debian 13's, with the whole sandbox."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.packaging.conftest import Start
from tests.packaging.machine import Machine
from tests.packaging.test_package import pull, push, wait_until_it_serves
from tests.waiting import eventually

KEY = "/etc/credstore.encrypted/edgesync.key"
CONFIG = "/etc/edgesync/edgesync.toml"
UNITS = ("edgesyncd.service", "edgesync-key.service")


def show(box: Machine, name: str) -> str:
    return box.run("systemctl", "show", "--value", f"--property={name}", "edgesyncd").strip()


def status_of_process(box: Machine) -> dict[str, str]:
    """Return what the kernel says about the service's process."""
    wait_until_it_serves(box)
    lines = box.run("cat", f"/proc/{show(box, 'MainPID')}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def change(box: Machine, settings: str) -> None:
    """Set something of the unit anew."""
    folder = box.file("/run/systemd/system/edgesyncd.service.d")
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text(f"[Service]\n{settings}\n")
    box.run("systemctl", "daemon-reload")


def test_units_are_without_a_complaint(shared: Machine) -> None:
    checked = shared.ended("systemd-analyze", "verify", "--man=no", *UNITS)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_service_runs_after_boot_and_says_how_it_is(shared: Machine) -> None:
    wait_until_it_serves(shared)
    eventually(lambda: show(shared, "ActiveState") == "active")
    assert show(shared, "StatusText").startswith("listeners: 1, clients: 0")


def test_nothing_failed(shared: Machine) -> None:
    wait_until_it_serves(shared)
    assert shared.run("systemctl", "--failed", "--plain", "--no-legend") == ""


def test_nothing_was_complained_about(shared: Machine) -> None:
    wait_until_it_serves(shared)
    lines = shared.run("journalctl", "-q", "-u", "edgesyncd", "-p", "warning", "-o", "cat")
    assert lines == ""


def test_it_runs_without_privileges(shared: Machine) -> None:
    status = status_of_process(shared)
    assert "0" not in status["Uid"].split()
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_key_is_there_for_the_service_alone(shared: Machine) -> None:
    wait_until_it_serves(shared)
    found = shared.run("stat", "-c", "%s", "/run/credentials/edgesyncd.service/edgesync.key")
    assert found.strip() == "32"
    looked = shared.ended(
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        "cat",
        "/run/credentials/edgesyncd.service/edgesync.key",
    )
    assert "Permission denied" in looked.stderr


def test_the_key_is_encrypted_and_for_root_alone(shared: Machine) -> None:
    wait_until_it_serves(shared)
    assert shared.run("stat", "-c", "%a %U", KEY) == "600 root\n"
    clear = shared.file("/run/credentials/edgesyncd.service/edgesync.key").read_bytes()
    assert clear not in shared.file(KEY).read_bytes()


def test_two_first_boots_make_two_keys(start: Start, shared: Machine) -> None:
    other = start()
    keys = set()
    for box in (shared, other):
        wait_until_it_serves(box)
        keys.add(box.file("/run/credentials/edgesyncd.service/edgesync.key").read_bytes())
    assert len(keys) == 2


def test_the_key_is_made_once(booted: Machine) -> None:
    wait_until_it_serves(booted)
    before = booted.file(KEY).read_bytes()
    booted.run("systemctl", "restart", "edgesync-key", "edgesyncd")
    assert booted.file(KEY).read_bytes() == before


def test_no_new_key_hides_that_the_one_of_a_key_store_is_gone(booted: Machine) -> None:
    wait_until_it_serves(booted)
    booted.run("rm", KEY)
    booted.run("mkdir", "-p", "/var/lib/edgesync/keys")
    booted.run("touch", "/var/lib/edgesync/keys/store")
    booted.run("systemctl", "start", "edgesync-key")
    assert not booted.file(KEY).exists()


def test_members_of_the_group_may_use_the_command(shared: Machine) -> None:
    wait_until_it_serves(shared)
    as_user = ("setpriv", "--reuid=nobody", "--regid=nogroup")
    allowed = shared.ended(*as_user, "--groups=edgesync", "edgesync", "--json", "status")
    assert json.loads(allowed.stdout)["listeners"]
    refused = shared.ended(*as_user, "--clear-groups", "edgesync", "--json", "status")
    assert refused.returncode == 4


def test_a_reload_takes_the_new_configuration_or_says_why_not(booted: Machine) -> None:
    wait_until_it_serves(booted)
    process, config = show(booted, "MainPID"), booted.file(CONFIG)
    good = config.read_text() + '[listener.local]\ninterface = "127.0.0.1"\nread_only = true\n'
    config.write_text(good)
    booted.run("systemctl", "reload", "edgesyncd")
    eventually(lambda: '"read_only": true' in booted.run("edgesync", "--json", "status"))
    config.write_text("[listener.local]\nprt = 1\n")
    booted.run("systemctl", "reload", "edgesyncd")
    eventually(lambda: "listener.local.prt is not a key" in show(booted, "StatusText"))
    explained = booted.run("journalctl", "-q", "-x", "-u", "edgesyncd", "-p", "err")
    assert "Subject: The configuration was not reloaded" in explained
    config.write_text(good)
    booted.run("systemctl", "reload", "edgesyncd")
    eventually(lambda: show(booted, "StatusText").endswith("of these active: 0"))
    assert show(booted, "ActiveState") == "active"
    assert show(booted, "MainPID") == process


def test_the_example_of_the_configuration_can_be_read_and_used(shared: Machine) -> None:
    path = "/usr/share/doc/edgesync/examples/edgesync.toml"
    assert shared.run("edgesyncd", "--config", path, "--check") == f"{path}: ok\n"


def test_a_hung_service_is_started_anew(booted: Machine) -> None:
    change(booted, "WatchdogSec=2\nTimeoutAbortSec=1")
    booted.run("systemctl", "restart", "edgesyncd")
    before = show(booted, "MainPID")
    booted.run("systemctl", "kill", "--signal=STOP", "edgesyncd")
    eventually(lambda: show(booted, "MainPID") not in (before, "0"))
    eventually(lambda: show(booted, "ActiveState") == "active")
    wait_until_it_serves(booted)
    assert show(booted, "NRestarts") == "1"


def test_a_killed_service_comes_back_with_its_documents(booted: Machine, tmp_path: Path) -> None:
    wait_until_it_serves(booted)
    push(booted, tmp_path / "from", boiler={"setpoint": 21})
    booted.run("systemctl", "kill", "--signal=KILL", "edgesyncd")
    eventually(lambda: show(booted, "NRestarts") == "1")
    wait_until_it_serves(booted)
    assert pull(booted, tmp_path / "to") == {"boiler": {"setpoint": 21}}


def test_a_service_that_cannot_start_is_tried_again_more_slowly(booted: Machine) -> None:
    wait_until_it_serves(booted)
    booted.file(CONFIG).write_text("[databse.x]\n")
    change(booted, "RestartSec=10ms\nRestartMaxDelaySec=1min\nRestartSteps=3")
    booted.ended("systemctl", "restart", "edgesyncd")
    eventually(lambda: show(booted, "RestartUSecNext") == "1min")
    eventually(lambda: show(booted, "SubState") == "auto-restart")


def test_the_journal_explains_why_it_does_not_start(booted: Machine) -> None:
    wait_until_it_serves(booted)
    booted.file(CONFIG).write_text("[databse.x]\n")
    booted.ended("systemctl", "restart", "edgesyncd")
    said = booted.run("journalctl", "-u", "edgesyncd", "-p", "err", "-x", "--no-hostname")
    assert "edgesyncd[" in said
    assert f"cannot run: {CONFIG}: databse is not a key that edgesyncd knows" in said
    assert "Subject: The configuration cannot be used" in said
    assert 'What to do: write "database"' in said


def test_it_stops_within_ten_seconds(booted: Machine) -> None:
    wait_until_it_serves(booted)
    began = time.monotonic()
    booted.run("systemctl", "stop", "edgesyncd")
    assert time.monotonic() - began < 10
    assert show(booted, "Result") == "success"


def test_the_socket_is_gone_when_it_is_stopped(booted: Machine) -> None:
    wait_until_it_serves(booted)
    booted.run("systemctl", "stop", "edgesyncd")
    stopped = booted.ended("edgesync", "--json", "status")
    assert stopped.returncode == 3
