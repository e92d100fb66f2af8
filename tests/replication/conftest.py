"""A store in a temporary folder, and replicators on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import DEFAULT_COLLECTION, Inserted, InsertRev
from edgesync.limits import Limits
from tests.loopback import PassiveEnd, Store


class Fixture:
    """Short words for what most tests need."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def end(
        self,
        *,
        collections: Sequence[str] = (DEFAULT_COLLECTION,),
        protocol: int = 3,
        read_only: bool = False,
        deltas: bool = False,
        limits: Limits | None = None,
        entropy: Callable[[int], bytes] | None = None,
    ) -> PassiveEnd:
        """Connect a client."""
        return PassiveEnd(
            self.store,
            collections=collections,
            protocol=protocol,
            read_only=read_only,
            deltas=deltas,
            limits=limits,
            entropy=entropy,
        )

    def put(
        self,
        doc_id: str,
        *history: str,
        body: bytes = b"{}",
        deleted: bool = False,
        collection: str = DEFAULT_COLLECTION,
    ) -> int:
        """Store a revision, its history newest first; return the sequence."""
        revs = tuple(RevID(rev) for rev in history)
        inserted = self.store.ask(
            lambda call_id: InsertRev(call_id, collection, doc_id, revs, body, deleted, ())
        )
        assert isinstance(inserted, Inserted)
        return inserted.sequence


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[Fixture]:
    store = Store(tmp_path / "db.edgesync")
    yield Fixture(store)
    store.close()
