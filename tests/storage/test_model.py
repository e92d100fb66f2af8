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
from edgesync.errors import (
    CollectionNotFoundError,
    ConflictError,
    EdgeSyncError,
    NotFoundError,
)
from edgesync.limits import Limits
from tests.storage.store import Store

MAX_DEPTH = 4
LIMITS = Limits(commit_delay_s=0.0, max_revs_depth=MAX_DEPTH)
OTHER = "s.c"
doc_ids = st.sampled_from(["a", "b", "ä"])
collections = st.sampled_from([DEFAULT_COLLECTION, OTHER])
bodies = st.sampled_from([b"{}", b'{"x":1}', '{"x":"ü"}'.encode()])


class ModelDoc:
    """A document: its tree, what each revision said, and its place in the feed."""

    def __init__(self, doc_id: str) -> None:
        self.tree = RevTree(doc_id)
        self.bodies: dict[RevID, bytes] = {}
        self.sequence = 0

    @property
    def current(self) -> tuple[RevID, bool]:
        winner = self.tree.winner
        assert winner is not None
        return winner.rev_id, winner.deleted


class StoreMachine(RuleBasedStateMachine):
    """Do the same to the store and to dicts."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgesync-"))
        self.store = Store(self.folder / "db", LIMITS)
        self.model: dict[str, dict[str, ModelDoc]] = {DEFAULT_COLLECTION: {}}
        self.last_sequence = 0
        self.made = 0

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

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.folder / "db", LIMITS)

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
        assert list(revs) == [docs[doc_id].current if doc_id in docs else None for doc_id in asked]


def fails(do: Callable[[], object]) -> type[EdgeSyncError]:
    """Return the type of the error that a function raises."""
    try:
        do()
    except EdgeSyncError as error:
        return type(error)
    raise AssertionError("it did not fail")


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
