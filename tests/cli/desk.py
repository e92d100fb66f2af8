"""A technician's desk: a shell in which `edgesync` can be typed, beside a box."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import edgesync

ROOT: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 60

WRAPPERS: Final = {
    # What a user types.
    "edgesync": f'exec {sys.executable} -m edgesync.cli.main "$@"',
    # Runs a command in a terminal of so many columns.
    "terminal": f'exec {sys.executable} -m tests.cli.terminal "$@"',
    # Runs a command as somebody who may not use the socket.
    "as-stranger": f'exec {sys.executable} -m tests.cli.stranger "$@"',
    # Runs a command while a client is connected to the box.
    "with-client": f'exec {sys.executable} -m tests.cli.with_client "$BOX_URL" "$@"',
}

# What differs from run to run, in the order in which it is replaced.
_VARYING: Final = (
    (r"[0-9A-F]{2}(:[0-9A-F]{2}){31}", "<fingerprint>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", "YYYY-MM-DDThh:mm:ss+00:00"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "YYYY-MM-DD hh:mm:ss,mmm"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "YYYY-MM-DD hh:mm"),
    (r"\d{4}-\d\d-\d\d", "YYYY-MM-DD"),
    (r"~[\w-]{22}", "<new id>"),
    (r"running for [\w ]+", "running for <time>"),
    (r"\b\d s\b", "0 s"),  # since a client is there
    (r"\d+ % used, [\d.]+ .B free", "<used and free>"),
    (r"\d+ % are used", "<used> are used"),
    (r'"free_bytes": \d+, "total_bytes": \d+', '"free_bytes": 0, "total_bytes": 0'),
    (r'"used": \d+, "limit": \d+', '"used": 0, "limit": 0'),
    (r'"pid": \d+', '"pid": 0'),
    (r'"(bytes\w*)": \d+', r'"\1": 0'),
    (r"\b[\d.]+ (kB|MB)\b|\b\d{3} B\b", "<size>"),
    (r"\b(3[2-9]|[45]\d|6[0-5])\d{3}\b", "#####"),  # a port that the system picked
    (r"\b[0-9a-f]{16}\b", "0123456789abcdef"),  # a connection
    (r"process \d+", "process <pid>"),
    (r"\d{16}", "<sequence>"),
)


class Desk:
    """Where commands are typed."""

    def __init__(self, folder: Path, *, url: str = "", port: int = 0) -> None:
        self.folder = folder / "desk"
        self.folder.mkdir()
        self._url = url
        self._port = port
        self._box_folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name, script in WRAPPERS.items():
            path = self._programs / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "STATE_DIRECTORY": str(self._box_folder / "state"),
            "BOX_URL": self._url,
            "BOX": str(self._box_folder),
            "TERM": "xterm-256color",
            "TZ": "UTC",
        }

    def type(self, command: str) -> str:
        """Return what comes back, its exit code last, without what varies."""
        ended = self._run(command)
        said = ended.stdout.decode()
        if said and not said.endswith("\n"):
            said += "\n"
        return self._settled(f"{said}[exit {ended.returncode}]\n")

    def raw(self, command: str) -> str:
        """Return what comes back, as it is."""
        return self._run(command).stdout.decode()

    def _run(self, command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )

    def _settled(self, said: str) -> str:
        said = said.replace(str(self._box_folder), "/box").replace("\033", "␛").replace("\r", "")
        said = said.replace(edgesync.__version__, "<version>")
        if self._port:
            said = re.sub(rf"(?<![0-9a-f]){self._port}(?![0-9a-f])", "14984", said)
        for pattern, replacement in _VARYING:
            said = re.sub(pattern, replacement, said)
        return said
