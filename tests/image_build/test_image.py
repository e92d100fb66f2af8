"""What `make image` made, without starting it: no secret is in it, and nobody owns too much.

`make image` runs this at its end; elsewhere it is skipped until there is an image.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PROJECT: Final = Path(__file__).parents[2]
BUILD: Final = PROJECT / "build/image"
SQUASHFS: Final = BUILD / "root.squashfs"
CERTIFICATE: Final = BUILD / "root/etc/rauc/keyring.pem"
TOOLS: Final = ("unsquashfs", "mdir", "mtype", "sfdisk", "rauc")

# A header alone is in every program that reads keys.
PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s:,-]{60,}")
HAS_KEYS_TO_TEST_ITSELF: Final = re.compile(r"libgnutls\.so\.[\d.]+")
MAY_BECOME_ROOT: Final = {
    "/usr/bin/chfn",
    "/usr/bin/chsh",
    "/usr/bin/gpasswd",
    "/usr/bin/mount",
    "/usr/bin/newgrp",
    "/usr/bin/passwd",
    "/usr/bin/su",
    "/usr/bin/sudo",
    "/usr/bin/umount",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",
    "/usr/lib/openssh/ssh-keysign",
    "/usr/lib/polkit-1/polkit-agent-helper-1",
}
EDGESYNC_ID: Final = "900"
SECTOR: Final = 512


def card() -> Path | None:
    """Return the image, None if it or what looks into it is missing."""
    images = sorted(PROJECT.glob("dist/edgesync-*-arm64.img"))
    return images[-1] if images and SQUASHFS.exists() else None


def reason_to_skip() -> str:
    """Return why nothing can be looked at; empty if it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if card() is None:
        return 'no image has been built: "make image"'
    return f"missing: {', '.join(missing)}" if missing else ""


pytestmark = pytest.mark.skipif(reason_to_skip() != "", reason=reason_to_skip() or "-")


class Entry(NamedTuple):
    """A file as the image has it."""

    mode: str
    owner: str
    path: str


def output(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    return done.stdout


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    listed = output("unsquashfs", "-lln", "-dest", "", SQUASHFS).splitlines()
    found: dict[str, Entry] = {}
    for line in listed:
        if match := re.fullmatch(r"(\S{10}) (\d+/\d+)\s+\d[\d, ]* [\d-]{10} [\d:]{5} (\S.*)", line):
            mode, owner, rest = match.groups()
            path = rest.split(" -> ")[0] or "/"
            found[path] = Entry(mode, owner, path)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("image") / "root"
    output("unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", folder, SQUASHFS)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image() -> Path:
    found = card()
    assert found is not None
    return found


class Part(NamedTuple):
    """A partition, in bytes."""

    start: int
    size: int


@pytest.fixture(scope="module")
def parts(image: Path) -> dict[str, Part]:
    rows = re.findall(
        r'start=\s*(\d+), size=\s*(\d+),.*name="(\w+)"', output("sfdisk", "--dump", image)
    )
    return {name: Part(int(start) * SECTOR, int(size) * SECTOR) for start, size, name in rows}


def boot_file(image: Path, parts: dict[str, Part], name: str) -> str:
    return output("mtype", "-i", f"{image}@@{parts['boot'].start}", f"::{name}")


# --- no secret ------------------------------------------------------------------


def test_no_private_key_is_in_it(tree: Path) -> None:
    files = (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    found = [path for path in files if PRIVATE_KEY.search(path.read_bytes())]
    assert [str(each) for each in found if not HAS_KEYS_TO_TEST_ITSELF.fullmatch(each.name)] == []


def test_no_account_has_a_password(tree: Path) -> None:
    lines = (tree / "etc/shadow").read_text().splitlines()
    passwords = {line.split(":")[0]: line.split(":")[1] for line in lines}
    assert passwords["tech"] == "!"
    assert set(passwords.values()) <= {"*", "!", "!*"}


def test_devices_make_their_own_machine_id(tree: Path) -> None:
    assert (tree / "etc/machine-id").read_text() == "uninitialized\n"
    assert not (tree / "var/lib/dbus/machine-id").exists()


@pytest.mark.parametrize(
    "pattern",
    [
        "etc/ssh/ssh_host_*",
        "etc/ssh/authorized_keys/*",
        "etc/credstore*/*",
        "etc/wpa_supplicant/*.conf",
        "var/lib/systemd/credential.secret",
        "var/lib/systemd/random-seed",
        "var/lib/edgesync/*",
        "home/*/.*",
        "root/.ssh/*",
        "root/.*history",
        "var/log/journal/*",
    ],
)
def test_what_devices_make_for_themselves_is_absent(tree: Path, pattern: str) -> None:
    assert list(tree.glob(pattern)) == []


def test_nobody_is_set_up_on_the_boot_partition(image: Path, parts: dict[str, Part]) -> None:
    names = output("mdir", "-b", "-i", f"{image}@@{parts['boot'].start}", "::")
    assert "::/edgesync-setup.example.toml" in names.splitlines()
    assert "::/edgesync-setup.toml" not in names.splitlines()


def test_updates_are_trusted_by_certificate(tree: Path) -> None:
    keyring = (tree / "etc/rauc/keyring.pem").read_text()
    assert keyring.startswith("-----BEGIN CERTIFICATE-----")


def test_no_path_of_the_building_machine_is_in_it(tree: Path) -> None:
    ours = [*(tree / "usr/lib/edgesync-image").rglob("*"), *(tree / "etc/apt").rglob("*")]
    texts = {path: path.read_bytes() for path in ours if path.is_file()}
    assert [path for path, text in texts.items() if str(PROJECT).encode() in text] == []
    assert [path for path in texts if "mmdebstrap" in path.name] == []


# --- owners and modes -----------------------------------------------------------


def test_programs_that_become_another_user_are_known(entries: dict[str, Entry]) -> None:
    found = {e.path for e in entries.values() if e.mode[0] == "-" and "s" in e.mode[3]}
    assert found <= MAY_BECOME_ROOT


def test_nothing_can_be_written_by_everybody(entries: dict[str, Entry]) -> None:
    open_to_all = [e for e in entries.values() if e.mode[0] in "-d" and e.mode[8] == "w"]
    assert [e for e in open_to_all if e.mode[9] not in "tT"] == []


def test_every_owner_has_a_name(entries: dict[str, Entry], tree: Path) -> None:
    users, groups = (
        {line.split(":")[2] for line in (tree / "etc" / name).read_text().splitlines()}
        for name in ("passwd", "group")
    )
    owners = {entry.owner for entry in entries.values()}
    assert {owner.split("/")[0] for owner in owners} <= users
    assert {owner.split("/")[1] for owner in owners} <= groups


@pytest.mark.parametrize(
    ("path", "mode", "owner"),
    [
        ("/etc/sudoers.d/edgesync", "-r--r-----", "0/0"),
        ("/etc/credstore.encrypted", "drwx------", "0/0"),
        ("/usr/lib/edgesync-image/slots", "-rwxr-xr-x", "0/0"),
        ("/etc/rauc/system.conf", "-rw-r--r--", "0/0"),
    ],
)
def test_mode_and_owner(entries: dict[str, Entry], path: str, mode: str, owner: str) -> None:
    assert entries[path] == Entry(mode, owner, path)


def test_the_service_owns_its_data_under_the_same_number_in_every_image(tree: Path) -> None:
    lines = (tree / "etc/passwd").read_text().splitlines()
    numbers = {line.split(":")[0]: line.split(":")[2] for line in lines}
    assert numbers["edgesync"] == EDGESYNC_ID


# --- what runs ------------------------------------------------------------------


def test_edgesyncd_starts_and_nothing_updates_by_itself(tree: Path) -> None:
    wants = {path.name for path in tree.glob("etc/systemd/system/*.wants/*")}
    assert {"edgesyncd.service", "edgesync-setup.service", "ssh.service"} <= wants
    assert not {name for name in wants if name.startswith(("apt-", "dpkg-"))}


def test_python_has_no_need_to_compile_at_each_start(tree: Path) -> None:
    package = tree / "usr/lib/python3/dist-packages/edgesync"
    sources = {path.stem for path in package.rglob("*.py")}
    compiled = {path.name.split(".")[0] for path in package.rglob("*.pyc")}
    assert sources == compiled


# --- the card -------------------------------------------------------------------


def test_partitions(parts: dict[str, Part]) -> None:
    assert list(parts) == ["boot", "system_a", "system_b", "data"]
    assert parts["system_a"].size == parts["system_b"].size


def test_the_data_partition_is_blank(image: Path, parts: dict[str, Part]) -> None:
    with image.open("rb") as file:
        file.seek(parts["data"].start)
        assert not any(file.read(1 << 20))


def test_slot_a_is_the_squashfs(image: Path, parts: dict[str, Part]) -> None:
    with image.open("rb") as file, SQUASHFS.open("rb") as expected:
        file.seek(parts["system_a"].start)
        while chunk := expected.read(1 << 22):
            assert file.read(len(chunk)) == chunk


def test_the_boot_partition_starts_slot_a(image: Path, parts: dict[str, Part]) -> None:
    assert boot_file(image, parts, "config.txt").startswith("os_prefix=a/\n")
    assert "root=PARTLABEL=system_a " in boot_file(image, parts, "a/cmdline.txt")
    assert "rauc.slot=a " in boot_file(image, parts, "a/cmdline.txt")


def test_the_update_is_signed_and_for_this_board() -> None:
    (bundle,) = PROJECT.glob("dist/edgesync-*-arm64.raucb")
    told = output("rauc", "info", f"--keyring={CERTIFICATE}", "--output-format=shell", bundle)
    assert "RAUC_MF_COMPATIBLE='edgesync-arm64'" in told
