"""One real client of Couchbase Lite: what it gets through, and which of the two is busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bodies import bodies
from bench.floors import pull_floor, push_floor
from bench.harness import Figure, Skipped
from bench.service import PLAIN, Process, Service, service
from bench.sync_cases import PULL_FLOOR, PUSH_FLOOR, documents
from tests.interop.remote_client import RemoteClient

GENERATIONS = (3, 4)


def real_client_figures(count: int) -> Iterator[Figure | Skipped]:
    """Push documents from one database of each generation, then pull them into an empty one."""
    for generation in GENERATIONS:
        variable = f"EDGESYNC_CBL_{generation}"
        if variable not in os.environ:
            yield Skipped(f"{variable} does not name libcblite.so {generation}.x")
            continue
        with TemporaryDirectory(prefix="edgesync-bench-") as name, service(PLAIN) as server:
            full = {f"document-{number}": body for number, body in enumerate(bodies(count))}
            with RemoteClient(generation, Path(name), "full") as client:
                client.save_all(full)
                yield from _figures(generation, server, client, "push", count)
            with RemoteClient(generation, Path(name), "empty") as client:
                yield from _figures(generation, server, client, "pull", count)


def _figures(
    generation: int, server: Service, client: RemoteClient, kind: str, count: int
) -> Iterator[Figure]:
    process = Process(client.pid)
    client_s = process.cpu_s()
    found = server.measure(count, lambda: _replicate(client, server.url, kind, count))
    client_s = process.cpu_s() - client_s
    floors = {"push": (push_floor, PUSH_FLOOR), "pull": (pull_floor, PULL_FLOOR)}
    floor, least = floors[kind]
    name = f"{generation}.x {kind}"
    yield from documents(name, found, floor(count), least)
    share, service_share = client_s / found.wall_s, found.cpu_s / found.wall_s
    yield Figure(f"{name}: cores the client keeps busy", share, "", service_share, "the service's")


def _replicate(client: RemoteClient, url: str, kind: str, count: int) -> None:
    done = client.replicate(url, kind)
    if done.pushed + done.pulled != count:
        raise RuntimeError(f"{done.pushed + done.pulled} of {count} documents were replicated")
