"""Fetch the blobs of pushed revisions from the client. Spec: replication.md §3.8."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from edgesync.blip.message import MessagePiece
from edgesync.documents.body import BlobRef
from edgesync.documents.store_calls import (
    AppendBlob,
    DropBlob,
    FindMissingBlobs,
    FinishBlob,
    ProveBlob,
)
from edgesync.errors import EdgeSyncError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.ports import Answer, PeerPort, Reply, StorePort, refusal_of
from edgesync.replication.profiles import PeerCollection
from edgesync.replication.refusals import Refusal, refusal_for

Fetched = Callable[[Refusal | None], None]
Step = Callable[[Fetched], None]
NONCE_BYTES: Final = 20


class BlobsWanted(NamedTuple):
    """The blobs that a pushed revision refers to."""

    collection: PeerCollection
    doc_id: str
    blobs: tuple[BlobRef, ...]


class BlobWanted(NamedTuple):
    """A blob that a pushed revision needs."""

    collection: PeerCollection
    doc_id: str
    blob: BlobRef


class IncomingBlobs:
    """Fetch each blob once, a few at a time, straight into the store's files.

    With `entropy`, who pushes a revision must prove that it has those blobs,
    too, that are stored already: else knowing a digest would be enough to read
    a blob of somebody else.
    """

    def __init__(
        self,
        store: StorePort,
        peer: PeerPort,
        limits: Limits,
        entropy: Callable[[int], bytes] | None,
    ) -> None:
        self._store = store
        self._peer = peer
        self._limits = limits
        self._entropy = entropy
        self._last_sink = 0
        self._queue: deque[BlobWanted] = deque()
        self._waiters: dict[str, list[Fetched]] = {}
        self._under_way = 0
        self.bytes_appending = 0

    def end(self) -> None:
        """Forget what is waited for; no blob will come any more."""
        self._queue.clear()
        self._waiters.clear()

    def obtain(self, wanted: BlobsWanted, then: Fetched) -> None:
        """See to it that all blobs are stored; `then` is told why not, or None."""
        digests = tuple(blob.digest for blob in wanted.blobs)
        call = FindMissingBlobs(self._store.new_id(), digests)

        def found(missing: Answer) -> None:
            if isinstance(missing, EdgeSyncError):
                then(refusal_for(missing))
                return
            assert isinstance(missing, tuple)
            steps: list[Step] = []
            for blob in wanted.blobs:
                one = BlobWanted(wanted.collection, wanted.doc_id, blob)
                if blob.digest in missing:
                    steps.append(lambda done, one=one: self.fetch(one, done))  # type: ignore[misc]
                elif self._entropy is not None:
                    steps.append(lambda done, one=one: self._prove(one, done))  # type: ignore[misc]
            _one_after_the_other(iter(steps), then, None)

        self._store.ask(call, found)

    def _prove(self, wanted: BlobWanted, then: Fetched) -> None:
        """Have the peer prove that it has a blob. Spec: replication.md §3.9."""
        assert self._entropy is not None
        nonce = self._entropy(NONCE_BYTES)
        call = ProveBlob(self._store.new_id(), wanted.blob.digest, nonce)

        def ask_peer(proof: Answer) -> None:
            if not isinstance(proof, str):
                then(refusals.STORE_UNAVAILABLE)
                return
            properties = wanted.collection.properties("proveAttachment")
            properties["digest"] = wanted.blob.digest

            def answered(reply: Reply) -> None:
                is_right = reply.refusal is None and reply.body == proof.encode()
                then(None if is_right else refusals.UNPROVEN_BLOB)

            self._peer.request(properties, nonce, answered)

        self._store.ask(call, ask_peer)

    def fetch(self, wanted: BlobWanted, then: Fetched) -> None:
        """Get a blob into the store; `then` is told why not, or None."""
        waiters = self._waiters.setdefault(wanted.blob.digest, [])
        waiters.append(then)
        if len(waiters) == 1:
            self._queue.append(wanted)
            self._start()

    def _start(self) -> None:
        while self._queue and self._under_way < self._limits.max_blob_transfers:
            self._under_way += 1
            self._last_sink += 1
            _IncomingBlob(self, self._queue.popleft(), self._last_sink)

    def finished(self, digest: str, refusal: Refusal | None) -> None:
        """Tell all that wait for a blob, and start the next one."""
        self._under_way -= 1
        for then in self._waiters.pop(digest):
            then(refusal)
        self._start()

    def ask_for(self, wanted: BlobWanted, on_piece: Callable[[MessagePiece], None]) -> None:
        """Send the `getAttachment`."""
        properties = wanted.collection.properties("getAttachment")
        properties["digest"] = wanted.blob.digest
        properties["docID"] = wanted.doc_id
        if wanted.blob.compressible:
            properties["compress"] = "true"
        self._peer.fetch(properties, on_piece)

    def append(self, sink: int, data: bytes, then: Callable[[Answer], None]) -> None:
        """Write a piece; the bytes count until the store has them."""
        size = len(data)
        self.bytes_appending += size

        def appended(answer: Answer) -> None:
            self.bytes_appending -= size
            then(answer)

        self._store.ask(AppendBlob(self._store.new_id(), sink, data), appended)

    def finish(self, sink: int, blob: BlobRef, then: Callable[[Answer], None]) -> None:
        """Have the digest checked and the file named."""
        call = FinishBlob(self._store.new_id(), sink, blob.digest, blob.length)
        self._store.ask(call, then)

    def drop(self, sink: int) -> None:
        """Throw away what came of a blob."""
        self._store.ask(DropBlob(self._store.new_id(), sink), lambda _answer: None)


class _IncomingBlob:
    """A blob on its way from the client into a sink of the store."""

    def __init__(self, blobs: IncomingBlobs, wanted: BlobWanted, sink: int) -> None:
        self._blobs = blobs
        self._blob = wanted.blob
        self._sink = sink
        self._error_text: list[bytes] = []
        self._failure: EdgeSyncError | None = None
        blobs.ask_for(wanted, self._take)

    def _take(self, piece: MessagePiece) -> None:
        if piece.message.is_error:
            self._take_error(piece)
            return
        if piece.data and self._failure is None:
            self._blobs.append(self._sink, piece.data, self._appended)
        if piece.is_last:
            if self._failure is None:
                self._blobs.finish(self._sink, self._blob, self._finished)
            else:
                self._give_up(refusal_for(self._failure))

    def _take_error(self, piece: MessagePiece) -> None:
        """Fail the revision with what the client said. Spec: replication.md §3.8."""
        if len(self._error_text) < 2:  # a text needs no more
            self._error_text.append(piece.data)
        if piece.is_last:
            self._give_up(refusal_of(piece.message, b"".join(self._error_text)))

    def _appended(self, answer: Answer) -> None:
        if isinstance(answer, EdgeSyncError) and self._failure is None:
            self._failure = answer

    def _finished(self, answer: Answer) -> None:
        if self._failure is not None:
            self._give_up(refusal_for(self._failure))
        elif isinstance(answer, EdgeSyncError):
            self._blobs.finished(self._blob.digest, refusal_for(answer))
        else:
            self._blobs.finished(self._blob.digest, None)

    def _give_up(self, refusal: Refusal) -> None:
        self._blobs.drop(self._sink)
        self._blobs.finished(self._blob.digest, refusal)


def _one_after_the_other(steps: Iterator[Step], then: Fetched, refusal: Refusal | None) -> None:
    """Do the next step, as LiteCore does with a revision's blobs; the first refusal ends them."""
    step = next(steps, None) if refusal is None else None
    if step is None:
        then(refusal)
    else:
        # A function that named itself would be garbage with all it holds, seldom collected.
        step(partial(_one_after_the_other, steps, then))
