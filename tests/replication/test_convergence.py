"""Clients of all versions edit, meet conflicts, lose connections; in the end all agree.

What they agree on is compared with a model of dicts. Three kinds of documents
make it exact: a *ledger* is a set that grows, and a conflict unites both sides,
so that no edit may ever be lost; a *private* document has one writer, whose
last word counts; a *contested* one is settled by each client's own rule, so it
must be one of the states that somebody gave it. `EDGESYNC_CONVERGENCE_EXAMPLES`
says how many histories to try.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgesync.documents.store_calls import DEFAULT_COLLECTION, ListDocuments, Verify
from tests.active_peer.active_replicator import DatabaseChanged
from tests.active_peer.joined import JoinedEnd, sync_joined
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.peer_database import Body, KeepConflict, PeerDatabase, decode_body
from tests.loopback import Store

KINDS = (2, 3, 3, 4, 4)
"""Protocols of the clients; the second client is upgraded to 4.0 at some time."""
UPGRADED = 1
ROUNDS_TO_SETTLE = 3
PAD = "word " * 100
EXAMPLES = int(os.environ.get("EDGESYNC_CONVERGENCE_EXAMPLES", "30"))

SITES = st.integers(0, len(KINDS) - 1)
LEDGERS = st.sampled_from(["ledger-0", "ledger-1"])
CONTESTED = st.sampled_from(["contested-0", "contested-1"])


def settle(doc_id: str, ours: Body | None, theirs: Body | None) -> Body | KeepConflict | None:
    """Unite ledgers, keep what is private, leave the rest to the client's own rule."""
    if doc_id.startswith("private"):
        return KeepConflict.LOCAL
    if not doc_id.startswith("ledger"):
        return KeepConflict.DEFAULT
    assert ours is not None
    assert theirs is not None
    return {**ours, **theirs, "edits": sorted({*edits(ours), *edits(theirs)})}


def edits(body: Body | None) -> list[int]:
    found = (body or {}).get("edits", [])
    assert isinstance(found, list)
    return found


class Site:
    """A client: its database, and its connection while it has one."""

    def __init__(self, place: int) -> None:
        self.database = PeerDatabase(identity=f"site {place}", versions=KINDS[place] >= 4)
        self.protocols = (KINDS[place],)
        self.end: JoinedEnd | None = None
        self.results: list[Result] = []

    def options(self, *, continuous: bool) -> SyncOptions:
        return SyncOptions(protocols=self.protocols, continuous=continuous, conflicts=settle)

    def upgrade(self) -> None:
        self.database.upgrade()
        self.protocols = (4,)

    def changed(self) -> None:
        if self.end is not None:
            self.end.peer.receive(DatabaseChanged(), self.end.now)

    def disconnect(self) -> None:
        if self.end is not None:
            self.results.append(self.end.peer.result)
            self.end.cut(0)
            self.end = None


class Clients(RuleBasedStateMachine):
    """Five clients and a server with a real store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(prefix="convergence-")
        self.store = Store(Path(self.folder.name))
        self.sites = [Site(place) for place in range(len(KINDS))]
        self.last_edit = 0
        self.ledgers: dict[str, set[int]] = {}
        self.private: dict[str, Body | None] = {}
        self.contested: dict[str, list[Body | None]] = {}

    # --- applications edit --------------------------------------------------------------

    def new_body(self, site: Site, blob: int) -> Body:
        """Return a body that no other edit has; some have a blob, shared or not."""
        self.last_edit += 1
        body: Body = {"edit": self.last_edit, "pad": PAD}
        if blob:
            content = b"blob %d " % (self.last_edit if blob == 2 else 0) * 400
            body["blob"] = site.database.save_blob(content, "text/plain")
        return body

    @rule(place=SITES, doc_id=LEDGERS, blob=st.sampled_from([0, 0, 1, 2]))
    def add_to_ledger(self, place: int, doc_id: str, blob: int) -> None:
        site = self.sites[place]
        before = site.database.get(doc_id)
        body = {**(before or {}), **self.new_body(site, blob)}
        site.database.save(doc_id, {**body, "edits": sorted([*edits(before), self.last_edit])})
        self.ledgers.setdefault(doc_id, set()).add(self.last_edit)
        site.changed()

    @rule(place=SITES, is_deleted=st.booleans(), blob=st.sampled_from([0, 2]))
    def edit_private(self, place: int, is_deleted: bool, blob: int) -> None:
        doc_id = f"private-{place}"
        self.private[doc_id] = self.edit(self.sites[place], doc_id, is_deleted, blob)

    @rule(place=SITES, doc_id=CONTESTED, is_deleted=st.booleans(), blob=st.sampled_from([0, 2]))
    def edit_contested(self, place: int, doc_id: str, is_deleted: bool, blob: int) -> None:
        left = self.edit(self.sites[place], doc_id, is_deleted, blob)
        self.contested.setdefault(doc_id, [None]).append(left)

    def edit(self, site: Site, doc_id: str, is_deleted: bool, blob: int) -> Body | None:
        """Save or delete a document; return what is left."""
        database = site.database
        if is_deleted and database.get(doc_id) is not None:
            database.delete(doc_id)
        elif not is_deleted:
            database.save(doc_id, self.new_body(site, blob))
        site.changed()
        return database.get(doc_id)

    # --- connections come and go --------------------------------------------------------

    @rule(place=SITES, seed=st.integers(0, 2**16))
    def connect(self, place: int, seed: int) -> None:
        site = self.sites[place]
        if site.end is None:
            options = site.options(continuous=True)
            site.end = JoinedEnd(self.store, site.database, options, chance=random.Random(seed))

    @rule(seed=st.integers(0, 2**16), steps=st.integers(1, 120))
    def move(self, seed: int, steps: int) -> None:
        chance = random.Random(seed)
        ends = [site.end for site in self.sites if site.end is not None]
        for end in chance.choices(ends, k=steps) if ends else ():
            end.step()

    @rule(place=SITES)
    def disconnect(self, place: int) -> None:
        self.sites[place].disconnect()

    @rule(place=SITES)
    def sync(self, place: int) -> None:
        """Synchronise once and to the end."""
        site = self.sites[place]
        site.disconnect()
        site.results.append(sync_joined(self.store, site.database, site.options(continuous=False)))

    @rule()
    def restart_server(self) -> None:
        for site in self.sites:
            site.disconnect()
        self.store.close()
        self.store = Store(Path(self.folder.name))

    @precondition(lambda self: self.sites[UPGRADED].protocols != (4,))
    @rule()
    def upgrade_client(self) -> None:
        self.sites[UPGRADED].disconnect()
        self.sites[UPGRADED].upgrade()

    # --- what must be ------------------------------------------------------------------

    @invariant()
    def nobody_complains(self) -> None:
        for site in self.sites:
            open_ends = [site.end.peer.result] if site.end is not None else []
            for result in [*site.results, *open_ends]:
                assert result.complaints == []
                assert result.pull_errors == []
                assert {error.refusal.code for error in result.push_errors} <= {409}

    def teardown(self) -> None:
        try:
            self.settle()
            self.check()
        finally:
            for site in self.sites:
                site.disconnect()
            self.store.close()
            self.folder.cleanup()

    def settle(self) -> None:
        """Synchronise all until nothing moves: each round spreads what the last one settled."""
        for _ in range(ROUNDS_TO_SETTLE):
            for place in range(len(KINDS)):
                self.sync(place)

    def check(self) -> None:
        self.nobody_complains()
        on_server = self.server_bodies()
        for site in self.sites:
            ids = site.database.default_collection.ids()
            assert {doc_id: site.database.get(doc_id) for doc_id in ids} == on_server
            assert site.database.missing_blobs() == []
        assert self.store.ask(Verify) == ()
        for doc_id, expected in self.ledgers.items():
            assert set(edits(on_server[doc_id])) == expected
        for doc_id, body in self.private.items():
            assert on_server.get(doc_id) == body
        for doc_id, states in self.contested.items():
            assert on_server.get(doc_id) in states
        assert on_server.keys() <= {*self.ledgers, *self.private, *self.contested}

    def server_bodies(self) -> dict[str, Body]:
        documents = self.store.ask(
            lambda call_id: ListDocuments(call_id, DEFAULT_COLLECTION, "", 99)
        )
        assert isinstance(documents, tuple)
        return {document.doc_id: decode_body(document.body) for document in documents}


TestClients = Clients.TestCase
TestClients.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each step of shrinking takes seconds
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
