"""How long the service and the command take to start, and what the service needs at rest."""

from __future__ import annotations

import http.client
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.harness import Figure
from bench.service import TLS, Memory, Process, compiled, service
from bench.unix_http import UnixConnection

EVERYTHING = (
    TLS.replace("advertise = false", 'advertise = true\nauthenticator = "password"')
    + '\n[key_store]\nunlock = "file:{folder}/key"\n'
)
ASKED = ("/_edgesync/status", "/metrics", "/db/_all_docs", "/db/_changes")
TRIES = 5
QUIET_S = 5.0
KIB_PER_MB = 1000 / 1.024
LIBRARIES = (
    "import sys, gevent.pywsgi, geventwebsocket.handler, OpenSSL.SSL, netifaces, zeroconf, falcon,"
    " prometheus_client, orjson, sqlite3, logging, argparse; print(flush=True); sys.stdin.read()"
)
FLOOR = "importing the libraries"


@dataclass(frozen=True, slots=True)
class Start:
    """What it took until something answered."""

    wall_s: float
    cpu_s: float
    memory: Memory


def start_figures() -> Iterator[Figure]:
    """Start the service with every part in use, then ask it with the command."""
    _run("-m", "edgesync.cli.main", "version")  # compiles what is not compiled yet
    _start()
    libraries = _typical(_import_libraries() for _ in range(TRIES))
    found = _typical(_start() for _ in range(TRIES))
    yield Figure(
        "start: until it serves", found.wall_s * 1000, "ms", libraries.wall_s * 1000, FLOOR
    )
    yield Figure("start: CPU", found.cpu_s * 1000, "ms", libraries.cpu_s * 1000, FLOOR)
    yield from _idle_figures(libraries.memory)
    least = statistics.median(_run("-c", "pass") for _ in range(TRIES))
    with service(EVERYTHING) as server:
        for verb in ("version", "status"):
            command = ("-m", "edgesync.cli.main", "--socket", str(server.socket), verb)
            took = statistics.median(_run(*command) for _ in range(TRIES))
            yield Figure(f"edgesync {verb}: CPU", took, "ms", least, "Python that does nothing")


def _idle_figures(least: Memory) -> Iterator[Figure]:
    with service(EVERYTHING) as server:
        for path in ASKED:
            connection = UnixConnection(server.socket)
            connection.request("GET", path)
            if connection.getresponse().status != http.client.OK:
                raise RuntimeError(f"{path} did not answer")
            connection.close()
        time.sleep(QUIET_S)
        memory, cpu, wakeups = server.memory(), server.cpu_s(), server.wakeups()
        time.sleep(QUIET_S)
        cpu, wakeups = server.cpu_s() - cpu, server.wakeups() - wakeups
    resident, private = memory.resident / KIB_PER_MB, memory.private / KIB_PER_MB
    yield Figure("idle: resident memory", resident, "MB", least.resident / KIB_PER_MB, FLOOR)
    yield Figure("idle: private memory", private, "MB", least.private / KIB_PER_MB, FLOOR)
    yield Figure("idle: wake-ups", wakeups / QUIET_S, "/s")
    yield Figure("idle: CPU per second", cpu / QUIET_S * 1000, "ms")


def _start() -> Start:
    with service(EVERYTHING) as server:
        return Start(server.start_s, server.cpu_s(), server.memory())


def _import_libraries() -> Start:
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", LIBRARIES],
        env=compiled(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    wall_s, kernel = time.perf_counter() - began, Process(process.pid)
    start = Start(wall_s, kernel.cpu_s(), kernel.memory())
    process.communicate(b"")
    return start


def _typical(starts: Iterator[Start]) -> Start:
    return sorted(starts, key=lambda start: start.wall_s)[TRIES // 2]


def _run(*arguments: str) -> float:
    """Run Python; return its CPU time in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, *arguments], env=compiled(), check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000
