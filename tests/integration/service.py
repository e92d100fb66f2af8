"""An edgesyncd that a test starts, kills and starts again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = (sys.executable, "-m", "edgesync.daemon.edgesyncd")
START_TIMEOUT_S = 20.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Service:
    """The service on a fixed port, with its state in a folder that outlives it."""

    def __init__(self, folder: Path, *, settings: str = "", collections: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._config = folder / "edgesync.toml"
        self._config.write_text(
            f"[database.db]\n{collections}\n[listener.test]\n"
            f'interface = "127.0.0.1"\nport = {self.port}\ndisable_tls = true\n{settings}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/db"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def database_file(self) -> Path:
        return self.folder / "state" / "databases" / "db.edgesync" / "database.sqlite3"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start, and wait until it listens."""
        process = self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert process.poll() is None, self.log
            time.sleep(0.02)
        raise AssertionError(f"the service does not listen: {self.log}")

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "--config", str(self._config)],
                env={**os.environ, "STATE_DIRECTORY": str(self.folder / "state")},
                stdout=log,
                stderr=log,
            )
        return self._process

    def kill(self) -> None:
        """End it as a power cut would, as far as a process can be."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10)

    def reload(self) -> None:
        """Ask it to read its configuration anew."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """End it in good order; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=15)

    def memory_kib(self) -> int:
        """Return its resident memory now."""
        return self._status("VmRSS")

    def peak_memory_kib(self) -> int:
        """Return the most resident memory it ever had."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        assert self._process is not None
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise AssertionError(f"no {name}")

    def cpu_s(self) -> float:
        """Return the CPU time it has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)
