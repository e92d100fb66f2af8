"""An edgesyncd of its own, and what the kernel counts of a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.harness import Measurement

CROWD = "\n[limits]\nmax_connections = 1100\nmax_connections_per_address = 1100\n"
PLAIN = (
    '[listener.local]\ninterface = "127.0.0.1"\nport = 0\nadvertise = false\ndisable_tls = true\n'
)
TLS = PLAIN.replace("disable_tls = true\n", "")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COMPILED = Path("build/bench-pycache").absolute()


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process, in KiB."""

    resident: int
    private: int
    """What would be free without it, and cannot be read again from a file."""


class Process:
    """What the kernel counts of a process."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def cpu_s(self) -> float:
        """Return user and system time of all threads, also of those that have ended."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def memory(self) -> Memory:
        rollup = (self._folder / "smaps_rollup").read_text()
        return Memory(_kib("Rss", rollup), _kib("Anonymous", rollup))

    def forget_peak(self) -> None:
        """Let `peak_kib` begin anew."""
        (self._folder / "clear_refs").write_text("5")

    def peak_kib(self) -> int:
        return _kib("VmHWM", (self._folder / "status").read_text())

    def wakeups(self) -> int:
        """Return how often its threads have waited and gone on."""
        states = (path.read_text() for path in self._folder.glob("task/*/status"))
        return sum(_kib("voluntary_ctxt_switches", state) for state in states)


class Service(Process):
    """An edgesyncd that runs.

    Attributes:
        url: For clients of its listener.
        socket: Of its local API.
        start_s: From the fork until it said that it serves.
        first_memory: When it said so.
    """

    def __init__(self, process: subprocess.Popen[str], socket: Path) -> None:
        super().__init__(process.pid)
        assert process.stdout is not None
        began, said = time.perf_counter(), ""
        while "look around with" not in said:
            if not (line := process.stdout.readline()):
                raise RuntimeError("edgesyncd did not start")
            said += line
        self.start_s = time.perf_counter() - began
        found = re.search(r"wss?://\S+", said)
        assert found is not None
        self.url = found[0]
        self.first_memory = self.memory()
        self.socket = socket

    def measure(self, count: int, work: Callable[[], None]) -> Measurement:
        """Do work for a number of documents."""
        self.forget_peak()
        cpu, wall = self.cpu_s(), time.perf_counter()
        work()
        return Measurement(count, self.cpu_s() - cpu, time.perf_counter() - wall)


def compiled() -> dict[str, str]:
    """Return an environment in which Python finds its modules compiled, as when installed."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPYCACHEPREFIX": str(COMPILED),
    }


@contextmanager
def service(config: str) -> Iterator[Service]:
    """Run an edgesyncd with an empty state; `{folder}` in the configuration is where it lives."""
    with TemporaryDirectory(prefix="edgesync-bench-") as name:
        folder = Path(name)
        path, socket = folder / "edgesync.toml", folder / "edgesync.sock"
        path.write_text(config.replace("{folder}", name))
        key = folder / "key"
        key.write_bytes(bytes(32))
        key.chmod(0o600)
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "edgesync.daemon.edgesyncd", "--config", str(path)],
            env={**compiled(), "STATE_DIRECTORY": name, "EDGESYNC_SOCKET": str(socket)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield Service(process, socket)
        finally:
            process.terminate()
            process.communicate()


def _kib(name: str, table: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", table, re.MULTILINE)
    assert found is not None
    return int(found[1])
