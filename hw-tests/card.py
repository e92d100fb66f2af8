"""A machine that starts from an SD image.

QEMU has no firmware of a Pi. What that does is done here, at each start and at each
reset: look into config.txt on the boot partition for the slot, take kernel, initrd and
command line from its folder.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from qemu import FOR_TESTS, SECTOR, Power, Qemu, Start

USER: Final = "tech"
CARD_SIZE: Final = "4G"
SETUP: Final = "edgesync-setup.toml"
PI_3: Final = "bcm2837-rpi-3-b.dtb"
ERRORS: Final = "edgesync-setup.errors.txt"
PASSWORD: Final = "a good password of nobody"
SETUP_FILE: Final = f"""
hostname = "cellar"
timezone = "Europe/Berlin"

[ssh]
keys = ["KEY"]

[database.db]

[listener.field]
database = "db"

[listener.guarded]
database = "db"
port = 4985
authenticator = "password"

[users]
ann = "{PASSWORD}"
"""


class Partition(NamedTuple):
    """Where a partition is, in sectors."""

    first: int
    sectors: int


class Card(Qemu):
    """An SD image on a card of its own in a machine."""

    def __init__(self, image: Path, setup: str, folder: Path, key: Path, user: str) -> None:
        """Write the image to a card, and a setup file for the first boot beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.partitions = partitions(image)
        written = folder / "card.img"
        subprocess.run(["cp", "--sparse=always", image, written], check=True, timeout=120)
        offset = self.partitions["boot"].first * SECTOR
        if setup:
            _mtools("mcopy", "-i", f"{written}@@{offset}", "-", f"::{SETUP}", given=setup.encode())
        super().__init__([written], folder, key, user=user, size=CARD_SIZE)
        self._around = Power()
        self._firmware: threading.Thread | None = None
        self._is_wanted = False

    def power(self, around: Power | None = None) -> None:
        """Switch it on; it stays on when it resets itself."""
        self._is_wanted = True
        super().power(around)
        self._firmware = threading.Thread(target=self._start_after_resets, daemon=True)
        self._firmware.start()

    def off(self) -> None:
        """Cut the power."""
        self._is_wanted = False
        super().off()
        if self._firmware is not None:
            self._firmware.join(timeout=60)
            self._firmware = None
            super().off()  # a reset and the cut at the same moment

    def _start_after_resets(self) -> None:
        while (process := self._process) is not None:
            process.wait()
            if not self._is_wanted:
                return
            self._start(Power(lan=self._around.lan))

    def _command(self, around: Power) -> list[str | Path]:
        self._around = around
        # QEMU ends at a reset, as the firmware is ours.
        return [*super()._command(around), "-no-reboot"]

    def start_from(self) -> Start:
        """Return what config.txt names."""
        boot = self.partition("boot")
        prefix = _prefix(_file(boot, "config.txt").decode())
        for name in ("vmlinuz", "initrd.img"):
            (self.folder / name).write_bytes(_file(boot, prefix + name))
        command_line = _file(boot, prefix + "cmdline.txt").decode().strip()
        return Start(
            self.folder / "vmlinuz",
            self.folder / "initrd.img",
            re.sub(r"console=\S+ ?", "", command_line) + f" console=ttyAMA0 {FOR_TESTS}",
        )

    # --- what is on the card ----------------------------------------------------------

    def partition(self, name: str) -> Path:
        """Copy a partition into a file."""
        return self.copied_part(*self.partitions[name])

    def boot_files(self) -> Mapping[str, bytes]:
        """Return the files at the root of the boot partition that people write and read."""
        boot = self.partition("boot")
        listed = _mtools("mdir", "-b", "-i", str(boot), "::/").decode().split("\n")
        names = [line.removeprefix("::/") for line in listed if line and not line.endswith("/")]
        return {name: _file(boot, name) for name in names if name.endswith((".toml", ".txt"))}


class Pi3(Card):
    """The same card in QEMU's Raspberry Pi 3: its device tree, SD slot and USB network."""

    def board(self) -> list[str]:
        """Return the arguments for the board; its processors are fixed."""
        boot = self.partition("boot")
        tree = self.folder / PI_3
        tree.write_bytes(_file(boot, _prefix(_file(boot, "config.txt").decode()) + PI_3))
        return ["-M", "raspi3b", "-m", "1024", "-dtb", str(tree)]

    def devices(self, around: Power) -> list[str]:
        """Return the arguments for its network and its card."""
        drive = f"if=sd,format=qcow2,file={self.disks[0].name}"
        return ["-device", "usb-net,netdev=ours", "-drive", drive]

    def start_from(self) -> Start:
        """Return what config.txt names, without a watchdog: QEMU's model of it resets at random."""
        start = super().start_from()
        line = start.command_line.replace("watchdog_sec=60", "watchdog_sec=0")
        return start._replace(command_line=line)


NewCard = Callable[[str], Card]
"""Setup file to a card that was never booted."""


def partitions(image: Path) -> dict[str, Partition]:
    """Return the partitions of an image by their names."""
    told = subprocess.run(
        ["sfdisk", "--json", image], capture_output=True, check=True, timeout=60
    ).stdout
    table = json.loads(told)["partitiontable"]["partitions"]
    return {each["name"]: Partition(each["start"], each["size"]) for each in table}


def _prefix(config: str) -> str:
    (found,) = re.findall(r"^os_prefix=(\S*)", config, re.M)
    return str(found)


def _file(partition: Path, name: str) -> bytes:
    return _mtools("mcopy", "-n", "-i", str(partition), f"::{name}", "-")


def _mtools(*command: str, given: bytes = b"") -> bytes:
    ended = subprocess.run(command, input=given, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, f"{command}: {ended.stderr.decode()}"
    return ended.stdout
