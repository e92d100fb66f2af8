"""`edgesyncd` as a process, on a free port of the loopback interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

STOP_TIMEOUT_S: Final = 15.0
CONFIG: Final = """\
[database.db]
collections = ["_default", "field.meters", "field.trucks"]

[listener.test]
database = "db"
interface = "127.0.0.1"
port = {port}
disable_tls = {disable_tls}
enable_delta_sync = {deltas}
"""


class Edgesyncd:
    """A server process that keeps its folder and its port when it is started again."""

    def __init__(self, folder: Path, *, tls: bool = False, deltas: bool = False) -> None:
        folder.mkdir()
        self._folder = folder
        self._config = folder / "edgesync.toml"
        self._process: subprocess.Popen[str] | None = None
        port = _free_port()
        flags = {"disable_tls": not tls, "deltas": deltas}
        as_toml = {name: str(value).lower() for name, value in flags.items()}
        self._config.write_text(CONFIG.format(port=port, **as_toml))
        self.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/db"

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self._folder / "log").open("a") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "edgesync.daemon.edgesyncd", "--config", str(self._config)],
                env={**os.environ, "STATE_DIRECTORY": str(self._folder)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        while self.url not in (line := process.stdout.readline()):
            if not line:
                self.stop()
                raise RuntimeError(f"edgesyncd did not start: {self.log}")

    def kill(self) -> None:
        """End it as a power cut would: without a word."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._forget(self._process)

    def stop(self) -> None:
        """End it in peace."""
        if self._process is not None:
            self._process.terminate()
            self._forget(self._process)

    def _forget(self, process: subprocess.Popen[str]) -> None:
        process.communicate(timeout=STOP_TIMEOUT_S)
        self._process = None

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._folder / "log").read_text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port
