"""The machine of this tier: booted once, then restored for each test in a second or two."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lan import Lan
from needs import Record, named
from qemu import FOR_TESTS, Qemu, Start

READY = "ready"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.needs_qemu)


@pytest.fixture(scope="session")
def disks() -> Path:
    return named("EDGESYNC_VM", "the disks of the machine")


@pytest.fixture(scope="session")
def booted(disks: Path, record: Record) -> Iterator[Qemu]:
    """Boot it for the first time, and keep what it is then until its disks are made anew."""
    kept = disks / "booted"
    if not kept.exists():
        first_boot(disks, kept)
    record("vm: first boot, from power on to serving", float((kept / "seconds").read_text()), "s")
    machine = Debian(disks, kept)
    yield machine
    machine.off()


def first_boot(disks: Path, kept: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="booting-", dir=disks))
    machine = Debian(disks, folder)
    try:
        (folder / "seconds").write_text(f"{machine.on():.1f}")
        machine.wait_for_ssh()
        machine.wait_for(lambda: has_booted(machine), "all units are up", 600)
        machine.save(READY)
    finally:
        machine.off()
    folder.rename(kept)


class Debian(Qemu):
    """The package on an ordinary Debian."""

    def __init__(self, made: Path, folder: Path) -> None:
        images = (made / "root.img", made / "data.img")
        super().__init__(images, folder, made / "key")
        self._made = made

    def start_from(self) -> Start:
        return Start(
            self._made / "vmlinuz",
            self._made / "initrd.img",
            f"console=ttyAMA0 {FOR_TESTS} root=LABEL=root rootwait rw",
        )


def has_booted(machine: Qemu) -> bool:
    state = machine.run("systemctl is-system-running", check=False).strip()
    return state in ("running", "degraded")


@pytest.fixture
def appliance(booted: Qemu) -> Iterator[Qemu]:
    """Return the machine, on and as it was after its first boot."""
    booted.restore(READY)
    yield booted
    booted.off()


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as made:
        yield made


@pytest.fixture
def on_lan(booted: Qemu, lan: Lan) -> Iterator[Qemu]:
    """Return the machine, on, with a neighbour."""
    booted.restore(READY, lan)
    yield booted
    booted.off()
