"""Serve `getAttachment`: a blob's file as a streamed reply. Spec: replication.md §3.8."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from edgesync.blip.message import IncomingMessage, OutgoingMessage, bool_property
from edgesync.documents.body import is_blob_digest
from edgesync.documents.store_calls import BlobPiece, ReadBlob
from edgesync.errors import BlobNotFoundError, EdgeSyncError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import Request


class _Wanted(NamedTuple):
    message: IncomingMessage
    digest: str


class OutgoingBlobs:
    """Feed a few blobs at a time, two pieces ahead of what the peer takes."""

    def __init__(self, store: StorePort, peer: PeerPort, limits: Limits) -> None:
        self._store = store
        self._peer = peer
        self._limits = limits
        self._waiting: deque[_Wanted] = deque()
        self._under_way: list[_OutgoingBlob] = []

    @property
    def is_busy(self) -> bool:
        """Whether a blob is being sent or waits for it."""
        return bool(self._under_way or self._waiting)

    def get_attachment(self, request: Request) -> None:
        """Take a `getAttachment`."""
        message = request.message
        digest = message.properties.get("digest", "")
        if not is_blob_digest(digest):
            self._peer.refuse(message, refusals.BAD_DIGEST)
        else:
            self._waiting.append(_Wanted(message, digest))

    def pump(self) -> None:
        """Start and feed as far as there is room; called before calls go to the store."""
        if self._under_way:
            self._under_way = [blob for blob in self._under_way if not blob.is_done]
        while self._waiting and len(self._under_way) < self._limits.max_blob_transfers:
            wanted = self._waiting.popleft()
            blob = _OutgoingBlob(wanted, self._store, self._peer, self._limits.blob_piece_bytes)
            self._under_way.append(blob)
        for blob in self._under_way:
            blob.read_on()


class _OutgoingBlob:
    """A blob on its way to the peer."""

    def __init__(self, wanted: _Wanted, store: StorePort, peer: PeerPort, piece: int) -> None:
        self._request = wanted.message
        self._digest = wanted.digest
        self._store = store
        self._peer = peer
        self._piece_bytes = piece
        self._offset = 0
        self._is_reading = False
        self._reply: OutgoingMessage | None = None
        self.is_done = False

    def read_on(self) -> None:
        """Read the next piece unless two are ahead already."""
        ahead = self._reply.buffered_bytes if self._reply is not None else 0
        if self._is_reading or self.is_done or ahead >= 2 * self._piece_bytes:
            return
        self._is_reading = True
        call = ReadBlob(self._store.new_id(), self._digest, self._offset, self._piece_bytes)
        self._store.ask(call, self._take)

    def _take(self, piece: Answer) -> None:
        self._is_reading = False
        if isinstance(piece, BlobNotFoundError) and self._reply is None:
            self._peer.refuse(self._request, refusals.NO_BLOB)
            self.is_done = True
        elif isinstance(piece, BlobPiece):
            self._feed(piece)
        else:
            # Half a blob cannot be taken back, and an error reply would lose the
            # document to the client: let it come back instead.
            assert isinstance(piece, EdgeSyncError)
            raise piece

    def _feed(self, piece: BlobPiece) -> None:
        self._offset += len(piece.data)
        self.is_done = piece.is_last
        if self._reply is None:
            self._begin(piece)
        else:
            self._reply.feed(piece.data, piece.is_last)

    def _begin(self, piece: BlobPiece) -> None:
        compressed = bool_property(self._request.properties, "compress")
        if piece.is_last:
            self._peer.reply(self._request, {}, piece.data, compressed=compressed)
            return
        self._reply = self._peer.reply(self._request, {}, compressed=compressed, streamed=True)
        if self._reply is None:
            self.is_done = True  # asked without wanting an answer
        else:
            self._reply.feed(piece.data, piece.is_last)
