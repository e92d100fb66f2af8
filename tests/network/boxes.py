"""Boxes, switches and cables: network namespaces, bridges and veth pairs.

All traffic stays inside of them. What a test makes is gone when it ends.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

R = TypeVar("R")

SOON_S = 5.0
"""The promise: what changes in the network is followed within this time."""
START_TIMEOUT_S = 30.0
CLONE_NEWNET = 0x40000000
ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count()


def ip(*arguments: str) -> str:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"ip {' '.join(arguments)}: {ended.stderr}"
    return ended.stdout


class Namespace:
    """A network stack of its own."""

    def __init__(self) -> None:
        self.name = f"edgesync-{os.getpid()}-{next(NUMBERS)}"
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def remove(self) -> None:
        ip("netns", "del", self.name)

    def do(self, function: Callable[[], R]) -> R:
        """Call a function in here; a socket that it makes stays in here."""
        results: list[R] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                with open(f"/run/netns/{self.name}") as place:
                    libc = ctypes.CDLL(None, use_errno=True)
                    assert libc.setns(place.fileno(), CLONE_NEWNET) == 0
                results.append(function())
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


class Switch(Namespace):
    """A network that boxes are plugged into."""

    def __init__(self) -> None:
        super().__init__()
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("link", "set", "br0", "up")

    def take(self, plug: str) -> None:
        """Have the end of a cable, which is in here, plugged in."""
        self.ip("link", "set", plug, "master", "br0", "up")


class Box(Namespace):
    """A machine with network interfaces."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._plugs: dict[str, tuple[str, Switch]] = {}

    def plug(self, interface: str, switch: Switch, *addresses: str) -> None:
        """Give the box an interface, with a cable to a switch."""
        plug = f"p{next(NUMBERS)}"
        self.ip("link", "add", interface, "type", "veth", "peer", plug, "netns", switch.name)
        self._plugs[interface] = (plug, switch)
        switch.take(plug)
        self.add(interface, *addresses)
        self.ip("link", "set", interface, "up")

    def add(self, interface: str, *addresses: str) -> None:
        for address in addresses:
            self.ip("address", "add", *address.split(), "dev", interface)

    def drop(self, interface: str, *addresses: str) -> None:
        for address in addresses:
            self.ip("address", "del", address, "dev", interface)

    def move_cable(self, interface: str, switch: Switch) -> None:
        """Pull the cable of an interface out of its switch, and plug it into another one."""
        plug, former = self._plugs[interface]
        former.ip("link", "set", plug, "netns", switch.name)
        self._plugs[interface] = (plug, switch)
        switch.take(plug)

    def program(self, *arguments: str, **environment: str) -> Program:
        """Start a Python program in here."""
        return Program(self, (sys.executable, *arguments), environment)

    def command(self, *arguments: str) -> Program:
        """Start a command in here."""
        return Program(self, arguments, {})

    @contextmanager
    def serving(self, configuration: str) -> Iterator[Program]:
        """Run edgesyncd until the block ends."""
        number = next(NUMBERS)
        file = self.folder / f"edgesync-{number}.toml"
        file.write_text(configuration)
        command = ("-m", "edgesync.daemon.edgesyncd", "--config", str(file))
        with self.program(*command, STATE_DIRECTORY=str(self.folder / f"s{number}")) as service:
            service.wait_for("^look around")
            yield service


class Program:
    """A process in a box, and what it says."""

    def __init__(self, box: Box, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", box.name, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def tell(self, value: object) -> None:
        """Give a line of JSON to the program."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def wait_for(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """Return the next line, of those not looked at yet, in which a pattern is found."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no {pattern!r} in {timeout_s} s; it said:\n{self.log}"
            self.said.append(line)
            if (found := re.search(pattern, line)) is not None:
                return found

    def heard(self, timeout_s: float) -> list[str]:
        """Return all lines that come within a time."""
        time.sleep(timeout_s)
        heard: list[str] = []
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                heard.append(line)
        self.said += heard
        return heard

    @property
    def log(self) -> str:
        return "\n".join(self.said)

    def memory_bytes(self) -> int:
        """Return what it has in memory now."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> str:
        """End the program in good order; return all that it said."""
        self._process.send_signal(signal.SIGTERM)
        self._end()
        return self.log

    def end(self) -> None:
        """Close the program's input, and wait until it has ended by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._end()
        assert self._process.returncode == 0, self.log

    def kill(self) -> None:
        self._process.kill()
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.wait(timeout=15)
        self._reader.join(timeout=15)
        self._process.stdin.close()
        self._process.stdout.close()
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                self.said.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None or self._reader.is_alive():
            self.kill()


class Observer:
    """What zeroconf's own browser sees in a network, with none of our code in between."""

    def __init__(self, box: Box, address: str) -> None:
        self._program = box.program("-m", "tests.network.observer", address)
        self._program.wait_for("^ready")

    def wait_for(self, change: str, name: str, timeout_s: float = SOON_S, **facts: object) -> Any:
        """Return the next record in which an instance was added, updated or removed.

        Args:
            change: One of these.
            name: Of the instance.
            timeout_s: The time that it may take.
            facts: What must be so in the record; others are passed over.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            line = self._program.wait_for(rf'^\{{.*"change": "({change})"', left_s).string
            seen = json.loads(line)
            if seen["name"] == name and facts.items() <= seen.items():
                return seen

    def heard(self, timeout_s: float) -> list[Any]:
        return [json.loads(line) for line in self._program.heard(timeout_s)]

    def kill(self) -> None:
        self._program.kill()
