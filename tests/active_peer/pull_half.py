"""The pulling half of a connection, for one collection."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from edgesync.blip.message import IncomingMessage, MessagePiece, bool_property
from tests.active_peer import peer_delta
from tests.active_peer.exchange import Exchange, Reply, refusal_of
from tests.active_peer.failures import DocumentFailure, Refusal
from tests.active_peer.options import (
    OLD_MAX_HISTORY,
    VERSION_VECTORS,
    CollectionLink,
    Result,
    SyncOptions,
)
from tests.active_peer.peer_blobs import BlobReference, PeerBlobs, find_blobs
from tests.active_peer.peer_database import (
    PeerDocument,
    ServerRev,
    Taken,
    decode_body,
    encode_body,
)
from tests.active_peer.progress import PullProgress, ServerSequence
from tests.active_peer.revision import Revision
from tests.active_peer.vector_revisions import VectorRevisions

CORRUPT_BLOB: Final = Refusal("LiteCore", 15, "the blob does not have its digest")
NO_SEQUENCE: Final = Refusal("HTTP", 400, "received 'rev' message with missing 'sequence'")
NO_BASE: Final = Refusal("HTTP", 422, "the delta is against something else")
FROM_THE_FUTURE: Final = Refusal("LiteCore", 4, "Invalid timestamp in version vector")
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
        self._has_told_of_deltas = False
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
        if self._options.protocol > 2:
            properties["sendReplacementRevs"] = "1"
            properties["versioning"] = self.link.collection.form.versioning
        if done is None and self.link.collection.is_empty:
            properties["activeOnly"] = "true"
        if self._options.protocol > 2:
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
        if message.noreply:
            return
        answers = [self._wants(*entry) for entry in entries]
        while answers and answers[-1] == 0:
            answers.pop()
        self._exchange.reply(
            message,
            self._reply_properties(),
            json.dumps(answers, separators=(",", ":")).encode(),
            compressed=True,
        )

    def _reply_properties(self) -> dict[str, str]:
        """Say what is understood; deltas once a connection. Spec: replication.md §3.5."""
        protocol = self._options.protocol
        properties = {"blobs": "true"}
        if protocol < VERSION_VECTORS:
            form = self.link.collection.form
            length = OLD_MAX_HISTORY if protocol == 2 else form.max_history
            properties = {"maxHistory": str(length), **properties}
        if self._options.deltas and not self._has_told_of_deltas:
            properties["deltas"] = "true"
            self._has_told_of_deltas = True
        if protocol >= VERSION_VECTORS:
            properties["sendReplacementRevs"] = "1"
        return properties

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
        form = self.link.collection.form
        offer = form.parse_offer(rev_id)
        if offer.is_version is not isinstance(form, VectorRevisions):
            self._result.complaints.append(f"{rev_id} is offered for {doc_id}")
        document = self.link.collection.document(doc_id)
        if document is not None and form.has(document.revision, offer):
            is_ours = offer.rev_id == document.rev_id and not document.deleted
            self.link.note_server_rev(doc_id, offer, document.body if is_ours else None)
            self.progress.finish(sequence)
            return 0
        self._outstanding.add((doc_id, sequence))
        return [] if document is None else form.listed(self._kept(document), offer)

    def _kept(self, document: PeerDocument) -> tuple[str, ...]:
        """Return the revisions kept with a body; all known ones if no deltas are wanted."""
        if not self._options.deltas:
            return document.revision.chain
        server_rev = self.link.server_rev(document.doc_id)
        if server_rev is None or server_rev == document.rev_id:
            return (document.rev_id,)
        return (document.rev_id, server_rev)

    def _base(self, doc_id: str, rev_id: str) -> bytes | None:
        """Return the body of a revision that `_known` has listed."""
        document = self.link.collection.document(doc_id)
        if document is not None and document.rev_id == rev_id and not document.deleted:
            return document.body
        kept = self.link.server_revs.get(doc_id)
        return kept.body if kept is not None and kept.rev_id == rev_id else None

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
        if "replacedRev" in properties and self._options.protocol == 2:
            self._result.complaints.append("a replacement comes to who did not ask for it")
        self._result.bytes_pulled += len(body)
        try:
            whole = self._whole_body(properties, body)
            form = self.link.collection.form
            revision = form.parse(properties.get("rev", ""), properties.get("history", ""))
        except ValueError as error:
            self._refuse(message, sequence, Refusal("HTTP", 400, str(error)))
            return
        if whole is None:
            self._refuse_delta(message)
        elif isinstance(form, VectorRevisions) and form.is_from_the_future(revision):
            self._refuse(message, sequence, FROM_THE_FUTURE)
        else:
            self._check_delta(properties, body, whole)
            self._fetch_blobs(
                message,
                [blob for blob in find_blobs(whole) if blob.digest not in self._blobs],
                lambda refusal: self._with_blobs(message, sequence, revision, whole, refusal),
            )

    def _whole_body(self, properties: Mapping[str, str], body: bytes) -> bytes | None:
        """Return the body, of a delta too; None if that does not apply.

        Raises:
            ValueError: It is no JSON object.
        """
        if "deltaSrc" not in properties:
            decode_body(body)
            return body
        self._result.deltas_pulled += 1
        if not self._has_told_of_deltas:
            self._result.complaints.append("a delta comes to who did not announce any")
        base = self._base(properties.get("id", ""), properties["deltaSrc"])
        if base is None:
            return None
        try:
            return encode_body(peer_delta.apply(decode_body(base), json.loads(body)))
        except ValueError:
            return None

    def _check_delta(self, properties: Mapping[str, str], body: bytes, whole: bytes) -> None:
        """Complain of a delta that hides a new blob. Spec: documents.md §8.3."""
        if "deltaSrc" in properties and b'"@type":"blob"' not in body.replace(b" ", b""):
            hidden = [blob for blob in find_blobs(whole) if blob.digest not in self._blobs]
            if hidden:
                self._result.complaints.append(f"a delta hides blob {hidden[0].digest}")

    def _refuse_delta(self, message: IncomingMessage) -> None:
        """Ask for the whole body, which comes in a `rev` of its own. Spec: documents.md §8.2."""
        self._exchange.refuse(message, NO_BASE)

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
        if self._options.protocol > 2:
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
        revision: Revision,
        body: bytes,
        refusal: Refusal | None,
    ) -> None:
        if refusal is not None:
            self._refuse(message, sequence, refusal)
            return
        doc_id = message.properties["id"]
        deleted = bool_property(message.properties, "deleted")
        taken = self.link.collection.take(
            doc_id,
            revision,
            body,
            deleted=deleted,
            server_rev=self.link.server_rev(doc_id),
            policy=self._options.conflicts,
        )
        base = None if deleted else body
        if taken is Taken.KNOWN:
            self.link.note_server_rev(doc_id, revision, base)
        else:
            self.link.server_revs[doc_id] = ServerRev(revision.rev_id, base)
        self._result.pulled += taken is not Taken.KNOWN
        self._result.conflicts += taken is Taken.RESOLVED
        self._finish(doc_id, sequence)
        says_noop = taken is Taken.KNOWN and self._options.protocol >= VERSION_VECTORS
        self._exchange.reply(message, {"noop": "true"} if says_noop else {})

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
