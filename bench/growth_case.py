"""Whether a document costs the same, however many there are."""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Figure
from bench.service import PLAIN, Service, service
from bench.sync_cases import full_database, push
from tests.active_peer.peer_database import DEFAULT_COLLECTION, PeerDatabase
from tests.active_peer.sync import sync

STEP = 10_000
SIZES = (10_000, 100_000, 1_000_000)
USUAL_SIZES = 2
FLOOR = "the first 10,000"


def growth_figures(*, is_full: bool) -> Iterator[Figure]:
    """Push 10,000 documents by 10,000, and let another client pull each portion.

    Yields what the last portion took, up to each size.
    """
    sizes = SIZES if is_full else SIZES[:USUAL_SIZES]
    puller = PeerDatabase()
    first: tuple[float, float] | None = None
    with service(PLAIN) as server:
        for there in range(STEP, sizes[-1] + 1, STEP):
            took = _portion(server, puller, there - STEP)
            first = first or took
            if there in sizes:
                yield Figure(
                    f"push up to {there:,}: CPU per document", took[0], "us", first[0], FLOOR
                )
                yield Figure(
                    f"pull up to {there:,}: CPU per document", took[1], "us", first[1], FLOOR
                )


def _portion(server: Service, puller: PeerDatabase, there: int) -> tuple[float, float]:
    """Return the CPU time of a pushed and of a pulled document, in microseconds."""
    database = full_database(STEP, there)
    pushed = server.measure(STEP, lambda: push(database, server.url))
    pulled = server.measure(STEP, lambda: _pull(puller, server.url))
    for document in database.collection(DEFAULT_COLLECTION).documents():
        puller.collection(DEFAULT_COLLECTION).purge(document.doc_id)
    return pushed.cpu_us_each, pulled.cpu_us_each


def _pull(puller: PeerDatabase, url: str) -> None:
    if (pulled := sync(puller, url, push=False).pulled) != STEP:
        raise RuntimeError(f"{pulled} of {STEP} documents were pulled")
