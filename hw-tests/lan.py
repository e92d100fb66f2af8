"""A network with two hosts: the box, and a neighbour that tests run programs on.

The neighbour is a network namespace, the cable a tap whose other end QEMU holds: it
carries multicast, which QEMU's own network does not. QEMU itself stays outside.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).parents[1]
BOX: Final = "192.168.77.2"
"""What the machine of `vm/` has on its second card."""
NEIGHBOUR: Final = "192.168.77.1/24"
TUNSETIFF: Final = 0x400454CA  # these three are of linux/if_tun.h
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000


class Lan:
    """Made by `with`, gone afterwards.

    Attributes:
        tap: QEMU's end of the cable, a file descriptor.
    """

    def __enter__(self) -> Self:
        self._name = f"hw{os.getpid()}"
        self.tap = os.open("/dev/net/tun", os.O_RDWR)
        wanted = struct.pack("16sH22x", self._name.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(self.tap, TUNSETIFF, wanted)
        _ip("netns", "add", self._name)
        _ip("link", "set", self._name, "netns", self._name)
        for command in (
            f"addr add {NEIGHBOUR} dev {self._name}",
            "link set lo up",
            f"link set {self._name} up",
        ):
            _ip("-n", self._name, *command.split())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.tap)
        _ip("netns", "delete", self._name)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program on the neighbour; its output is to be read."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self._name, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, timeout_s: float = 60) -> str:
        """Run a program on the neighbour; return what it prints."""
        ended = subprocess.run(
            ["ip", "netns", "exec", self._name, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)
