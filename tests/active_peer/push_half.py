"""The pushing half of a connection, for one collection."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from tests.active_peer import peer_delta
from tests.active_peer.exchange import Exchange, Reply
from tests.active_peer.failures import DocumentFailure, Refusal
from tests.active_peer.options import VERSION_VECTORS, CollectionLink, Result, SyncOptions
from tests.active_peer.peer_database import PeerDocument, ServerRev, decode_body
from tests.active_peer.progress import Checkpoint

MAX_UNANSWERED_PROPOSALS: Final = 5
MAX_UNANSWERED_BYTES: Final = 2 << 20
MAX_ACCEPTED: Final = 600
CONFLICT: Final = Refusal("HTTP", 409, "conflicts with newer server revision")
CONFLICTS: Final = frozenset({("HTTP", 409), ("LiteCore", 8)})
BAD_DELTA: Final = ("HTTP", 422)


class _Accepted(NamedTuple):
    document: PeerDocument
    max_history: int


class PushHalf:
    """Propose what is new here, send what the server accepts.

    `pending` are the sequences that are under way or have to be offered again;
    everything else up to `seen` is done with.

    Spec: replication.md §3.6, §3.7, §3.7.1.
    """

    def __init__(
        self,
        link: CollectionLink,
        exchange: Exchange,
        options: SyncOptions,
        result: Result,
        fail: Callable[[Refusal], None],
    ) -> None:
        self._link = link
        self._exchange = exchange
        self._options = options
        self._result = result
        self._fail = fail
        self._is_started = False
        self._has_offered = False
        self._has_told_end = False
        self._reread: frozenset[int] = frozenset()  # older sequences that are not done yet
        self._read_up_to = 0
        self._seen_at_start = 0
        self.seen = 0
        self.pending: set[int] = set()
        self._again: deque[PeerDocument] = deque()
        self._refused: list[PeerDocument] = []  # with 403, for a second try at the end
        self._refused_before: set[int] = set()
        self._under_way: dict[str, PeerDocument] = {}
        self._held: set[str] = set()  # changed while an older revision is under way
        self._conflicting: dict[str, int] = {}  # waiting for the server's revision
        self._accepted: deque[_Accepted] = deque()
        self._unanswered_proposals = 0
        self._unanswered_bytes = 0
        self._takes_deltas = False

    def start(self, checkpoint: Checkpoint) -> None:
        """Begin after what the checkpoint holds for done."""
        self._is_started = True
        self._reread = checkpoint.pending
        self._seen_at_start = self.seen = checkpoint.seen
        self.pending = set(checkpoint.pending)
        self._read_up_to = min(checkpoint.pending) - 1 if checkpoint.pending else checkpoint.seen

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do for now."""
        return (
            self._is_started
            and not self._under_way
            and not self._again
            and not self._refused
            and self._read_up_to >= self._link.collection.last_sequence
        )

    def pump(self) -> None:
        """Propose and send as far as the windows allow."""
        if not self._is_started:
            return
        while self._has_room() and (batch := self._next_batch()):
            self._propose(batch)
        while self._accepted and self._unanswered_bytes < MAX_UNANSWERED_BYTES:
            self._send(self._accepted.popleft())
        if not self._has_told_end and self._is_at_end():
            self._tell_end()

    def _has_room(self) -> bool:
        return (
            self._unanswered_proposals < MAX_UNANSWERED_PROPOSALS
            and len(self._accepted) < MAX_ACCEPTED
        )

    # --- what to offer ----------------------------------------------------------------

    def _next_batch(self) -> list[PeerDocument]:
        batch: list[PeerDocument] = []
        while self._again and len(batch) < self._options.batch:
            batch.append(self._again.popleft())
        if len(batch) < self._options.batch:
            batch.extend(self._read(self._options.batch - len(batch)))
        if not batch and self._refused and not self._under_way:
            batch = self._take_refused()
        for document in batch:
            self._under_way[document.doc_id] = document
        return batch

    def _take_refused(self) -> list[PeerDocument]:
        """Return what to try a second time; what has changed since was offered anew."""
        refused, self._refused = self._refused, []
        latest = self._link.collection.document
        stale = [document for document in refused if document is not latest(document.doc_id)]
        self.pending.difference_update(document.sequence for document in stale)
        return [document for document in refused if document not in stale]

    def _read(self, count: int) -> Iterator[PeerDocument]:
        """Go on through the changes of the collection; yield at most `count` to offer."""
        collection = self._link.collection
        if self._read_up_to >= collection.last_sequence:
            return
        for document in collection.changes_since(self._read_up_to):
            self._step_to(document.sequence)
            if self._is_wanted(document):
                self.pending.add(document.sequence)
                yield document
                count -= 1
                if not count:
                    return
        self._step_to(collection.last_sequence)

    def _step_to(self, sequence: int) -> None:
        """Note how far the reading is; what was skipped has been replaced since."""
        if self._read_up_to < self._seen_at_start:
            skipped = {n for n in self._reread if self._read_up_to < n <= sequence}
            self.pending -= skipped
        self._read_up_to = sequence
        self.seen = max(self.seen, sequence)

    def _is_wanted(self, document: PeerDocument) -> bool:
        sequence, doc_id = document.sequence, document.doc_id
        if sequence <= self._seen_at_start and sequence not in self._reread:
            return False
        if self._options.doc_ids is not None and doc_id not in self._options.doc_ids:
            return False
        self.pending.discard(self._conflicting.pop(doc_id, 0))
        if self._link.server_rev(doc_id) == document.rev_id:
            return False
        if doc_id in self._under_way:
            self.pending.add(sequence)
            self._held.add(doc_id)
            return False
        return True

    def _is_at_end(self) -> bool:
        return self._read_up_to >= self._link.collection.last_sequence and not self._under_way

    def _tell_end(self) -> None:
        """Say that there is nothing (more) to offer. Spec: replication.md §3.6."""
        self._has_told_end = True
        if self._options.continuous or not self._has_offered:
            self._exchange.notify(self._proposal_properties(), b"[]")

    def _proposal_properties(self) -> dict[str, str]:
        properties = self._link.properties("proposeChanges")
        if self._options.protocol > 2:
            properties["conflictIncludesRev"] = "true"
        return properties

    # --- proposals --------------------------------------------------------------------

    def _propose(self, batch: Sequence[PeerDocument]) -> None:
        self._has_offered = True
        self._unanswered_proposals += 1
        parents = [self._link.server_rev(document.doc_id) or "" for document in batch]
        entries = [self._entry(*entry) for entry in zip(batch, parents, strict=True)]
        self._exchange.request(
            self._proposal_properties(),
            json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode(),
            lambda reply: self._proposed(batch, parents, reply),
            compressed=True,
            urgent=True,
        )

    def _entry(self, document: PeerDocument, parent: str) -> list[object]:
        """Return an entry of `proposeChanges`; 4.x leaves out what says nothing."""
        rev = self._link.collection.form.proposal(document.revision)
        entry: list[object] = [document.doc_id, rev, parent, len(document.body)]
        if self._options.protocol >= VERSION_VECTORS and document.body == b"{}":
            return entry[: 3 if parent else 2]
        return entry

    def _proposed(
        self, batch: Sequence[PeerDocument], parents: Sequence[str], reply: Reply
    ) -> None:
        self._unanswered_proposals -= 1
        if reply.refusal is not None:
            self._fail(reply.refusal)
            return
        answers = json.loads(reply.body or b"[]")
        if len(answers) > len(batch):
            self._result.complaints.append("a reply to proposeChanges has too many entries")
        if reply.properties.get("blobs") != "true":
            self._result.complaints.append("a reply to proposeChanges lacks blobs=true")
        self._takes_deltas = reply.properties.get("deltas") == "true"
        max_history = int(
            reply.properties.get("maxHistory", self._link.collection.form.max_history)
        )
        answers += [0] * (len(batch) - len(answers))
        for document, parent, answer in zip(batch, parents, answers, strict=False):
            self._decide(document, parent, answer, max_history)

    def _decide(
        self, document: PeerDocument, parent: str, answer: object, max_history: int
    ) -> None:
        status, server_rev = answer, ""
        if isinstance(answer, dict) and self._options.protocol == 2:
            self._result.complaints.append("a client of version 2 takes an object for a yes")
            status = 0
        elif isinstance(answer, dict):
            status, server_rev = answer.get("status"), answer.get("rev", "")
        if status == 0:
            self._accepted.append(_Accepted(document, max_history))
        elif status == 304:
            self._result.already_there += 1
            self._note_pushed(document)
            self._done(document)
        elif status == 409:
            self._conflict(document, parent, str(server_rev))
        else:
            code = status if isinstance(status, int) else 500
            self._report(document, Refusal("HTTP", code, "refused in proposeChanges"))
            self._done(document)

    def _conflict(self, document: PeerDocument, parent: str, server_rev: str) -> None:
        """Offer it as a child of the server's revision, or wait for that one to be pulled.

        Args:
            document: What was refused.
            parent: What it was offered as a child of.
            server_rev: The server's current revision, if it said.
        """
        offered = self._link.collection.form.parse_offer(server_rev).rev_id if server_rev else ""
        if offered in document.revision.chain and offered != parent:
            self._link.server_revs[document.doc_id] = ServerRev(offered)
            self._again.append(document)
            return
        if not self._options.pull:
            self._report(document, CONFLICT)
            self._done(document)
            return
        current = self._link.collection.document(document.doc_id)
        if current is not None and current.sequence == document.sequence:
            self._conflicting[document.doc_id] = document.sequence
            self._release(document)
        else:
            self._done(document)  # the server's revision has come in the meantime

    # --- revisions --------------------------------------------------------------------

    def _send(self, accepted: _Accepted) -> None:
        """Send a revision, as a delta if the server takes it and that is shorter."""
        document, max_history = accepted
        properties = self._rev_properties(document, max_history)
        base = self._link.server_revs.get(document.doc_id)
        delta = None if base is None else self._delta(document, base.body)
        if base is None or delta is None:
            self._send_body(document, properties, document.body, self._answered)
            return

        def answered(document: PeerDocument, refusal: Refusal | None) -> None:
            if refusal is not None and refusal[:2] == BAD_DELTA:
                self._send_body(document, properties, document.body, self._answered)
            else:
                self._answered(document, refusal)

        with_source = {**properties, "deltaSrc": base.rev_id}
        self._send_body(document, with_source, delta, answered)

    def _send_body(
        self,
        document: PeerDocument,
        properties: dict[str, str],
        body: bytes,
        then: Callable[[PeerDocument, Refusal | None], None],
    ) -> None:
        self._unanswered_bytes += len(body)
        self._result.bytes_pushed += len(body)
        self._result.deltas_pushed += "deltaSrc" in properties

        def take(reply: Reply) -> None:
            self._unanswered_bytes -= len(body)
            then(document, reply.refusal)

        self._exchange.request(properties, body, take, compressed=True)

    def _rev_properties(self, document: PeerDocument, max_history: int) -> dict[str, str]:
        """Return them in the order in which 3.2 and 4.0 send them."""
        properties = self._link.properties("rev")
        properties["id"] = document.doc_id
        properties["rev"] = document.rev_id
        properties["sequence"] = str(document.sequence)
        last = {"noconflicts": "1"}
        if self._options.protocol < VERSION_VECTORS:
            properties, last = {**properties, **last}, {}
        if document.deleted:
            properties["deleted"] = "1"
        known = self._link.server_rev(document.doc_id)
        history = self._link.collection.form.history(document.revision, known, max_history)
        if history:
            properties["history"] = history
        return {**properties, **last}

    def _delta(self, document: PeerDocument, base: bytes | None) -> bytes | None:
        """Return the body as a delta. Spec: documents.md §8.2."""
        is_wanted = self._takes_deltas and self._options.deltas and not document.deleted
        if not is_wanted or base is None or base == b"{}":
            return None
        if len(document.body) < peer_delta.MIN_BODY_BYTES:
            return None
        made = peer_delta.make(decode_body(base), decode_body(document.body))
        delta = json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()
        return delta if len(delta) <= 1.2 * len(document.body) else None

    def _note_pushed(self, document: PeerDocument) -> None:
        body = None if document.deleted else document.body
        self._link.note_server_rev(document.doc_id, document.revision, body)

    def _answered(self, document: PeerDocument, refusal: Refusal | None) -> None:
        if refusal is None:
            self._result.pushed += 1
            self._note_pushed(document)
            self._done(document)
            return
        if refusal[:2] in CONFLICTS:
            self._conflict(document, "", "")
            return
        self._report(document, refusal)
        if refusal.is_transient:
            self._release(document)  # stays pending: the next run offers it
        elif refusal[:2] == ("HTTP", 403) and document.sequence not in self._refused_before:
            self._refused_before.add(document.sequence)
            self._refused.append(document)
            self._release(document)
        else:
            self._done(document)

    def report_unresolved(self) -> None:
        """Report, at the end, what the server's conflicting revision did not come for."""
        for doc_id in self._conflicting:
            failure = DocumentFailure(self._link.collection.path, doc_id, CONFLICT)
            self._result.push_errors.append(failure)

    def _report(self, document: PeerDocument, refusal: Refusal) -> None:
        failure = DocumentFailure(self._link.collection.path, document.doc_id, refusal)
        self._result.push_errors.append(failure)

    def _done(self, document: PeerDocument) -> None:
        self.pending.discard(document.sequence)
        self._release(document)

    def _release(self, document: PeerDocument) -> None:
        """Offer what the document has become while an older revision was under way."""
        doc_id = document.doc_id
        del self._under_way[doc_id]
        if doc_id not in self._held:
            return
        self._held.remove(doc_id)
        current = self._link.collection.document(doc_id)
        if current is None or self._link.server_rev(doc_id) == current.rev_id:
            self.pending.discard(current.sequence if current is not None else 0)
        elif current.sequence <= self._read_up_to:
            self._under_way[doc_id] = current
            self._again.append(current)
