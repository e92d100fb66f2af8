"""A box in QEMU: what is on its disks stays, as on a card; ending the process is a power cut.

Disks are qcow2 overlays of images that are never written to. `save` keeps memory and
disks; a machine that is restored from there is up in a second or two, where a boot
takes most of a minute on an emulated processor.
"""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from appliance import LISTENER, SSH, Appliance
from lan import Lan

FORWARDED: Final = (SSH, LISTENER)
MONITOR_TIMEOUT_S: Final = 120.0
SECTOR: Final = 512
MEMORY_MB: Final = "512"  # as a Raspberry Pi Zero 2 W has
NOWHERE: Final = "socket,udp=127.0.0.1:9,localaddr=127.0.0.1:0"
"""A cable that ends in the air; it takes frames, and has no state that a snapshot would hold."""
FOR_TESTS: Final = (
    "quiet net.ifnames=0 systemd.watchdog_sec=60 systemd.default_device_timeout_sec=900"
)
"""Cards by number, and patience: this computer has other work, too."""


class Start(NamedTuple):
    """What the firmware of a board starts."""

    kernel: Path
    initrd: Path
    command_line: str


class Power(NamedTuple):
    """What is around a machine when it is switched on."""

    snapshot: str = ""
    """What `Qemu.save` kept, to go on from there instead of booting."""
    rtc: str = ""
    """What the clock of the board says, as 1970-01-01; empty: the time."""
    lan: Lan | None = None
    """What the second card is plugged into; None: a cable that ends in the air."""


class Qemu(Appliance):
    """A machine that tests own: two network cards, one of them for us, one for its LAN.

    Attributes:
        folder: Its disks, `serial.log` and `qemu.log`.
    """

    def __init__(
        self, images: Sequence[Path], folder: Path, key: Path, *, user: str = "root", size: str = ""
    ) -> None:
        """Lay overlays over raw images, in the order in which the machine sees them.

        Args:
            images: What the disks hold at first; they are left as they are.
            folder: Where the overlays are.
            key: For SSH.
            user: Who logs in, and may become root.
            size: To what the last disk grows, as 4G; empty: as it is.
        """
        super().__init__(key, user)
        self.folder = folder
        self._monitor = self.short_folder / "monitor"
        self._ports = {port: _free_port() for port in FORWARDED}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.disks = [folder / f"disk{n}.qcow2" for n in range(len(images))]
        for disk, image in zip(self.disks, images, strict=True):
            if disk.exists():
                continue  # it was made by an earlier run
            grown = [size] if size and disk is self.disks[-1] else []
            backing = ["-b", str(image.absolute()), "-F", "raw"]
            _run("qemu-img", "create", "-q", "-f", "qcow2", *backing, disk, *grown)

    def address(self, port: int) -> tuple[str, int]:
        """Return the forwarded port on loopback."""
        return "127.0.0.1", self._ports[port]

    # --- the power switch -------------------------------------------------------------

    def power(self, around: Power | None = None) -> None:
        """Start QEMU."""
        assert self._process is None, "it is on already"
        self._start(around or Power())

    def _start(self, around: Power) -> None:
        self._monitor.unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(around),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[around.lan.tap] if around.lan is not None else [],
                cwd=self.folder,
            )
        self._process = process
        deadline = time.monotonic() + MONITOR_TIMEOUT_S
        while not self._monitor.exists():
            assert process.poll() is None, (self.folder / "qemu.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "QEMU does not start"
            time.sleep(0.05)

    @abstractmethod
    def start_from(self) -> Start:
        """Return what the firmware of a board would start now."""

    def off(self) -> None:
        """End QEMU as a power cut would: what was not given to the card is lost."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None
        self.hang_up()

    def _command(self, around: Power) -> list[str | Path]:
        start = self.start_from()
        command: list[str | Path] = [
            "setpriv", "--pdeathsig", "KILL",  # it ends with the tests, whatever ends them
            "qemu-system-aarch64", *self.board(), "-display", "none",
            "-kernel", start.kernel, "-initrd", start.initrd, "-append", start.command_line,
            "-chardev", "file,id=serial,path=serial.log,append=on", "-serial", "chardev:serial",
            "-qmp", f"unix:{self._monitor},server=on,wait=off", "-monitor", "none",
            "-netdev", "user,id=ours"
            + "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{n}" for n, here in self._ports.items()),
            *self.devices(around),
        ]  # fmt: skip
        command += ["-loadvm", around.snapshot] if around.snapshot else []
        command += ["-rtc", f"base={around.rtc}"] if around.rtc else []
        return command

    def board(self) -> list[str]:
        """Return the arguments for processor and memory."""
        return ["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-accel", "tcg,thread=multi",
                "-m", MEMORY_MB, "-device", "virtio-rng-pci", "-device", "i6300esb"]  # fmt: skip

    def devices(self, around: Power) -> list[str]:
        """Return the arguments for network cards and disks."""
        plugged = f"tap,fd={around.lan.tap}" if around.lan is not None else NOWHERE
        devices = ["-device", "virtio-net-pci,netdev=ours,id=eth0", "-netdev", f"{plugged},id=lan",
                   "-device", "virtio-net-pci,netdev=lan,id=eth1"]  # fmt: skip
        for n, disk in enumerate(self.disks):
            devices += ["-drive", f"if=none,id=disk{n},format=qcow2,file={disk.name}",
                        "-device", f"virtio-blk-pci,drive=disk{n}"]  # fmt: skip
        return devices

    # --- snapshots, cables ------------------------------------------------------------

    def save(self, name: str) -> None:
        """Keep memory and disks as they are, for `restore`."""
        self.run("sync")
        assert self.monitor("human-monitor-command", {"command-line": f"savevm {name}"}) == ""

    def restore(self, name: str, lan: Lan | None = None) -> None:
        """Go on from what `save` kept, on a machine that is off; its clock is set right."""
        self.power(Power(snapshot=name, lan=lan))
        self.wait_for_ssh(60)
        self.run(f"date --set=@{time.time():.0f}")

    def plug(self, card: str, *, is_in: bool) -> None:
        """Pull the cable of a network card, or put it in."""
        self.monitor("set_link", {"name": card, "up": is_in})

    def monitor(self, command: str, arguments: Mapping[str, object]) -> object:
        """Give QEMU an order and return its answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(MONITOR_TIMEOUT_S)
            line.connect(str(self._monitor))
            with line.makefile("rw") as talk:
                talk.readline()  # the greeting
                for request in (
                    {"execute": "qmp_capabilities"},
                    {"execute": command, "arguments": arguments},
                ):
                    talk.write(json.dumps(request) + "\n")
                    talk.flush()
                    answer = json.loads(talk.readline())
                    while "event" in answer:
                        answer = json.loads(talk.readline())
        assert "error" not in answer, answer
        return answer["return"]

    # --- what is on the card ----------------------------------------------------------

    def serial(self) -> str:
        """Return what the serial line said, since it was made."""
        return (self.folder / "serial.log").read_text(errors="replace")

    def copied(self, number: int = 0) -> Path:
        """Copy what a disk of a machine that is off holds into a file with holes."""
        copy = self.folder / f"disk{number}.raw"
        _run("qemu-img", "convert", "-O", "raw", self.disks[number], copy)
        return copy

    def copied_part(self, first_sector: int, sectors: int, number: int = 0) -> Path:
        """Copy a part of a disk into a file."""
        copy, unit = self.folder / "part.raw", math.gcd(first_sector, sectors, 2048)
        _run("qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"bs={unit * SECTOR}",
             # Its count is of blocks from the start of the disk.
             f"skip={first_sector // unit}", f"count={(first_sector + sectors) // unit}",
             f"if={self.disks[number]}", f"of={copy}")  # fmt: skip
        return copy


def _free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        return int(any_socket.getsockname()[1])


def _run(*command: str | Path) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
