#!/usr/bin/python3
"""Apply `edgesync-setup.toml`, which somebody put on the boot partition of a card.

A box has neither screen nor keyboard, and its image holds no secret: what it
is to be called, who may log in and which network it joins comes in this file.
It is read whole before anything is changed, and every mistake in it is told
in `edgesync-setup.errors.txt` beside it; a file with a mistake changes nothing.

Two steps, each a unit: `apply` before the network and edgesyncd start, and
`users` when edgesyncd runs, as it alone opens the key store. The second removes
the file, so a power cut in between only makes both happen again. In this order
a password is never on the data partition, not even for a moment.

What it does not name stays as it was: a later file with another [wifi] changes
the radio alone. The tables of edgesync.toml are judged by edgesyncd itself.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Table = Mapping[str, object]

# Windows shows the second as the first.
NAMES: Final = ("edgesync-setup.toml", "edgesync-setup.toml.txt")
ERRORS_NAME: Final = "edgesync-setup.errors.txt"
SERVICE_TABLES: Final = ("database", "listener", "limits")
KEY_STORE: Final = '[key_store]\nunlock = "credential:edgesync.key"\n'
LOGIN: Final = "tech"
FAILED: Final = {
    "apply": "edgesync-setup.toml was not applied, and nothing was changed. Correct this, and"
    " start the box again:",
    "users": "All of edgesync-setup.toml was applied, but for its users. This is tried again"
    " whenever the box starts:",
}

HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
COUNTRY: Final = re.compile(r"[A-Z]{2}")
RAW_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")
PASSPHRASE: Final = re.compile(r"[ -~]{8,63}")
ZONE: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
KEY_TYPES: Final = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")
BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
MAX_SSID_BYTES: Final = 32
PSK_ROUNDS: Final = 4096  # IEEE 802.11i, annex on passphrases
PSK_BYTES: Final = 32
COMMAND_TIMEOUT_S: Final = 120  # a small board checks in some seconds


class SetupError(Exception):
    """What is wrong with the file, a sentence for each mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Wifi:
    """A network to join."""

    ssid: str
    key: str | None
    """64 hexadecimal digits; None: the network is open."""
    country: str
    hidden: bool


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a file says; None and empty: not mentioned."""

    hostname: str | None = None
    timezone: str | None = None
    serial_login: bool | None = None
    wifi: Wifi | None = None
    ssh_keys: tuple[str, ...] | None = None
    users: Mapping[str, str] = field(default_factory=dict)
    service: Mapping[str, Table] = field(default_factory=dict)


# --- reading --------------------------------------------------------------------


def read_setup(path: Path, zones: Path) -> Setup:
    """Read a file.

    Args:
        path: The file.
        zones: The folder of the time zones.

    Raises:
        SetupError: It says what cannot be done, with all mistakes.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        table = tomllib.loads(text.replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        problem = f"the file is not UTF-8 at byte {error.start}; save it as UTF-8"
        raise SetupError([problem]) from error
    except tomllib.TOMLDecodeError as error:
        problem = f"the file is not TOML: {error}; compare the line with the example's"
        raise SetupError([problem]) from error
    reader = _Reader(table, zones)
    setup = reader.setup()
    if reader.problems:
        raise SetupError(reader.problems)
    return setup


class _Reader:
    """Takes a table apart, and goes on after a mistake to find them all."""

    def __init__(self, table: Table, zones: Path) -> None:
        self._table = table
        self._zones = zones
        self.problems: list[str] = []

    def setup(self) -> Setup:
        known = ("hostname", "timezone", "serial_login", "wifi", "ssh", "users", *SERVICE_TABLES)
        self._allow("", self._table, known)
        return Setup(
            hostname=self._hostname(),
            timezone=self._timezone(),
            serial_login=self._serial_login(),
            wifi=self._wifi(self._section("wifi")) if "wifi" in self._table else None,
            ssh_keys=self._ssh_keys(self._section("ssh")) if "ssh" in self._table else None,
            users=self._users(self._section("users")),
            service={name: self._section(name) for name in SERVICE_TABLES if name in self._table},
        )

    def _hostname(self) -> str | None:
        name = self._string("hostname", self._table, "hostname")
        if name is not None and not HOST_NAME.fullmatch(name):
            self._tell(
                "hostname",
                f"{name!r} is no name for a host",
                "use a to z, 0 to 9 and hyphens within, at most 63 of them",
            )
        return name

    def _timezone(self) -> str | None:
        zone = self._string("timezone", self._table, "timezone")
        if zone is not None and not (ZONE.fullmatch(zone) and (self._zones / zone).is_file()):
            self._tell(
                "timezone", f"{zone!r} is not known", 'write it like "Europe/Berlin", or "UTC"'
            )
        return zone

    def _serial_login(self) -> bool | None:
        value = self._table.get("serial_login")
        if value is not None and not isinstance(value, bool):
            self._tell("serial_login", "is neither true nor false", "write it without quotes")
            return None
        return value

    def _wifi(self, table: Table) -> Wifi:
        self._allow("wifi.", table, ("ssid", "passphrase", "country", "hidden"))
        ssid = self._string("wifi.ssid", table, "ssid") or ""
        if not 0 < len(ssid.encode()) <= MAX_SSID_BYTES:
            self._tell("wifi.ssid", "is missing or too long", "write the network's name, 32 bytes")
        country = self._string("wifi.country", table, "country") or ""
        if not COUNTRY.fullmatch(country):
            self._tell(
                "wifi.country",
                "is missing or no country",
                'write its two capital letters, like "DE": they say which channels are allowed',
            )
        hidden = table.get("hidden", False)
        if not isinstance(hidden, bool):
            self._tell("wifi.hidden", "is neither true nor false", "write it without quotes")
        return Wifi(ssid, self._wifi_key(table, ssid), country, hidden is True)

    def _wifi_key(self, table: Table, ssid: str) -> str | None:
        passphrase = self._string("wifi.passphrase", table, "passphrase")
        if passphrase is None:
            return None
        if RAW_KEY.fullmatch(passphrase):
            return passphrase.lower()
        if not PASSPHRASE.fullmatch(passphrase):
            self._tell(
                "wifi.passphrase",
                "cannot be one",
                "it has 8 to 63 letters, digits or signs without accents; leave the key out if"
                " the network is open",
            )
            return None
        return hashlib.pbkdf2_hmac(
            "sha1", passphrase.encode(), ssid.encode(), PSK_ROUNDS, PSK_BYTES
        ).hex()

    def _ssh_keys(self, table: Table) -> tuple[str, ...]:
        self._allow("ssh.", table, ("keys",))
        keys = table.get("keys")
        if not isinstance(keys, list) or not keys:
            self._tell(
                "ssh.keys",
                "is not a list of public keys",
                'write keys = ["ssh-ed25519 AAAA... me"]',
            )
            return ()
        for number, key in enumerate(keys, start=1):
            if not _is_public_key(key):
                self._tell(
                    "ssh.keys",
                    f"number {number} is not a public key",
                    "copy the one line of a file like id_ed25519.pub",
                )
        return tuple(str(key).strip() for key in keys)

    def _users(self, table: Table) -> Mapping[str, str]:
        users: dict[str, str] = {}
        for name, password in table.items():
            if not isinstance(password, str) or not password or not password.isprintable():
                self._tell(
                    f"users.{name}", "has no password", 'write NAME = "PASSWORD", in one line'
                )
            elif not name.isprintable() or not name or ":" in name or name.startswith("-"):
                self._tell(
                    f"users.{name}", "cannot be a user", "leave out colons and what is unseen"
                )
            else:
                users[name] = password
        return users

    def _section(self, name: str) -> Table:
        value = self._table.get(name, {})
        if not isinstance(value, dict):
            self._tell(name, "is not a table", f"write [{name}] on a line of its own")
            return {}
        return value

    def _string(self, where: str, table: Table, key: str) -> str | None:
        value = table.get(key)
        if value is not None and not isinstance(value, str):
            self._tell(where, "is not a text", "write it in quotes")
            return None
        return value

    def _allow(self, where: str, table: Table, known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                self._tell(f"{where}{key}", "is not known", f"known are {', '.join(known)}")

    def _tell(self, where: str, what: str, way_out: str) -> None:
        self.problems.append(f"{where}: {what}; {way_out}")


def _is_public_key(key: object) -> bool:
    """Whether it is a line of authorized_keys without options: those could run programs."""
    parts = key.split() if isinstance(key, str) and key.isprintable() else []
    if len(parts) < 2 or not parts[0].startswith(KEY_TYPES):
        return False
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        return False
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length] == parts[0].encode()


# --- what is written ------------------------------------------------------------


def wpa_supplicant(wifi: Wifi) -> str:
    """Return a wpa_supplicant.conf; the passphrase itself cannot be got from it."""
    secret = f"key_mgmt=WPA-PSK WPA-PSK-SHA256\n    psk={wifi.key}" if wifi.key else "key_mgmt=NONE"
    return (
        f"country={wifi.country}\n"
        "network={\n"
        f"    ssid={wifi.ssid.encode().hex()}\n"
        f"    scan_ssid={int(wifi.hidden)}\n"
        f"    {secret}\n"
        "}\n"
    )


def edgesync_toml(service: Mapping[str, Table]) -> str:
    """Return the text of an edgesync.toml with these tables, and the machine's key store."""
    head = "# Made from edgesync-setup.toml; change it, then: systemctl restart edgesyncd\n"
    return head + "".join(f"\n{part}" for part in [KEY_STORE, *_sections(service, ())])


def _sections(table: Table, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the tables below a table, each as text; arrays of tables are nobody's here."""
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if path and (values or not table):
        header = ".".join(_key(part) for part in path)
        yield f"[{header}]\n" + "".join(f"{_key(k)} = {_value(v)}\n" for k, v in values.items())
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _sections(value, (*path, key))


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else json.dumps(name)


def _value(value: object) -> str:
    """Return a value in TOML, which for these types is JSON."""
    return json.dumps(value if isinstance(value, (str, int, float, list)) else str(value))


@dataclass(frozen=True, slots=True)
class Box:
    """The file system to set up."""

    root: Path

    @property
    def boot(self) -> Path:
        """The boot partition."""
        return self.root / "boot/firmware"

    @property
    def setup_file(self) -> Path | None:
        """The file, if there is one."""
        return next((p for name in NAMES if (p := self.boot / name).is_file()), None)

    @property
    def zones(self) -> Path:
        """The folder of the time zones."""
        return self.root / "usr/share/zoneinfo"

    def apply(self, setup: Setup) -> None:
        """Make the box what the file says, but for the users.

        Raises:
            SetupError: edgesyncd cannot run with it; nothing was changed.
        """
        config = self.root / "etc/edgesync/edgesync.toml"
        if setup.service:
            self._check_service(config, edgesync_toml(setup.service))
            self._write(config, edgesync_toml(setup.service), 0o644)
        if setup.timezone is not None:
            self._link("etc/localtime", f"/usr/share/zoneinfo/{setup.timezone}")
        if setup.wifi is not None:
            path = self.root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf"
            self._write(path, wpa_supplicant(setup.wifi), 0o600)
        if setup.ssh_keys is not None:
            # Root's own, and read by sshd as the user: who logs in cannot let others in.
            path = self.root / "etc/ssh/authorized_keys" / LOGIN
            self._write(path, "".join(f"{key}\n" for key in setup.ssh_keys), 0o644)
        if setup.serial_login is not None:
            path = self.root / "etc/edgesync-image/serial-login"
            path.unlink(missing_ok=True)
            if setup.serial_login:
                self._write(path, "", 0o644)
        if setup.hostname is not None:
            self._write(self.root / "etc/hostname", f"{setup.hostname}\n", 0o644)
            if self.root == Path("/"):
                socket.sethostname(setup.hostname)

    def add_users(self, users: Mapping[str, str]) -> None:
        """Add these to the key store, or change their passwords.

        Raises:
            SetupError: edgesyncd did not take one.
        """
        for name, password in users.items():
            added = _run(["edgesync", "user", "add", name], password)
            if added.returncode == 0:
                continue
            changed = _run(["edgesync", "user", "password", name], password)
            if changed.returncode != 0:
                raise SetupError([f"users.{name}: {added.stderr.strip()}"])

    def tell(self, head: str, problems: Sequence[str]) -> None:
        """Write what is wrong beside the file, for who puts the card in a computer again."""
        text = f"{head}\n\n" + "".join(f"- {problem}\n" for problem in problems)
        # The reader may well be Windows.
        self._write(self.boot / ERRORS_NAME, text.replace("\n", "\r\n"), 0o600)

    def forget(self) -> None:
        """Remove the file and what was wrong with earlier ones."""
        while (path := self.setup_file) is not None:
            with path.open("r+b") as file:
                file.write(b" " * path.stat().st_size)
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        (self.boot / ERRORS_NAME).unlink(missing_ok=True)
        os.sync()

    def _check_service(self, config: Path, text: str) -> None:
        """Ask edgesyncd. In the folder where it will be, as it names files beside it."""
        candidate = config.with_suffix(".check.toml")
        self._write(candidate, text, 0o644)
        try:
            checked = _run(["edgesyncd", "--config", str(candidate), "--check"])
        finally:
            candidate.unlink()
        if checked.returncode != 0:
            told = checked.stderr.strip().removeprefix("edgesyncd: ")
            raise SetupError([told.replace(str(candidate), "edgesync-setup.toml")])

    def _write(self, path: Path, text: str, mode: int) -> None:
        """Write a file so that after a power cut there is the old one or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def _link(self, name: str, target: str) -> None:
        path = self.root / name
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(path)


def _run(command: Sequence[str], line: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, a secret on its standard input."""
    try:
        return subprocess.run(  # noqa: S603  # our own command
            command,
            input=f"{line}\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        problem = f"{command[0]} did not answer in {COMMAND_TIMEOUT_S} s; start the box again"
        raise SetupError([problem]) from error


# --- the command ----------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Apply edgesync-setup.toml.")
    parser.add_argument(
        "step", choices=["apply", "users"], help="before and after edgesyncd starts"
    )
    parser.add_argument("--root", type=Path, default=Path("/"), help="of the system to set up")
    options = parser.parse_args(arguments)
    box = Box(options.root)
    path = box.setup_file
    if path is None:
        return 0
    try:
        setup = read_setup(path, box.zones)
        if options.step == "apply":
            box.apply(setup)
            os.sync()
        else:
            box.add_users(setup.users)
            box.forget()
    except SetupError as error:
        box.tell(FAILED[options.step], error.problems)
        sys.stderr.writelines(f"{path.name}: {problem}\n" for problem in error.problems)
        return 1
    sys.stdout.write(f"{path.name}: {options.step}: done\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
