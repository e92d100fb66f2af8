"""`edgesync-setup.toml`: applied whole or not at all, and told in plain words."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parents[2]
PROGRAM: Final = PROJECT / "image-build/device/usr/lib/edgesync-image/first_boot.py"
EXAMPLE: Final = PROJECT / "image-build/boot/edgesync-setup.example.toml"
SSH_KEY: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@laptop"
)

# In place of the command on a box, whose service has a key store that nobody here can open.
EDGESYNC: Final = """#!/bin/sh
read -r password
echo "$* $password" >>"$LOG"
case "$* $EXISTS" in "user add ann ann") echo "exists" >&2; exit 1 ;; esac
"""


class Box:
    """A root file system, and what the program did to it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.log = folder / "log"
        for name in ("boot/firmware", "etc/edgesync", "usr/share/zoneinfo/Europe"):
            (self.root / name).mkdir(parents=True)
        (self.root / "usr/share/zoneinfo/Europe/Berlin").write_bytes(b"TZif")
        (self.root / "etc/edgesync/edgesync.toml").write_text("# as packaged\n")
        (self.root / "etc/hostname").write_text("edgesync\n")
        self.bin.mkdir()
        (self.bin / "edgesync").write_text(EDGESYNC)
        (self.bin / "edgesync").chmod(0o755)
        (self.bin / "edgesyncd").symlink_to(Path(sys.executable).with_name("edgesyncd"))
        self.exists = ""

    def put(self, text: str | bytes, name: str = "edgesync-setup.toml") -> None:
        data = text if isinstance(text, bytes) else text.encode()
        (self.root / "boot/firmware" / name).write_bytes(data)

    def run(self, step: str) -> int:
        path = f"{self.bin}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "LOG": str(self.log), "EXISTS": self.exists}
        command = [sys.executable, str(PROGRAM), step, "--root", str(self.root)]
        return subprocess.run(command, env=environment, check=False, timeout=60).returncode

    def apply(self, text: str | bytes) -> int:
        self.put(text)
        return self.run("apply")

    def file(self, name: str) -> Path:
        return self.root / name

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    @property
    def errors(self) -> str:
        path = self.file("boot/firmware/edgesync-setup.errors.txt")
        return path.read_text() if path.exists() else ""

    def everything(self) -> dict[str, bytes]:
        """Every file but those of the boot partition."""
        files = (path for path in self.root.rglob("*") if path.is_file() or path.is_symlink())
        return {
            str(path): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            for path in files
            if "boot/firmware" not in str(path)
        }


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_without_a_file_nothing_happens(box: Box) -> None:
    before = box.everything()
    assert box.run("apply") == 0
    assert box.everything() == before


def test_host_name_is_set(box: Box) -> None:
    assert box.apply('hostname = "kitchen"') == 0
    assert box.read("etc/hostname") == "kitchen\n"


def test_time_zone_is_set(box: Box) -> None:
    assert box.apply('timezone = "Europe/Berlin"') == 0
    assert os.readlink(box.file("etc/localtime")) == "/usr/share/zoneinfo/Europe/Berlin"


def test_what_is_not_named_stays(box: Box) -> None:
    assert box.apply('timezone = "Europe/Berlin"') == 0
    assert box.read("etc/hostname") == "edgesync\n"
    assert box.read("etc/edgesync/edgesync.toml") == "# as packaged\n"


def test_keys_let_people_log_in(box: Box) -> None:
    assert box.apply(f'[ssh]\nkeys = ["{SSH_KEY}"]') == 0
    assert box.read("etc/ssh/authorized_keys/tech") == f"{SSH_KEY}\n"


def test_the_radio_gets_a_key_and_not_the_passphrase(box: Box) -> None:
    text = '[wifi]\nssid = "Market Hall"\npassphrase = "correct horse"\ncountry = "DE"'
    assert box.apply(text) == 0
    name = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf"
    key = hashlib.pbkdf2_hmac("sha1", b"correct horse", b"Market Hall", 4096, 32).hex()
    assert f"psk={key}\n" in box.read(name)
    assert "country=DE\n" in box.read(name)
    assert f"ssid={b'Market Hall'.hex()}\n" in box.read(name)
    assert "correct horse" not in box.read(name)
    assert box.file(name).stat().st_mode & 0o777 == 0o600


def test_an_open_network_needs_no_passphrase(box: Box) -> None:
    assert box.apply('[wifi]\nssid = "Hall"\ncountry = "DE"') == 0
    assert "key_mgmt=NONE" in box.read("etc/wpa_supplicant/wpa_supplicant-wlan0.conf")


def test_serial_login_is_switched_on_and_off(box: Box) -> None:
    assert box.apply("serial_login = true") == 0
    assert box.file("etc/edgesync-image/serial-login").exists()
    assert box.apply("serial_login = false") == 0
    assert not box.file("etc/edgesync-image/serial-login").exists()


def test_listeners_are_written_with_the_key_store(box: Box) -> None:
    assert box.apply("[database.stock]\n[listener.field]\nport = 5000\nread_only = true\n") == 0
    config = tomllib.loads(box.read("etc/edgesync/edgesync.toml"))
    assert config["database"] == {"stock": {}}
    assert config["listener"] == {"field": {"port": 5000, "read_only": True}}
    assert config["key_store"] == {"unlock": "credential:edgesync.key"}


def test_edgesyncd_judges_its_tables(box: Box) -> None:
    before = box.everything()
    assert box.apply('hostname = "kitchen"\n[listener.field]\nprot = 5000') == 1
    assert "listener.field.prot" in box.errors
    assert "port" in box.errors
    assert ".check.toml" not in box.errors
    assert box.everything() == before


def test_a_file_with_mistakes_changes_nothing_and_all_are_told(box: Box) -> None:
    before = box.everything()
    text = (
        'hostname = "Küche"\ntimezone = "Berlin"\nhostnam = "x"\nserial_login = "yes"\n'
        '[wifi]\nssid = "Hall"\npassphrase = "short"\ncountry = "Germany"\n[ssh]\nkeys = ["abc"]'
    )
    assert box.apply(text) == 1
    assert box.everything() == before
    for name in (
        "hostname",
        "timezone",
        "hostnam",
        "serial_login",
        "wifi.passphrase",
        "wifi.country",
        "ssh.keys",
    ):
        assert f"- {name}: " in box.errors


def test_a_mistake_never_shows_a_secret(box: Box) -> None:
    text = (
        '[wifi]\nssid = "Hall"\npassphrase = "geheim"\ncountry = "DE"\n[users]\nann = "a\\u0007b"'
    )
    assert box.apply(text) == 1
    assert "geheim" not in box.errors
    assert "\u0007" not in box.errors


def test_a_file_with_mistakes_stays_to_be_corrected(box: Box) -> None:
    assert box.apply("hostname = 1") == 1
    assert box.file("boot/firmware/edgesync-setup.toml").exists()


def test_what_is_no_toml_is_told_with_its_line(box: Box) -> None:
    assert box.apply('hostname = "kitchen"\ntimezone = Europe/Berlin') == 1
    assert "line 2" in box.errors


def test_what_is_no_utf_8_is_told(box: Box) -> None:
    assert box.apply('hostname = "kitchen"'.encode("utf-16")) == 1
    assert "UTF-8" in box.errors


def test_what_notepad_writes_is_read(box: Box) -> None:
    assert (
        box.apply(
            b'\xef\xbb\xbfhostname = "kitchen"\r\n[ssh]\r\nkeys = ["%s"]\r\n' % SSH_KEY.encode()
        )
        == 0
    )
    assert box.read("etc/hostname") == "kitchen\n"


def test_the_ending_that_windows_hides_is_accepted(box: Box) -> None:
    box.put('hostname = "kitchen"', "edgesync-setup.toml.txt")
    assert box.run("apply") == 0
    assert box.read("etc/hostname") == "kitchen\n"


def test_keys_cannot_carry_options(box: Box) -> None:
    assert box.apply(f"[ssh]\nkeys = ['command=\"reboot\" {SSH_KEY}']") == 1
    assert "number 1 is not a public key" in box.errors


def test_a_private_key_is_refused(box: Box) -> None:
    # Its first line alone, so that nobody's scanner finds a key here.
    text = "[ssh]\nkeys = [" + "'-----BEGIN OPENSSH " + "PRIVATE KEY-----']"
    assert box.apply(text) == 1


def test_users_are_added_with_their_password_on_standard_input(box: Box) -> None:
    box.put('[users]\nann = "a good password"')
    assert box.run("users") == 0
    assert box.log.read_text() == "user add ann a good password\n"


def test_a_user_that_exists_gets_the_password(box: Box) -> None:
    box.exists = "ann"
    box.put('[users]\nann = "new"')
    assert box.run("users") == 0
    assert box.log.read_text().splitlines()[-1] == "user password ann new"


def test_the_file_is_removed_when_users_are_added(box: Box) -> None:
    assert box.apply('[users]\nann = "a good password"') == 0
    assert box.file("boot/firmware/edgesync-setup.toml").exists()
    assert box.run("users") == 0
    assert not list(box.file("boot/firmware").iterdir())


def test_earlier_errors_are_removed_after_success(box: Box) -> None:
    box.apply("hostname = 1")
    assert box.errors
    box.apply('hostname = "kitchen"')
    box.run("users")
    assert not box.errors


def test_no_password_reaches_the_data_partition(box: Box) -> None:
    assert box.apply('hostname = "kitchen"\n[users]\nann = "a good password"') == 0
    assert box.run("users") == 0
    assert not any(b"a good password" in data for data in box.everything().values())


def test_the_example_can_be_used_as_it_is(box: Box) -> None:
    assert box.apply(EXAMPLE.read_text()) == 0


def test_the_example_can_be_used_with_all_of_it(box: Box) -> None:
    lines = EXAMPLE.read_text().splitlines()
    settings = [line.removeprefix("# ") for line in lines if " = " in line or "[" in line]
    text = "\n".join(settings).replace('"..."', '"12345678"')
    text = text.replace("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA... me@laptop", SSH_KEY)
    assert box.apply(text) == 0, box.errors
