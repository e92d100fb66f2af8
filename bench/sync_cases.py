"""Push and pull over loopback: our own client against an edgesyncd of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bodies import bodies
from bench.floors import pull_floor, push_floor
from bench.harness import Case, Measurement
from tests.active_peer.peer_database import DEFAULT_COLLECTION, PeerDatabase
from tests.active_peer.sync import sync

CONFIG = '[listener.local]\ninterface = "127.0.0.1"\nport = 0\n'
PLAIN = f"{CONFIG}disable_tls = true\n"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def sync_cases(count: int) -> list[Case]:
    """Return the cases for a number of documents."""
    push = ("zlib + crc + orjson + SQLite, 100 per commit", lambda: push_floor(count))
    pull = ("SQLite + crc + zlib", lambda: pull_floor(count))
    return [
        Case("push over ws", *push, lambda: push_documents(count, PLAIN)),
        Case("push over wss", *push, lambda: push_documents(count, CONFIG)),
        Case("pull over ws", *pull, lambda: pull_documents(count, PLAIN)),
        Case("pull over wss", *pull, lambda: pull_documents(count, CONFIG)),
    ]


def push_documents(count: int, config: str) -> Measurement:
    """Push documents to an empty database."""
    with _server(config) as server:
        return server.measure(count, lambda url: _push(url, count))


def pull_documents(count: int, config: str) -> Measurement:
    """Pull documents into an empty database."""
    with _server(config) as server:
        _push(server.url, count)
        return server.measure(count, lambda url: _pull(url, count))


def _push(url: str, count: int) -> None:
    database = PeerDatabase()
    collection = database.collection(DEFAULT_COLLECTION)
    for number, body in enumerate(bodies(count)):
        collection.save(f"document-{number}", body)
    if (pushed := sync(database, url, pull=False).pushed) != count:
        raise RuntimeError(f"{pushed} of {count} documents were pushed")


def _pull(url: str, count: int) -> None:
    if (pulled := sync(PeerDatabase(), url, push=False).pulled) != count:
        raise RuntimeError(f"{pulled} of {count} documents were pulled")


class _Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._pid = process.pid
        said = ""
        while (found := re.search(r"wss?://\S+", said)) is None:
            if not (line := process.stdout.readline()):
                raise RuntimeError("edgesyncd did not start")
            said += line
        self.url = found[0]

    def measure(self, count: int, work: Callable[[str], None]) -> Measurement:
        cpu, wall = self._cpu_s(), time.perf_counter()
        work(self.url)
        return Measurement(count, self._cpu_s() - cpu, time.perf_counter() - wall)

    def _cpu_s(self) -> float:
        """Return user and system time of all threads."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextmanager
def _server(config: str) -> Iterator[_Server]:
    with TemporaryDirectory(prefix="edgesync-bench-") as folder:
        path = Path(folder) / "edgesync.toml"
        path.write_text(config)
        process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "edgesync.daemon.edgesyncd", "--config", str(path)],
            env={**os.environ, "STATE_DIRECTORY": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield _Server(process)
        finally:
            process.terminate()
            process.communicate()
