"""Push and pull over loopback, one client at a time."""

from __future__ import annotations

from collections.abc import Iterator

from bench.bodies import blobs, bodies
from bench.floors import pull_blob_floor, pull_floor, push_blob_floor, push_floor
from bench.harness import Figure, Measurement
from bench.service import PLAIN, TLS, Service, service
from tests.active_peer.peer_database import DEFAULT_COLLECTION, PeerDatabase
from tests.active_peer.sync import sync

PUSH_FLOOR = "inflate, CRC, orjson, SQLite: 100 per commit"
PULL_FLOOR = "SQLite, CRC, deflate"
BLOBS = 100
KIB_PER_MB = 1000 / 1.024


def sync_figures(count: int) -> Iterator[Figure]:
    """Push documents, then pull them, without and with TLS."""
    push_least, pull_least = push_floor(count), pull_floor(count)
    for name, config in (("ws", PLAIN), ("wss", TLS)):
        with service(config) as server:
            database = full_database(count)
            found = server.measure(count, lambda: push(database, server.url))  # noqa: B023 - now
            yield from documents(f"push over {name}", found, push_least, PUSH_FLOOR)
            found = server.measure(count, lambda: pull(server.url, count))
            yield from documents(f"pull over {name}", found, pull_least, PULL_FLOOR)
            yield peak(f"push and pull over {name}", server)


def blob_figures() -> Iterator[Figure]:
    """Push documents with a blob of 1 MB each, then pull them."""
    contents = blobs(BLOBS)
    push_least, pull_least = push_blob_floor(contents), pull_blob_floor(contents)
    for name, config in (("ws", PLAIN), ("wss", TLS)):
        with service(config) as server:
            database = PeerDatabase()
            for number, content in enumerate(contents):
                properties = database.save_blob(content, "image/jpeg")
                database.collection(DEFAULT_COLLECTION).save(
                    f"photo-{number}", {"file": properties}
                )
            found = server.measure(BLOBS, lambda: push(database, server.url))  # noqa: B023
            yield from _blobs(f"push over {name}", found, push_least, "CRC, SHA-1, write, sync")
            found = server.measure(BLOBS, lambda: pull(server.url, BLOBS))
            yield from _blobs(f"pull over {name}", found, pull_least, "read, CRC")
            yield peak(f"push and pull over {name}", server)


def full_database(count: int, first: int = 0) -> PeerDatabase:
    """Return a client's database with documents of 1 kB."""
    database = PeerDatabase()
    collection = database.collection(DEFAULT_COLLECTION)
    for number, body in enumerate(bodies(count), first):
        collection.save(f"document-{number}", body)
    return database


def push(database: PeerDatabase, url: str) -> None:
    """Push all of a client's documents."""
    count = len(database.collection(DEFAULT_COLLECTION))
    if (pushed := sync(database, url, pull=False).pushed) != count:
        raise RuntimeError(f"{pushed} of {count} documents were pushed")


def pull(url: str, count: int) -> None:
    """Pull all documents into an empty database."""
    if (pulled := sync(PeerDatabase(), url, push=False).pulled) != count:
        raise RuntimeError(f"{pulled} of {count} documents were pulled")


def documents(name: str, found: Measurement, floor: Measurement, least: str) -> Iterator[Figure]:
    """Yield what documents took."""
    each = (found.cpu_us_each, "us", floor.cpu_us_each, least)
    yield Figure(f"{name}: CPU per document", *each)
    yield Figure(f"{name}: documents per second", found.each_second, "/s")


def peak(name: str, server: Service) -> Figure:
    """Return the peak since the last measurement began."""
    first = server.first_memory.resident / KIB_PER_MB
    return Figure(f"{name}: peak memory", server.peak_kib() / KIB_PER_MB, "MB", first, "before")


def _blobs(name: str, found: Measurement, floor: Measurement, least: str) -> Iterator[Figure]:
    each = (found.cpu_us_each / 1000, "ms", floor.cpu_us_each / 1000, least)
    yield Figure(f"{name}: CPU per MB", *each)
    yield Figure(f"{name}: MB per second", found.each_second, "/s")
