"""Many clients: 100 that push and pull at once, 500 that wait for a change."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Iterator

from bench.bodies import bodies
from bench.crowd import Crowd
from bench.floors import pull_floor, push_floor
from bench.harness import Figure
from bench.service import CROWD, PLAIN, TLS, Service, service
from bench.sync_cases import PULL_FLOOR, PUSH_FLOOR, documents, full_database, peak
from bench.unix_http import UnixConnection
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import PeerDatabase

CLIENTS = 100
WAITING_CLIENTS = (1, 50, 500)
CHANGES = 10
PUSH_ONCE = SyncOptions(pull=False)
PULL_ONCE = SyncOptions(push=False)
FOLLOW = SyncOptions(push=False, continuous=True)


def crowd_figures(count: int) -> Iterator[Figure]:
    """Let 100 clients push their parts of the documents at once, then pull as many each."""
    part = count // CLIENTS
    push_least, pull_least = push_floor(count), pull_floor(count)
    for name, config in (("ws", PLAIN), ("wss", TLS)):
        with service(config + CROWD) as server:
            clients = [full_database(part, number * part) for number in range(CLIENTS)]
            with_all = Crowd(clients, server.url, PUSH_ONCE)
            found = server.measure(part * CLIENTS, lambda: _finish(with_all))  # noqa: B023 - now
            yield from documents(f"100 clients push over {name}", found, push_least, PUSH_FLOOR)
            with_all.close()
        with service(config + CROWD) as server:
            _finish_alone(full_database(part), server.url)
            with_all = Crowd([PeerDatabase() for _ in range(CLIENTS)], server.url, PULL_ONCE)
            found = server.measure(part * CLIENTS, lambda: _finish(with_all))  # noqa: B023
            yield from documents(f"100 clients pull over {name}", found, pull_least, PULL_FLOOR)
            yield peak(f"100 clients pull over {name}", server)
            with_all.close()


def _finish(crowd: Crowd) -> None:
    crowd.begin()
    crowd.run_until(crowd.all_finished)
    done = sum(
        each.replicator.result.pushed + each.replicator.result.pulled for each in crowd.clients
    )
    if not done:
        raise RuntimeError("nothing was moved")


def _finish_alone(database: PeerDatabase, url: str) -> None:
    crowd = Crowd([database], url, PUSH_ONCE)
    _finish(crowd)
    crowd.close()


def latency_figures() -> Iterator[Figure]:
    """Save documents by the local API, one after another; see when continuous clients have them."""
    for count in WAITING_CLIENTS:
        with service(TLS + CROWD) as server:
            alone_ms = statistics.median(save(server, f"alone-{n}") for n in range(CHANGES)) * 1000
            crowd = Crowd([PeerDatabase() for _ in range(count)], server.url, FOLLOW)
            crowd.begin()
            crowd.run_until(crowd.all_idle)
            crowd.rest(1.0)
            cpu = server.cpu_s()
            found = [_delays_ms(server, crowd, f"change-{number}") for number in range(CHANGES)]
            cpu = server.cpu_s() - cpu
            crowd.close()
        name, floor = f"{count} wait", (alone_ms, "saving it, nobody connected")
        first = statistics.median(delays[0] for delays in found)
        middle = statistics.median(statistics.median(delays) for delays in found)
        last = statistics.median(delays[-1] for delays in found)
        yield Figure(f"{name}: from saving to the first", first, "ms", *floor)
        yield Figure(f"{name}: from saving to half of them", middle, "ms", *floor)
        yield Figure(f"{name}: from saving to the last", last, "ms", *floor)
        yield Figure(f"{name}: CPU per delivery", cpu / CHANGES / count * 1e6, "us")


def _delays_ms(server: Service, crowd: Crowd, doc_id: str) -> list[float]:
    """Save a document; return when each client had it, from when saving began, in order."""
    waiting = [each.replicator for each in crowd.clients]
    before = waiting[0].result.pulled
    delays: list[float] = []
    began = time.perf_counter()
    save(server, doc_id)

    def is_done() -> bool:
        nonlocal waiting
        now = (time.perf_counter() - began) * 1000
        still = [each for each in waiting if each.result.pulled == before]
        delays.extend([now] * (len(waiting) - len(still)))
        waiting = still
        return not waiting

    crowd.run_until(is_done)
    crowd.rest(0.1)  # its answers
    return delays


def save(server: Service, doc_id: str) -> float:
    """Save a document by the local API; return how long that took, in seconds."""
    body = json.dumps(bodies(1)[0])
    connection = UnixConnection(server.socket)
    connection.connect()
    began = time.perf_counter()
    connection.request("PUT", f"/db/{doc_id}", body)
    status = connection.getresponse().status
    took = time.perf_counter() - began
    connection.close()
    if status != http.client.CREATED:
        raise RuntimeError(f"saving answered {status}")
    return took
