"""The store equals a model made of dicts, whatever is done to it, in any order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from edgesync.documents.rev_id import RevID, new_rev_id
from edgesync.documents.rev_tree import RevTree
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    CountDocuments,
    FindCurrentRevs,
    ListCollections,
    ListDocuments,
    Verify,
)
from edgesync.documents.version_vector import (
    Order,
    Version,
    VersionVector,
    compare,
    edited,
    parse_vector,
)
from edgesync.errors import (
    CollectionNotFoundError,
    ConflictError,
    EdgeSyncError,
    NotFoundError,
)
from edgesync.limits import Limits
from tests.storage.store import Clock, Store

MAX_DEPTH = 4
LIMITS = Limits(commit_delay_s=0.0, max_revs_depth=MAX_DEPTH)
OTHER = "s.c"
NOW = 1_800_000_000.0
DAY = 86_400.0
ANN = "AAAAAAAAAAAAAAAAAAAAAQ"
BOB = "AAAAAAAAAAAAAAAAAAAAAg"
doc_ids = st.sampled_from(["a", "b", "ä"])
collections = st.sampled_from([DEFAULT_COLLECTION, OTHER])
bodies = st.sampled_from([b"{}", b'{"x":1}', '{"x":"ü"}'.encode()])


class ModelDoc:
    """A document: its tree, what each revision said, its place in the feed, its vectors."""

    def __init__(self, doc_id: str) -> None:
        self.tree = RevTree(doc_id)
        self.bodies: dict[RevID, bytes] = {}
        self.sequence = 0
        self.vector: VersionVector | None = None
        self.vectors: list[VersionVector] = []  # all that clients may have

    @property
    def current(self) -> tuple[RevID, bool]:
        winner = self.tree.winner
        assert winner is not None
        return winner.rev_id, winner.deleted

    def move_to(self, vector: VersionVector) -> None:
        """Have a vector that clients must take for newer than the one before."""
        assert self.vector is None or compare(vector, self.vector) is Order.NEWER
        self.vector = vector
        self.vectors.append(vector)


class StoreMachine(RuleBasedStateMachine):
    """Do the same to the store and to dicts."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgesync-"))
        self.clock = Clock(NOW)
        self.store = Store(self.folder / "db", LIMITS, self.clock)
        self.model: dict[str, dict[str, ModelDoc]] = {DEFAULT_COLLECTION: {}}
        self.last_sequence = 0
        self.made = 0
        self.last_version = Version(0, "")
        self.client_times = {ANN: int(NOW) * 10**9 - 10**9, BOB: int(NOW) * 10**9}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert self.store.ask(lambda i: Verify(i)) == ()
            self.store.close()
            shutil.rmtree(self.folder)

    def doc(self, collection: str, doc_id: str) -> ModelDoc | None:
        return self.model.get(collection, {}).get(doc_id)

    def insert(
        self, collection: str, doc_id: str, history: tuple[RevID, ...], body: bytes, deleted: bool
    ) -> None:
        """Insert on both sides, and compare what is answered."""

        def do() -> tuple[str, int, bool]:
            return self.store.insert(
                doc_id, " ".join(history), body, deleted=deleted, collection=collection
            )

        if collection not in self.model:
            assert fails(do) is CollectionNotFoundError
            return
        doc = self.doc(collection, doc_id) or ModelDoc(doc_id)
        before = doc.tree.winner
        try:
            added = doc.tree.insert(history, deleted)
        except ConflictError:
            assert fails(do) is ConflictError
            return
        if added:
            self.model[collection][doc_id] = doc
            doc.bodies[history[0]] = body
            self.last_sequence += 1
            doc.sequence = self.last_sequence
        assert do() == (history[0], doc.sequence, bool(added))
        if added and doc.tree.winner != before:
            self.check_own_edit(collection, doc_id, doc)

    def check_own_edit(self, collection: str, doc_id: str, doc: ModelDoc) -> None:
        """Whoever edits without a vector gets one of the store's: the old one, and a time in front.

        All times of the store rise, also over restarts with another clock.
        """
        vector = parse_vector(self.store.vector_of(doc_id, collection))
        known = times(doc.vector) if doc.vector is not None else {}
        own = vector.current
        assert own.source in {self.last_version.source} or not self.last_version.source
        assert own.time > self.last_version.time
        assert own.time > max(known.values(), default=0)
        assert times(vector) == known | {own.source: own.time}
        self.last_version = own
        doc.move_to(vector)

    @rule(
        collection=collections,
        doc_id=doc_ids,
        body=bodies,
        deleted=st.booleans(),
        steps=st.integers(1, 3),
    )
    def insert_child(
        self, collection: str, doc_id: str, body: bytes, deleted: bool, steps: int
    ) -> None:
        doc = self.doc(collection, doc_id)
        current = (doc.current[0],) if doc is not None else ()
        generation = int(current[0].split("-")[0]) if current else 0
        self.made += 1
        added = tuple(RevID(f"{generation + step}-{self.made:04x}") for step in range(steps, 0, -1))
        self.insert(collection, doc_id, added + current, body, deleted)

    @rule(
        collection=collections,
        doc_id=doc_ids,
        body=bodies,
        deleted=st.booleans(),
        data=st.data(),
    )
    def insert_beside(
        self, collection: str, doc_id: str, body: bytes, deleted: bool, data: st.DataObject
    ) -> None:
        """Insert a new branch, off nothing or off any revision that is surely kept."""
        doc = self.doc(collection, doc_id)
        kept = [leaf.rev_id for leaf in doc.tree.leaves] if doc is not None else []
        parent = data.draw(st.sampled_from([None, *kept]))
        self.made += 1
        if parent is None:
            history: tuple[RevID, ...] = (RevID(f"1-{self.made:04x}"),)
        else:
            history = (RevID(f"{int(parent.split('-')[0]) + 1}-{self.made:04x}"), parent)
        self.insert(collection, doc_id, history, body, deleted)

    @rule(collection=collections, doc_id=doc_ids, data=st.data())
    def insert_again(self, collection: str, doc_id: str, data: st.DataObject) -> None:
        """Insert a leaf, or the parent of one, a second time."""
        doc = self.doc(collection, doc_id)
        if doc is None:
            return
        leaf = data.draw(st.sampled_from(doc.tree.leaves))
        chain = (leaf.rev_id, *doc.tree.ancestors(leaf.rev_id)[:1])
        place = data.draw(st.integers(0, len(chain) - 1))
        self.insert(collection, doc_id, chain[place:], b"{}", leaf.deleted)

    @rule(
        collection=collections,
        doc_id=doc_ids,
        body=bodies,
        deleted=st.booleans(),
        knows=st.booleans(),
    )
    def save(self, collection: str, doc_id: str, body: bytes, deleted: bool, knows: bool) -> None:
        doc = self.doc(collection, doc_id)
        parent = doc.current[0] if doc is not None and knows else None

        def do() -> tuple[str, int, bool]:
            return self.store.save(doc_id, parent, body, deleted=deleted, collection=collection)

        if collection not in self.model:
            assert fails(do) is CollectionNotFoundError
            return
        is_live = doc is not None and not doc.current[1]
        base = doc.current[0] if doc is not None else None
        if not knows and doc is not None and self.is_repeated(doc, body, deleted):
            assert do() == (doc.current[0], doc.sequence, False)
        elif deleted and not is_live:
            assert fails(do) is NotFoundError
        elif is_live and not knows:
            assert fails(do) is ConflictError
        else:
            rev_id = new_rev_id(base, deleted, body)
            doc = doc or ModelDoc(doc_id)
            doc.tree.insert((rev_id, base) if base else (rev_id,), deleted)
            doc.bodies[rev_id] = body
            self.model[collection][doc_id] = doc
            self.last_sequence += 1
            doc.sequence = self.last_sequence
            assert do() == (rev_id, self.last_sequence, True)
            self.check_own_edit(collection, doc_id, doc)

    # --- clients with vectors ----------------------------------------------------------

    @rule(
        collection=collections,
        doc_id=doc_ids,
        source=st.sampled_from([ANN, BOB]),
        body=bodies,
        deleted=st.booleans(),
        data=st.data(),
    )
    def push_edit(
        self,
        collection: str,
        doc_id: str,
        source: str,
        body: bytes,
        deleted: bool,
        data: st.DataObject,
    ) -> None:
        """Edit what a client pulled, lately or long ago, or nothing at all."""
        doc = self.doc(collection, doc_id)
        base = data.draw(st.sampled_from([None, *reversed(doc.vectors)])) if doc else None
        seen = base.latest_time if base is not None else 0
        time = max(self.client_times[source], seen) + 1
        self.client_times[source] = time
        self.push(collection, doc_id, edited(base, Version(time, source)), body, deleted)

    @rule(collection=collections, doc_id=doc_ids, data=st.data())
    def push_again(self, collection: str, doc_id: str, data: st.DataObject) -> None:
        doc = self.doc(collection, doc_id)
        if doc is not None:
            vector = data.draw(st.sampled_from(doc.vectors))
            self.push(collection, doc_id, vector, b"{}", False)

    @rule(collection=collections, doc_id=doc_ids, body=bodies, deleted=st.booleans())
    def push_on_tree_id(self, collection: str, doc_id: str, body: bytes, deleted: bool) -> None:
        """Edit what an upgraded client has under a tree ID, and never pulled since."""
        doc = self.doc(collection, doc_id)
        legacy = (doc.current[0],) if doc is not None else (RevID("1-abcd"),)
        self.client_times[BOB] += 1
        vector = VersionVector(Version(self.client_times[BOB], BOB))
        if doc is None or not has_seen(doc.vector, vector):
            self.push(collection, doc_id, vector, body, deleted, legacy)

    def push(
        self,
        collection: str,
        doc_id: str,
        vector: VersionVector,
        body: bytes,
        deleted: bool,
        legacy: tuple[RevID, ...] = (),
    ) -> None:
        """Insert a version on both sides, and compare what is answered."""

        def do() -> tuple[str, int, bool]:
            text = f"{vector}; {', '.join(legacy)}" if legacy else str(vector)
            return self.store.push(doc_id, text, body, deleted=deleted, collection=collection)

        if collection not in self.model:
            assert fails(do) is CollectionNotFoundError
            return
        doc = self.doc(collection, doc_id)
        if doc is not None and has_seen(doc.vector, vector):
            assert do() == (doc.current[0], doc.sequence, False)
            return
        if doc is not None and not self.replaces(doc, vector, legacy):
            assert fails(do) is ConflictError
            return
        rev_id, sequence, is_new = do()
        parent = (doc.current[0],) if doc is not None else legacy
        known = times(doc.vector) if doc is not None and doc.vector is not None else {}
        is_known_to_client = doc is None or has_seen(vector, doc.vector)
        doc = doc or ModelDoc(doc_id)
        self.model[collection][doc_id] = doc
        doc.tree.insert((RevID(rev_id), *parent), deleted)
        doc.bodies[RevID(rev_id)] = body
        self.last_sequence += 1
        doc.sequence = self.last_sequence
        assert (sequence, is_new) == (self.last_sequence, True)
        stored = parse_vector(self.store.vector_of(doc_id, collection))
        if is_known_to_client:
            assert stored == vector
        else:  # a version of the store's own in front of what both sides had
            assert compare(stored, vector) is Order.NEWER
            assert doc.vector is None or compare(stored, doc.vector) is Order.NEWER
            assert times(stored).keys() == known.keys() | times(vector).keys() | {
                stored.current.source
            }
        doc.move_to(stored)

    def replaces(self, doc: ModelDoc, vector: VersionVector, legacy: tuple[RevID, ...]) -> bool:
        assert doc.vector is not None
        rev_id, is_deleted = doc.current
        is_stranger = times(vector).keys().isdisjoint(times(doc.vector))
        return has_seen(vector, doc.vector) or rev_id in legacy or (is_deleted and is_stranger)

    def is_repeated(self, doc: ModelDoc, body: bytes, deleted: bool) -> bool:
        winner = doc.tree.winner
        assert winner is not None
        return new_rev_id(winner.parent, deleted, body) == winner.rev_id

    @rule(collection=collections, doc_id=doc_ids)
    def purge(self, collection: str, doc_id: str) -> None:
        if collection not in self.model:
            assert fails(lambda: self.store.purge(doc_id, collection)) is CollectionNotFoundError
            return
        was_there = self.model[collection].pop(doc_id, None) is not None
        assert self.store.purge(doc_id, collection) == was_there

    @rule()
    def create_collection(self) -> None:
        self.store.create_collection(OTHER)
        self.model.setdefault(OTHER, {})

    @rule()
    def delete_collection(self) -> None:
        if OTHER in self.model:
            self.store.delete_collection(OTHER)
            del self.model[OTHER]

    @rule(jump_s=st.sampled_from([0.0, -365 * DAY, -NOW, DAY]))
    def reopen(self, jump_s: float) -> None:
        """Start anew, perhaps with a clock that is wrong."""
        self.store.close()
        self.clock.now = NOW + jump_s
        self.store = Store(self.folder / "db", LIMITS, self.clock)

    @rule(
        collection=collections,
        back=st.integers(0, 6),
        limit=st.integers(1, 4),
        active=st.booleans(),
        ids=st.none() | st.frozensets(doc_ids),
    )
    def read_changes(
        self, collection: str, back: int, limit: int, active: bool, ids: frozenset[str] | None
    ) -> None:
        if collection not in self.model:
            return
        since = max(self.last_sequence - back, 0)
        expected = [
            (doc.sequence, doc_id, *doc.current)
            for doc_id, doc in self.model[collection].items()
            if doc.sequence > since
            and not (active and doc.current[1])
            and (ids is None or doc_id in ids)
        ]
        expected.sort()
        page = self.store.changes(
            since, limit=limit, active_only=active, doc_ids=ids, collection=collection
        )
        assert [change[:4] for change in page.changes] == expected[:limit]
        for change in page.changes:
            assert change.vector == str(self.model[collection][change.doc_id].vector)
        assert page.is_complete == (len(expected) <= limit)
        if page.is_complete:
            assert page.last_sequence == self.last_sequence
        else:
            assert page.last_sequence == page.changes[-1].sequence

    @invariant()
    def documents_are_equal(self) -> None:
        if not hasattr(self, "store"):
            return
        assert set(self.store.ask(lambda i: ListCollections(i), tuple)) == set(self.model)
        for collection, docs in self.model.items():
            for doc_id, doc in docs.items():
                self.check_document(collection, doc_id, doc)
            self.check_collection(collection, docs)

    def check_document(self, collection: str, doc_id: str, doc: ModelDoc) -> None:
        found = self.store.read(doc_id, collection)
        rev_id, deleted = doc.current
        assert found is not None
        assert found[:5] == (doc_id, rev_id, doc.sequence, deleted, doc.bodies[rev_id])
        assert found.vector == str(doc.vector)
        ancestors = doc.tree.ancestors(rev_id)
        kept = found.ancestors
        assert kept == ancestors[: len(kept)]
        assert len(kept) >= min(len(ancestors), MAX_DEPTH - 1)

    def check_collection(self, collection: str, docs: dict[str, ModelDoc]) -> None:
        live = sorted(doc_id for doc_id, doc in docs.items() if not doc.current[1])
        page = self.store.ask(lambda i: ListDocuments(i, collection, "", 10), tuple)
        assert [stored.doc_id for stored in page] == live
        assert self.store.ask(lambda i: CountDocuments(i, collection)) == len(live)
        asked = ("a", "b", "ä")
        revs = self.store.ask(lambda i: FindCurrentRevs(i, collection, asked), tuple)
        assert list(revs) == [
            (*docs[doc_id].current, str(docs[doc_id].vector)) if doc_id in docs else None
            for doc_id in asked
        ]


def times(vector: VersionVector) -> dict[str, int]:
    """Return the latest time of each author."""
    latest: dict[str, int] = {}
    for time, source in vector.versions:
        latest[source] = max(time, latest.get(source, 0))
    return latest


def has_seen(one: VersionVector | None, other: VersionVector | None) -> bool:
    """Tell whether the edit that made the other went into the one. Spec: documents.md §9.2."""
    assert one is not None
    assert other is not None
    return times(one).get(other.current.source, 0) >= other.current.time


def fails(do: Callable[[], object]) -> type[EdgeSyncError]:
    """Return the type of the error that a function raises."""
    try:
        do()
    except EdgeSyncError as error:
        return type(error)
    raise AssertionError("it did not fail")


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
