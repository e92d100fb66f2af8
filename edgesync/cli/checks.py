"""What `doctor` looks at on the machine itself; each check is a function that returns findings.

Nothing here asks the service, as it may be down. Files of the kernel are looked up
below `Machine.root`, so that what a board would say can be laid out in a folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import stat
import struct
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

DAY_S: Final = 86_400
FIRST_YEAR: Final = 1_735_689_600  # 2025: no edgesync is older
FULL_PERCENT: Final = 90
VERY_FULL_PERCENT: Final = 97
HOT_C: Final = 75
TOO_HOT_C: Final = 80  # a Raspberry Pi slows down from here
LISTENING: Final = "0A"
DEFAULT_PORT: Final = 4984
SIOCGIFFLAGS: Final = 0x8913  # these three are of netdevice(7)
SIOCGIFADDR: Final = 0x8915
IFF_RUNNING: Final = 0x40
LINK_SCOPE: Final = "20"  # in /proc/net/if_inet6
TIME_ERROR: Final = 5  # of adjtimex(2)
ALL_WRITES_FAIL: Final = "nothing can be stored"
SQLITE_MAGIC: Final = b"SQLite format 3\0"


class Level(Enum):
    """How bad it is."""

    GOOD = "ok"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    level: Level
    text: str
    hint: str = ""
    """What to do; empty if there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look, and what time it is."""

    state_folder: Path
    socket: Path
    root: Path = Path("/")
    now_s: float = 0.0

    @classmethod
    def here(cls, state_folder: Path, socket: Path) -> Machine:
        """Return this machine, now."""
        return cls(state_folder, socket, now_s=time.time())


def good(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.GOOD, text)


def warning(check: str, text: str, hint: str) -> Finding:
    """Return a finding that somebody should act."""
    return Finding(check, Level.WARNING, text, hint)


def bad(check: str, text: str, hint: str) -> Finding:
    """Return a finding that somebody must act."""
    return Finding(check, Level.BAD, text, hint)


def unknown(check: str, text: str) -> Finding:
    """Return a finding that cannot be made here."""
    return Finding(check, Level.UNKNOWN, text)


def everything(machine: Machine) -> Iterator[Finding]:
    """Yield what all checks find."""
    yield clock(machine.now_s, newest_moment(machine))
    yield synchronised(kernel_clock_state())
    yield disk(machine)
    yield from permissions(machine)
    yield from files(machine)
    yield temperature(machine)
    yield power(machine)
    yield wear(machine)


# --- clock --------------------------------------------------------------------------------


def clock(now_s: float, newest_s: float) -> Finding:
    """Judge the time of day by what must be in the past."""
    today = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now_s))
    hint = 'set it with "sudo timedatectl set-time", or let the box reach a time server'
    if now_s < FIRST_YEAR:
        return bad("clock", f"the clock says {today}, which cannot be; clients would refuse "
                   "the certificates", hint)  # fmt: skip
    if now_s + DAY_S < newest_s:
        newest = time.strftime("%Y-%m-%d", time.gmtime(newest_s))
        return bad("clock", f"the clock says {today}, but the box was in use on {newest}", hint)
    return good("clock", f"{today} UTC")


def newest_moment(machine: Machine) -> float:
    """Return the latest time of change of what the service writes, 0 if there is nothing."""
    newest = 0.0
    for path in _database_files(machine):
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def synchronised(state: int | None) -> Finding:
    """Judge what the kernel says about its clock."""
    if state is None:
        return unknown("time server", "the kernel does not say whether the clock is synchronised")
    if state == TIME_ERROR:
        return warning(
            "time server",
            "the clock is not synchronised",
            'let the box reach a time server; "timedatectl timesync-status" shows which one',
        )
    return good("time server", "the clock is synchronised")


def kernel_clock_state() -> int | None:
    """Return what adjtimex(2) says; None if it cannot be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        answer = int(libc.adjtimex(ctypes.create_string_buffer(512)))
    except (OSError, AttributeError):
        return None
    return answer if answer >= 0 else None


# --- disk ---------------------------------------------------------------------------------


def disk(machine: Machine) -> Finding:
    """Judge the file system of the state."""
    found = None
    for folder in (machine.state_folder, *machine.state_folder.parents):
        try:
            found = os.statvfs(folder)
            break
        except OSError:  # it is not there yet, or not ours to look at
            continue
    if found is None:
        return unknown("disk", "no file system can be looked at")
    used = 100 - 100 * found.f_bavail // max(1, found.f_blocks)
    read_only = bool(found.f_flag & os.ST_RDONLY) or gave_up(folder, machine.root)
    return disk_state(used, read_only=read_only)


def gave_up(folder: Path, root: Path = Path("/")) -> bool:
    """Tell whether the kernel takes no more writes to a file system, after an error of its own.

    Since Linux 6.14 nothing but the options of the mount says so.
    """
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    rows = [line.split() for line in _text(root / "proc/self/mountinfo").splitlines()]
    return any(row[2] == number and "emergency_ro" in row[-1].split(",") for row in rows)


def disk_state(used_percent: int, *, read_only: bool) -> Finding:
    """Judge how full a file system is."""
    hint = 'remove what is not needed; "edgesync database compact NAME" gives room back'
    if read_only:
        return bad(
            "disk",
            f"the file system is read-only: {ALL_WRITES_FAIL}",
            'look for errors with "dmesg"; a card that went read-only is worn out: replace it',
        )
    if used_percent >= VERY_FULL_PERCENT:
        return bad("disk", f"{used_percent} % are used: soon {ALL_WRITES_FAIL}", hint)
    if used_percent >= FULL_PERCENT:
        return warning("disk", f"{used_percent} % are used", hint)
    return good("disk", f"{used_percent} % are used")


def wear(machine: Machine) -> Finding:
    """Judge what the card says about its age, in tenths of its life."""
    worst = 0
    for file in machine.root.glob("sys/block/mmcblk*/device/life_time"):
        worst = max([worst, *(int(each, 16) for each in file.read_text().split())])
    if not worst:
        return unknown("card wear", "the card does not say how worn it is")
    text = f"{min(100, worst * 10)} % of the card's life are used"
    if worst >= 9:
        return bad("card wear", text, "back up now, and replace the card")
    return good("card wear", text)


# --- files --------------------------------------------------------------------------------


def permissions(machine: Machine) -> Iterator[Finding]:
    """Judge who may enter the state and use the socket."""
    wrong = list(_wrong_modes(machine))
    yield from wrong
    if not wrong:
        yield good("permissions", "only who should can read the state and use the socket")


def _wrong_modes(machine: Machine) -> Iterator[Finding]:
    for name in ("databases", "keys"):
        path = machine.state_folder / name
        if (mode := _mode(path)) is not None and mode & 0o077:
            yield bad(
                "permissions",
                f"others may enter {path}: its mode is {stat.S_IMODE(mode):04o}",
                f'close it with "sudo chmod 0700 {path}"',
            )
    mode = _mode(machine.socket)
    if mode is not None and mode & 0o007:
        yield bad(
            "permissions",
            f"everybody may use {machine.socket}: its mode is {stat.S_IMODE(mode):04o}",
            "restart edgesyncd, which makes it anew",
        )


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def files(machine: Machine) -> Iterator[Finding]:
    """Look at the heads of the databases' files; `verify` looks at all of them."""
    for path in _database_files(machine):
        try:
            with path.open("rb") as file:
                head = file.read(len(SQLITE_MAGIC))
        except OSError as error:
            yield bad("database files", f"{path} cannot be read: {error.strerror}", "see dmesg")
            continue
        if head != SQLITE_MAGIC:
            name = path.parent.name.removesuffix(".edgesync")
            yield bad(
                "database files",
                f'the file of database "{name}" is damaged: its head is not SQLite\'s',
                f'put a backup back with "edgesync database restore {name} FILE"',
            )


def _database_files(machine: Machine) -> list[Path]:
    try:
        return sorted(machine.state_folder.glob("databases/*.edgesync/database.sqlite3"))
    except OSError:
        return []


# --- the board ----------------------------------------------------------------------------


def temperature(machine: Machine) -> Finding:
    """Judge the hottest sensor."""
    readings = [
        int(text) / 1000
        for file in machine.root.glob("sys/class/thermal/thermal_zone*/temp")
        if (text := _text(file)).lstrip("-").isdecimal()
    ]
    if not readings:
        return unknown("temperature", "there is no sensor")
    hottest = max(readings)
    hint = "give it air or a heat sink"
    if hottest >= TOO_HOT_C:
        return bad("temperature", f"{hottest:.0f} °C: the board slows down", hint)
    if hottest >= HOT_C:
        return warning("temperature", f"{hottest:.0f} °C", hint)
    return good("temperature", f"{hottest:.0f} °C")


def power(machine: Machine) -> Finding:
    """Judge what a Raspberry Pi says about its supply."""
    hint = "use the board's own power supply and a short, thick cable"
    flags = _text(machine.root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if flags:
        value = int(flags, 16)
        if value & 0x1:
            return bad("power", "the voltage is too low now: the card may be damaged", hint)
        if value & 0x10000:
            return warning("power", "the voltage was too low since the start", hint)
        if value & 0x6:
            return warning("power", "the board is slowed down now", "see temperature")
        return good("power", "the voltage is good")
    for name in machine.root.glob("sys/class/hwmon/hwmon*/name"):
        if _text(name) == "rpi_volt":
            if _text(name.with_name("in0_lcrit_alarm")) == "1":
                return bad("power", "the voltage is too low now: the card may be damaged", hint)
            return good("power", "the voltage is good")
    return unknown("power", "this board does not say whether its supply is good")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# --- what keeps a service from starting ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """A listener that the configuration asks for."""

    name: str
    interface: str | None
    port: int


def configuration(path: Path) -> tuple[list[Wanted], list[Finding]]:
    """Return the listeners of a configuration file, and what is wrong with the file.

    Only what a stopped service needs to be understood; "edgesyncd --check" checks all.
    """
    default = [Wanted("local", "127.0.0.1", DEFAULT_PORT)]
    try:
        root = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return default, []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = f'"edgesyncd --config {path} --check" says more'
        return [], [bad("configuration", f"{path} cannot be used: {reason}", hint)]
    tables = root.get("listener")
    if not isinstance(tables, dict) or not tables:
        return default, []
    return [_wanted(name, each) for name, each in tables.items() if isinstance(each, dict)], []


def _wanted(name: str, table: Mapping[str, object]) -> Wanted:
    interface, port = table.get("interface"), table.get("port", DEFAULT_PORT)
    return Wanted(
        name,
        interface if isinstance(interface, str) else None,
        port if isinstance(port, int) else 0,
    )


def port(wanted: Wanted, root: Path = Path("/")) -> Finding | None:
    """Look whether another program has a listener's port; None: it is free."""
    inode = _listening_inode(wanted.port, root) if wanted.port else None
    if inode is None:
        return None
    owner = _owner(inode, root)
    return bad(
        "port",
        f'port {wanted.port} of listener "{wanted.name}" is taken by {owner}',
        "stop that program, or choose another port in the configuration",
    )


def _listening_inode(number: int, root: Path) -> str | None:
    for table in ("proc/net/tcp", "proc/net/tcp6"):
        for line in _text(root / table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == number:
                return fields[9]
    return None


def _owner(inode: str, root: Path) -> str:
    """Return the name of the program that holds a socket, as far as we may know."""
    for link in root.glob("proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) == f"socket:[{inode}]":
                process = link.parents[1]
                return f"{_text(process / 'comm')} (process {process.name})"
        except OSError:
            continue
    return "another program"


def interface(wanted: Wanted) -> Finding | None:
    """Look whether a listener's interface is there and has an address; None: it has."""
    name = wanted.interface
    if name is None or not _is_name(name):
        return None
    where = f'interface {name} of listener "{wanted.name}"'
    known = sorted(each for _, each in socket.if_nameindex())
    if name not in known:
        return bad(
            "interface",
            f"{where} is not there",
            f"plug it in, or name another one in the configuration: {', '.join(known)}",
        )
    if not _flags(name) & IFF_RUNNING:
        return bad(
            "interface",
            f"{where} is down",
            f'check cable or radio, then "sudo ip link set {name} up"',
        )
    if not _has_address(name):
        return bad(
            "interface",
            f"{where} has no address",
            "check the DHCP server of the network, or give it a fixed address",
        )
    return None


def _flags(name: str) -> int:
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
    return int(struct.unpack_from("H", answer, 16)[0])


def _has_address(name: str) -> bool:
    """Tell whether an interface has an IPv4 address, or an IPv6 one that is not link-local."""
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, suppress(OSError):
        fcntl.ioctl(any_socket, SIOCGIFADDR, request)
        return True
    rows = (line.split() for line in _text(Path("/proc/net/if_inet6")).splitlines())
    return any(row[5] == name and row[3] != LINK_SCOPE for row in rows)


def _is_name(interface_or_address: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, interface_or_address.partition("%")[0])
        except OSError:
            continue
        return False
    return True
