"""What the doctor looks at on the machine; the causes are real where a test can make them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgesync.cli import checks
from edgesync.cli.checks import Level, Machine, Wanted

NOW = 1_800_000_000.0


def machine(folder: Path) -> Machine:
    return Machine(folder / "state", folder / "edgesync.sock", root=folder, now_s=NOW)


def lay_out(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- clock -----------------------------------------------------------------------


def test_a_clock_that_began_in_1970_is_wrong() -> None:
    finding = checks.clock(3600.0, 0.0)
    assert finding.level is Level.BAD
    assert "1970-01-01" in finding.text
    assert "timedatectl" in finding.hint


def test_a_clock_behind_what_was_written_is_wrong(tmp_path: Path) -> None:
    lay_out(tmp_path, {"state/databases/db.edgesync/database.sqlite3": "x"})
    file = tmp_path / "state/databases/db.edgesync/database.sqlite3"
    os.utime(file, (NOW + 10 * 86_400, NOW + 10 * 86_400))
    newest = checks.newest_moment(machine(tmp_path))
    assert checks.clock(NOW, newest).level is Level.BAD
    assert checks.clock(NOW + 20 * 86_400, newest).level is Level.GOOD


def test_this_clock_is_right() -> None:
    assert checks.clock(time.time(), 0.0).level is Level.GOOD


def test_the_kernel_says_whether_the_clock_is_synchronised() -> None:
    assert checks.kernel_clock_state() in (*range(6), None)
    assert checks.synchronised(0).level is Level.GOOD
    assert checks.synchronised(5).level is Level.WARNING
    assert checks.synchronised(None).level is Level.UNKNOWN


# --- disk ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "level"),
    [(10, Level.GOOD), (89, Level.GOOD), (90, Level.WARNING), (97, Level.BAD), (100, Level.BAD)],
)
def test_a_full_disk_is_told_in_time(used: int, level: Level) -> None:
    assert checks.disk_state(used, read_only=False).level is level


def test_a_read_only_disk_is_told() -> None:
    finding = checks.disk_state(10, read_only=True)
    assert (finding.level, "read-only" in finding.text) == (Level.BAD, True)


def test_the_disk_is_found_though_the_state_is_not_made_yet(tmp_path: Path) -> None:
    assert checks.disk(machine(tmp_path / "not" / "yet")).level is not Level.UNKNOWN


@pytest.mark.needs_root
def test_a_small_disk_that_is_full_and_then_read_only_is_told(tmp_path: Path) -> None:
    small = tmp_path / "state"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        (small / "filler").write_bytes(b"x" * 1_020_000)
        assert checks.disk(machine(tmp_path)).level is Level.BAD
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        assert "read-only" in checks.disk(machine(tmp_path)).text
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_worn_card_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path, {"sys/block/mmcblk0/device/life_time": "0x02 0x0a\n"})
    assert checks.wear(machine(tmp_path)).level is Level.BAD
    lay_out(tmp_path, {"sys/block/mmcblk0/device/life_time": "0x01 0x02\n"})
    finding = checks.wear(machine(tmp_path))
    assert (finding.level, finding.text) == (Level.GOOD, "20 % of the card's life are used")


# --- files -----------------------------------------------------------------------


def test_a_folder_that_others_may_enter_is_told_with_the_command_that_closes_it(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "state/keys"
    keys.mkdir(parents=True)
    keys.chmod(0o750)
    (finding,) = checks.permissions(machine(tmp_path))
    assert (finding.level, finding.hint.endswith(f'chmod 0700 {keys}"')) == (Level.BAD, True)
    keys.chmod(0o700)
    (finding,) = checks.permissions(machine(tmp_path))
    assert finding.level is Level.GOOD


def test_a_socket_for_everybody_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as open_one:
        open_one.bind(str(tmp_path / "edgesync.sock"))
        (tmp_path / "edgesync.sock").chmod(0o666)
        (finding,) = checks.permissions(machine(tmp_path))
    assert finding.level is Level.BAD


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        {
            "state/databases/good.edgesync/database.sqlite3": "SQLite format 3\0...",
            "state/databases/stock.edgesync/database.sqlite3": "noise",
        },
    )
    (finding,) = checks.files(machine(tmp_path))
    assert '"stock"' in finding.text
    assert "database restore stock FILE" in finding.hint


# --- the board -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milli_degrees", "level"),
    [("45000", Level.GOOD), ("76000", Level.WARNING), ("83500", Level.BAD)],
)
def test_the_hottest_sensor_counts(tmp_path: Path, milli_degrees: str, level: Level) -> None:
    lay_out(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": f"{milli_degrees}\n",
            "sys/class/thermal/thermal_zone1/temp": "20000\n",
        },
    )
    assert checks.temperature(machine(tmp_path)).level is level


@pytest.mark.parametrize(
    ("flags", "level"),
    [("0", Level.GOOD), ("50000", Level.WARNING), ("50005", Level.BAD), ("4", Level.WARNING)],
)
def test_a_weak_power_supply_is_told(tmp_path: Path, flags: str, level: Level) -> None:
    lay_out(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": f"{flags}\n"})
    assert checks.power(machine(tmp_path)).level is level


@pytest.mark.parametrize(("alarm", "level"), [("0", Level.GOOD), ("1", Level.BAD)])
def test_the_newer_way_to_tell_of_a_weak_supply_counts(
    tmp_path: Path, alarm: str, level: Level
) -> None:
    lay_out(
        tmp_path,
        {
            "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
            "sys/class/hwmon/hwmon1/in0_lcrit_alarm": f"{alarm}\n",
        },
    )
    assert checks.power(machine(tmp_path)).level is level


def test_a_machine_that_is_no_board_says_so(tmp_path: Path) -> None:
    findings = [
        checks.temperature(machine(tmp_path)),
        checks.power(machine(tmp_path)),
        checks.wear(machine(tmp_path)),
    ]
    assert {finding.level for finding in findings} == {Level.UNKNOWN}


# --- what keeps a service from starting --------------------------------------------


def test_a_taken_port_is_told_with_the_program_that_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        finding = checks.port(Wanted("field", None, number))
    assert finding is not None
    name = Path("/proc/self/comm").read_text().strip()
    taken = f'port {number} of listener "field" is taken by {name} (process {os.getpid()})'
    assert finding.text == taken


def test_a_free_port_is_none() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
    assert checks.port(Wanted("field", None, number)) is None
    assert checks.port(Wanted("field", None, 0)) is None


def test_an_interface_that_is_not_there_is_told_with_those_that_are() -> None:
    finding = checks.interface(Wanted("field", "wlan77", 4984))
    assert finding is not None
    assert "wlan77" in finding.text
    assert "lo" in finding.hint
    assert checks.interface(Wanted("field", "lo", 4984)) is None
    assert checks.interface(Wanted("field", "127.0.0.1", 4984)) is None
    assert checks.interface(Wanted("field", "fe80::1%lo", 4984)) is None


@pytest.mark.needs_root
def test_an_interface_that_is_down_or_has_no_address_is_told() -> None:
    program = (
        "from edgesync.cli.checks import Wanted, interface\n"
        "import subprocess\n"
        "def ip(*words): subprocess.run(['ip', *words], check=True)\n"
        "ip('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1')\n"
        "ip('link', 'set', 'v0', 'addrgenmode', 'none')\n"
        "print(interface(Wanted('field', 'v0', 1)).text)\n"
        "ip('link', 'set', 'v0', 'up'); ip('link', 'set', 'v1', 'up')\n"
        "while 'down' in interface(Wanted('field', 'v0', 1)).text: pass\n"  # up to a second
        "print(interface(Wanted('field', 'v0', 1)).text)\n"
        "ip('addr', 'add', '192.0.2.1/24', 'dev', 'v0')\n"
        "print(interface(Wanted('field', 'v0', 1)))\n"
    )
    command = ["unshare", "--net", sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if "unshare:" in ended.stderr or "RTNETLINK" in ended.stderr:
        pytest.skip(f"may not make a network namespace: {ended.stderr.strip()[-100:]}")
    told = 'interface v0 of listener "field"'
    assert ended.stdout.splitlines() == [f"{told} is down", f"{told} has no address", "None"]


def test_the_configuration_says_what_is_wanted(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.toml": '[listener.field]\ninterface = "eth0"\nport = 5000\n'})
    assert checks.configuration(tmp_path / "a.toml") == ([Wanted("field", "eth0", 5000)], [])


def test_without_a_configuration_the_embedded_one_counts(tmp_path: Path) -> None:
    assert checks.configuration(tmp_path / "none")[0] == [Wanted("local", "127.0.0.1", 4984)]


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.toml": "[listener"})
    listeners, (finding,) = checks.configuration(tmp_path / "a.toml")
    assert listeners == []
    assert "edgesyncd --config" in finding.hint
