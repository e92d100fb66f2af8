"""An edgesyncd with a key store, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from edgesync.api.client import ApiClient

COMMAND = (sys.executable, "-m", "edgesync.daemon.edgesyncd")
READY = "look around with"


class Box:
    """A service on loopback, its state in a folder that outlives it."""

    def __init__(self, folder: Path, config: str, **environment: str) -> None:
        self.state = folder / "state"
        self.log_file = folder / "log"
        self.config = folder / "edgesync.toml"
        self.config.write_text(config)
        socket = folder / "api"
        self.api = ApiClient(socket)
        self._environment = {
            **os.environ,
            "STATE_DIRECTORY": str(self.state),
            "EDGESYNC_SOCKET": str(socket),
            **environment,
        }
        self.launcher: tuple[str, ...] = ()
        self.command: tuple[str, ...] = COMMAND
        self._process: subprocess.Popen[str] | None = None
        self.said = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def port(self, listener: str) -> int:
        """Return the port of a listener; 0 if it does not serve."""
        urls = self.api.listener(listener)["urls"]
        return urlsplit(urls[0]).port or 0 if urls else 0

    def check(self) -> subprocess.CompletedProcess[str]:
        """Have it check its configuration."""
        return subprocess.run(
            [*COMMAND, "--config", str(self.config), "--check"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self) -> None:
        """Start it, and wait until it has said what it serves."""
        with self.log_file.open("a") as log:
            self._process = subprocess.Popen(
                [*self.launcher, *self.command, "--config", str(self.config)],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        self.said = ""
        for line in self._process.stdout:
            self.said += line
            if line.startswith(READY):
                return
        self.stop()
        raise AssertionError(self.log)

    def stop(self) -> int:
        """End it; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=15)
        return self._process.returncode

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
            self._process.communicate()
