"""The pulling half of a connection, for one collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from edgesync.blip.message import IncomingMessage, MessagePiece, bool_property
from tests.active_peer.exchange import Exchange, Reply, refusal_of
from tests.active_peer.failures import DocumentFailure, Refusal
from tests.active_peer.options import CollectionLink, Result, SyncOptions
from tests.active_peer.peer_blobs import BlobReference, PeerBlobs, find_blobs
from tests.active_peer.peer_database import Taken, decode_body
from tests.active_peer.progress import PullProgress, ServerSequence
from tests.active_peer.tree_revisions import Chain

CORRUPT_BLOB: Final = Refusal("LiteCore", 15, "the blob does not have its digest")
NO_SEQUENCE: Final = Refusal("HTTP", 400, "received 'rev' message with missing 'sequence'")
NO_DELTAS: Final = Refusal("HTTP", 422, "this peer did not announce deltas")
REMOVED_OR_REVOKED: Final = 1
"""The largest `deleted` element that does not purge the document. Spec: replication.md §3.5."""


class PullHalf:
    """Subscribe, want what is not here, take it.

    Spec: replication.md §3.4, §3.5, §3.7.2, §3.10.
    """

    def __init__(
        self,
        link: CollectionLink,
        exchange: Exchange,
        blobs: PeerBlobs,
        options: SyncOptions,
        result: Result,
        fail: Callable[[Refusal], None],
    ) -> None:
        self.link = link
        self._exchange = exchange
        self._blobs = blobs
        self._options = options
        self._result = result
        self._fail = fail
        self._is_subscribed = False
        self._is_caught_up = False
        self._outstanding: set[tuple[str, ServerSequence]] = set()
        self.progress = PullProgress(None)

    @property
    def is_idle(self) -> bool:
        """Whether the server has said that this is all, and all of it is here."""
        return self._is_caught_up and not self._outstanding

    def start(self, done: ServerSequence | None) -> None:
        """Subscribe to what follows a sequence of the server."""
        self.progress = PullProgress(done)
        properties = self.link.properties("subChanges")
        if done is not None:
            properties["since"] = json.dumps(done)
        if self._options.continuous:
            properties["continuous"] = "true"
        properties["batch"] = str(self._options.batch)
        properties["sendReplacementRevs"] = "1"
        properties["versioning"] = self.link.collection.form.versioning
        if done is None and self.link.collection.is_empty:
            properties["activeOnly"] = "true"
        properties["revocations"] = "true"
        body = b""
        if self._options.doc_ids is not None:
            body = json.dumps({"docIDs": sorted(self._options.doc_ids)}).encode()
        self._exchange.request(properties, body, self._subscribed)

    def _subscribed(self, reply: Reply) -> None:
        self._is_subscribed = True
        if reply.refusal is not None:
            self._fail(reply.refusal)

    # --- changes ----------------------------------------------------------------------

    def changes(self, message: IncomingMessage, body: bytes) -> None:
        """Take an offer; an empty one says that there is no more for now."""
        entries = json.loads(body or b"[]") or []
        if not self._is_subscribed:
            self._result.complaints.append("changes came before the reply to subChanges")
        if not entries:
            if not message.noreply:
                self._result.complaints.append("an empty changes wants a reply")
            if self._is_caught_up:
                self._result.complaints.append("a second empty changes")
            self._is_caught_up = True
        elif message.noreply:
            self._result.complaints.append("changes that want no reply are dropped by clients")
            return
        answers = [self._wants(*entry) for entry in entries]
        while answers and answers[-1] == 0:
            answers.pop()
        form = self.link.collection.form
        self._exchange.reply(
            message,
            {"maxHistory": str(form.max_history), "blobs": "true"},
            json.dumps(answers, separators=(",", ":")).encode(),
            compressed=True,
        )

    def _wants(
        self,
        sequence: ServerSequence,
        doc_id: str,
        rev_id: str,
        deleted: int = 0,
        _body_bytes: int = 0,
    ) -> int | list[str]:
        """Return the ancestors that are here, or 0 if the revision is not wanted."""
        self.progress.announce(sequence)
        if deleted > REMOVED_OR_REVOKED:
            self._result.complaints.append(f"changes purge document {doc_id}")
        document = self.link.collection.document(doc_id)
        if document is not None and rev_id in document.chain:
            self.link.note_server_rev(doc_id, rev_id)
            self.progress.finish(sequence)
            return 0
        self._outstanding.add((doc_id, sequence))
        if document is None:
            return []
        return self.link.collection.form.known_ancestors(document.chain, rev_id)

    # --- revisions --------------------------------------------------------------------

    def norev(self, message: IncomingMessage) -> None:
        """Note that a promised revision will not come."""
        properties = message.properties
        sequence = _sequence(properties.get("sequence"))
        if sequence is None:
            self._result.complaints.append("a norev has no sequence")
        else:
            self._finish(properties.get("id", ""), sequence)
        self._exchange.reply(message)

    def rev(self, message: IncomingMessage, body: bytes) -> None:
        """Take a revision: its blobs first, then store it, then reply."""
        properties = message.properties
        sequence = _sequence(properties.get("sequence"))
        if sequence is None:
            self._refuse(message, None, NO_SEQUENCE)
            return
        if (properties.get("id", ""), sequence) not in self._outstanding:
            self._result.complaints.append(f"rev {properties} was not asked for")
        if "deltaSrc" in properties:
            self._refuse(message, sequence, NO_DELTAS)
            return
        try:
            decode_body(body)
            form = self.link.collection.form
            chain = form.parse(properties.get("rev", ""), properties.get("history", ""))
        except ValueError as error:
            self._refuse(message, sequence, Refusal("HTTP", 400, str(error)))
            return
        self._fetch_blobs(
            message,
            [blob for blob in find_blobs(body) if blob.digest not in self._blobs],
            lambda refusal: self._with_blobs(message, sequence, chain, body, refusal),
        )

    def _fetch_blobs(
        self,
        message: IncomingMessage,
        missing: list[BlobReference],
        then: Callable[[Refusal | None], None],
    ) -> None:
        """Fetch one blob after the other. Spec: replication.md §3.8."""
        while missing and missing[-1].digest in self._blobs:
            missing.pop()
        if not missing:
            then(None)
            return
        blob = missing.pop()
        properties = self.link.properties("getAttachment")
        properties["digest"] = blob.digest
        properties["docID"] = message.properties["id"]
        if blob.is_compressible:
            properties["compress"] = "true"

        def fetched(refusal: Refusal | None) -> None:
            if refusal is None:
                self._fetch_blobs(message, missing, then)
            else:
                then(refusal)

        self._exchange.fetch(properties, _Download(self._blobs, blob, fetched))

    def _with_blobs(
        self,
        message: IncomingMessage,
        sequence: ServerSequence,
        chain: Chain,
        body: bytes,
        refusal: Refusal | None,
    ) -> None:
        if refusal is not None:
            self._refuse(message, sequence, refusal)
            return
        doc_id = message.properties["id"]
        taken = self.link.collection.take(
            doc_id,
            chain,
            body,
            deleted=bool_property(message.properties, "deleted"),
            server_rev=self.link.server_revs.get(doc_id),
            policy=self._options.conflicts,
        )
        if taken is Taken.KNOWN:
            self.link.note_server_rev(doc_id, chain[0])
        else:
            self.link.server_revs[doc_id] = chain[0]
        self._result.pulled += taken is not Taken.KNOWN
        self._result.conflicts += taken is Taken.RESOLVED
        self._finish(doc_id, sequence)
        self._exchange.reply(message)

    def _refuse(
        self, message: IncomingMessage, sequence: ServerSequence | None, refusal: Refusal
    ) -> None:
        """Report a failure; it is final but for a missing sequence. Spec: replication.md §3.7.2."""
        doc_id = message.properties.get("id", "")
        failure = DocumentFailure(self.link.collection.path, doc_id, refusal)
        self._result.pull_errors.append(failure)
        if sequence is not None:
            self._finish(doc_id, sequence)
        else:
            self._outstanding = {wanted for wanted in self._outstanding if wanted[0] != doc_id}
        self._exchange.refuse(message, refusal)

    def _finish(self, doc_id: str, sequence: ServerSequence) -> None:
        self._outstanding.discard((doc_id, sequence))
        self.progress.finish(sequence)


class _Download:
    """Write the reply to a `getAttachment` as it comes."""

    def __init__(
        self, blobs: PeerBlobs, blob: BlobReference, then: Callable[[Refusal | None], None]
    ) -> None:
        self._blobs = blobs
        self._blob = blob
        self._then = then
        self._writer = blobs.writer()
        self._error_text = b""

    def __call__(self, piece: MessagePiece) -> None:
        if piece.message.is_error:
            self._error_text += piece.data
        else:
            self._writer.write(piece.data)
        if piece.is_last:
            self._then(self._end(piece.message))

    def _end(self, message: IncomingMessage) -> Refusal | None:
        if message.is_error:
            self._writer.close()
            return refusal_of(message, self._error_text)
        return None if self._blobs.finish(self._writer, self._blob) else CORRUPT_BLOB


def _sequence(text: str | None) -> ServerSequence | None:
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, int | str) else None
