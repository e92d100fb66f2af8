"""1,000 continuous clients over TLS that are in sync, and wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.bare_tls import CONNECTIONS, BareServer
from bench.crowd import Crowd
from bench.crowd_cases import FOLLOW, save
from bench.harness import Figure
from bench.service import CROWD, TLS, Memory, Process, service
from tests.active_peer.peer_database import PeerDatabase

DOCUMENTS = 10
SETTLE_S = 2.0
WATCHED_S = 10.0
FLOOR = "OpenSSL in memory, two greenlets"


@dataclass(frozen=True, slots=True)
class Rest:
    """What connections cost while nothing happens."""

    resident_kib: float
    """Each, as is `private_kib`."""
    private_kib: float
    wakeups_per_s: float
    """All together, as is `cpu_ms_per_s`."""
    cpu_ms_per_s: float


def idle_figures() -> Iterator[Figure]:
    """Connect, and watch; then let each pull 10 documents, and watch again."""
    with BareServer() as bare:
        before, cpu_s = bare.memory(), bare.cpu_s()
        bare.connect()
        least_ms, least = (bare.cpu_s() - cpu_s) / CONNECTIONS * 1000, _watch(bare, before)
    with service(TLS + CROWD) as server:
        before, cpu_s = server.memory(), server.cpu_s()
        crowd = Crowd([PeerDatabase() for _ in range(CONNECTIONS)], server.url, FOLLOW)
        crowd.begin()
        crowd.run_until(crowd.all_idle)
        crowd.rest(SETTLE_S)
        connect_ms = (server.cpu_s() - cpu_s) / CONNECTIONS * 1000
        found = _watch(server, before)
        for number in range(DOCUMENTS):
            save(server, f"document-{number}")
        crowd.run_until(lambda: all(_has_all(crowd)))
        crowd.rest(SETTLE_S)
        used = _watch(server, before)
        crowd.close()
    yield Figure(
        "1,000 idle: resident memory each", found.resident_kib, "KiB", least.resident_kib, FLOOR
    )
    yield Figure(
        "1,000 idle: private memory each", found.private_kib, "KiB", least.private_kib, FLOOR
    )
    yield Figure(
        "1,000 idle, 10 documents each: memory each",
        used.resident_kib,
        "KiB",
        least.resident_kib,
        FLOOR,
    )
    yield Figure("1,000 idle: wake-ups", found.wakeups_per_s, "/s")
    yield Figure("1,000 idle: CPU per second", found.cpu_ms_per_s, "ms")
    yield Figure("1,000 idle: CPU to connect one", connect_ms, "ms", least_ms, FLOOR)


def _has_all(crowd: Crowd) -> Iterator[bool]:
    return (client.replicator.result.pulled == DOCUMENTS for client in crowd.clients)


def _watch(process: Process, before: Memory) -> Rest:
    memory, cpu_s, wakeups = process.memory(), process.cpu_s(), process.wakeups()
    time.sleep(WATCHED_S)
    return Rest(
        (memory.resident - before.resident) / CONNECTIONS,
        (memory.private - before.private) / CONNECTIONS,
        (process.wakeups() - wakeups) / WATCHED_S,
        (process.cpu_s() - cpu_s) / WATCHED_S * 1000,
    )
