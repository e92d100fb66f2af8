"""One connection's replication, from the passive side: which request goes where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple, assert_never

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessagePiece, MessageType, int_property
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    Committed,
    ReadRev,
    StoreCall,
    StoreDone,
    StoredRev,
)
from edgesync.errors import EdgeSyncError, PeerSilentError, ProtocolError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.changes_feed import ChangesFeed
from edgesync.replication.checkpoints import Checkpoints
from edgesync.replication.incoming_blobs import IncomingBlobs
from edgesync.replication.incoming_revs import IncomingRevs
from edgesync.replication.outgoing_blobs import OutgoingBlobs
from edgesync.replication.outgoing_revs import OutgoingRevs
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import (
    DEFAULT_MAX_HISTORY,
    DEFAULT_MAX_HISTORY_V2,
    PeerCollection,
    Request,
    parse_get_collections,
    parse_sub_changes,
)
from edgesync.replication.refusals import Refusal, refusal_for
from edgesync.replication.rev_finder import RevFinder
from edgesync.replication.rev_forms import TreeForm, VersionForm

BODY_PROFILES: Final = frozenset({"rev", "putRev"})
"""Requests whose body is a document."""
VERSION_VECTORS: Final = 4
"""The first protocol version that speaks of them."""
PIECES_AT_A_TIME: Final = 16
"""Of up to 64 KiB; a few milliseconds of work."""


class FrameReceived(NamedTuple):
    """A BLIP frame came from the peer."""

    frame: bytes


class DeadlinePassed(NamedTuple):
    """The time of `next_deadline` has come."""


class Resumed(NamedTuple):
    """Others had their turn: go on with the frame at hand, while `has_backlog`."""


Event = FrameReceived | Resumed | StoreDone | Committed | DeadlinePassed


@dataclass(frozen=True, slots=True)
class ReplicatorSettings:
    """What a listener offers on a connection."""

    collections: frozenset[str]
    """Paths of the collections offered."""
    protocol: int
    """N of the subprotocol `BLIP_3+CBMobile_N`: 2, 3 or 4."""
    read_only: bool = False
    """Whether clients may only pull. Spec: replication.md §6."""
    deltas: bool = False
    """Whether revisions may travel as deltas, both ways. Spec: documents.md §8."""


class Mode(Enum):
    """How this peer names collections; its first request decides. Spec: replication.md §1.1."""

    UNDECIDED = auto()
    LEGACY = auto()  # the default collection, without a name
    COLLECTIONS = auto()  # by their place in `getCollections`


class Replicator:
    """Answer one client, from its first request to the end of the connection.

    Spec: replication.md; every rule is cited where it is kept.
    """

    def __init__(
        self,
        settings: ReplicatorSettings,
        limits: Limits,
        now: float,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        """Begin.

        Args:
            settings: What is offered.
            limits: What the peer may cost.
            now: Monotonic seconds.
            entropy: Returns that many random bytes; if given, a client must prove that
                it has the blobs it refers to. Spec: replication.md §3.9.
        """
        self._settings = settings
        self._limits = limits
        self._connection = Connection(limits)
        self._store = StorePort()
        self._peer = PeerPort(self._connection, limits)
        self._mode = Mode.UNDECIDED
        self._collections: list[PeerCollection] = []
        self._feeds: dict[str, ChangesFeed] = {}
        self._arriving: dict[IncomingMessage, _Arriving] = {}
        self._buffered_bytes = 0
        self._pieces: Iterator[MessagePiece] | None = None
        self._last_frame_at = now
        form = self._form = VersionForm() if settings.protocol >= VERSION_VECTORS else TreeForm()
        store, peer, deltas = self._store, self._peer, settings.deltas
        self._checkpoints = Checkpoints(store, peer, limits)
        self._rev_finder = RevFinder(store, peer, limits, form, deltas)
        self._incoming_blobs = IncomingBlobs(store, peer, limits, entropy)
        self._incoming_revs = IncomingRevs(
            store,
            peer,
            self._incoming_blobs,
            limits,
            form,
            deltas,
            self._rev_finder.arrived,
            self._note_pushed,
        )
        self._outgoing_revs = OutgoingRevs(store, peer, limits, form, deltas)
        self._outgoing_blobs = OutgoingBlobs(store, peer, limits)

    # --- the machine -----------------------------------------------------------

    def receive(self, event: Event, now: float) -> None:
        """Take in what happened.

        Args:
            event: What happened.
            now: Monotonic seconds.

        Raises:
            ProtocolError: The peer broke the rules; final.
            PeerSilentError: It left a request unanswered for too long; final.
            StoreError: The store is in such trouble that the peer should come back
                later; final.
        """
        match event:
            case FrameReceived(frame):
                if self._pieces is not None:
                    raise RuntimeError("the last frame is not taken yet")
                self._last_frame_at = now
                self._pieces = self._connection.receive(frame)
                self._go_on()
            case Resumed():
                self._go_on()
            case StoreDone():
                self._store.answer(event)
            case Committed(sequences):
                for path, feed in self._feeds.items():
                    if path in sequences:
                        feed.committed(sequences[path])
            case DeadlinePassed():
                self._check_deadline(now)
            case _:
                assert_never(event)
        self._pump()

    def frame_to_send(self) -> bytes | None:
        """Return the next frame for the peer, None if nothing can go now."""
        frame = self._connection.frame_to_send()
        if frame is not None:
            self._pump()
        return frame

    def store_calls(self) -> list[StoreCall]:
        """Hand over the questions to the store since the last time."""
        return self._store.take_calls()

    def next_deadline(self) -> float | None:
        """Return when `DeadlinePassed` is due, in monotonic seconds."""
        if not self._peer.awaiting_replies:
            return None
        return self._last_frame_at + self._limits.reply_timeout_s

    @property
    def wants_input(self) -> bool:
        """Whether more of the peer can be read; what waits for the store is bounded."""
        requests = self._peer.unanswered_requests + self._connection.queued_messages
        return self._store_has_room() and requests < self._limits.max_unanswered_requests

    @property
    def has_backlog(self) -> bool:
        """Whether the last frame is not wholly taken: `Resumed` is due, then no other frame."""
        return self._pieces is not None

    @property
    def has_output(self) -> bool:
        """Whether `frame_to_send` would return a frame."""
        return self._connection.has_output

    @property
    def is_active(self) -> bool:
        """Whether anything is under way. Spec: tls-and-auth.md §5.1."""
        return bool(
            self._peer.unanswered_requests
            or self._peer.awaiting_replies
            or self._store.unanswered
            or self._connection.has_output
            or self._outgoing_revs.is_busy
            or self._outgoing_blobs.is_busy
            or any(feed.is_busy for feed in self._feeds.values())
        )

    @property
    def revisions_in(self) -> int:
        """Revisions that this peer brought and that are stored."""
        return self._incoming_revs.stored

    @property
    def revisions_out(self) -> int:
        """Revisions that were sent to this peer."""
        return self._outgoing_revs.sent

    @property
    def collections(self) -> tuple[str, ...]:
        """Paths of the collections this peer asked for."""
        return tuple(collection.path for collection in self._collections)

    def _go_on(self) -> None:
        """Take pieces of the frame at hand, a few at a time: it may unpack to a thousandfold."""
        if self._pieces is None:
            return
        for _ in range(PIECES_AT_A_TIME):
            if not self._store_has_room():
                return
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
                return
            self._take(piece)

    def _store_has_room(self) -> bool:
        in_store = self._incoming_revs.bytes_inserting + self._incoming_blobs.bytes_appending
        return in_store < self._limits.max_unanswered_bytes

    def _pump(self) -> None:
        for feed in self._feeds.values():
            feed.read_on()
        self._outgoing_revs.pump()
        self._outgoing_blobs.pump()

    def _check_deadline(self, now: float) -> None:
        deadline = self.next_deadline()
        if deadline is not None and now >= deadline:
            raise PeerSilentError(
                f"no answer to {self._peer.awaiting_replies} requests"
                f" for {self._limits.reply_timeout_s:g} s"
            )

    # --- what arrives ------------------------------------------------------------

    def _take(self, piece: MessagePiece) -> None:
        message = piece.message
        if message.type is not MessageType.MSG:
            self._peer.take_reply(piece)
        elif piece.is_first and piece.is_last:
            self._peer.accept(message)
            too_large = (
                message.profile in BODY_PROFILES
                and len(piece.data) > self._limits.max_document_bytes
            )
            self._dispatch(message, b"" if too_large else piece.data, is_oversized=too_large)
        else:
            self._collect(piece)

    def _collect(self, piece: MessagePiece) -> None:
        """Join a request of several frames, while all that is not whole stays bounded."""
        message = piece.message
        if piece.is_first:
            self._peer.accept(message)
            self._arriving[message] = _Arriving(message.profile in BODY_PROFILES)
        arriving = self._arriving[message]
        self._buffered_bytes += arriving.append(piece.data, self._limits.max_document_bytes)
        held = self._buffered_bytes + self._incoming_revs.bytes_waiting
        if held > 2 * self._limits.max_buffered_bytes:
            raise ProtocolError(f"more than {held} bytes of messages under way")
        if piece.is_last:
            del self._arriving[message]
            body = arriving.join()
            self._buffered_bytes -= len(body)
            self._dispatch(message, body, is_oversized=arriving.is_oversized)

    def _dispatch(self, message: IncomingMessage, body: bytes, *, is_oversized: bool) -> None:
        profile = message.profile
        if profile == "getCollections":
            self._get_collections(message, body)
            return
        if profile == "PING":
            self._peer.reply(message)
            return
        handler = PROFILES.get(profile)
        if handler is None:
            self._peer.refuse(message, refusals.UNKNOWN_PROFILE)
            return
        collection = self._collection_of(message)
        if isinstance(collection, Refusal):
            self._refuse_collection(message, collection)
        elif is_oversized and not self._settings.read_only:
            self._incoming_revs.rev(Request(message, b"", collection), is_oversized=True)
        else:
            handler(self, Request(message, body, collection))

    # --- collections ---------------------------------------------------------------

    def _collection_of(self, message: IncomingMessage) -> PeerCollection | Refusal:
        """Return what a request is about. Spec: replication.md §1.1."""
        named = "collection" in message.properties
        if self._mode is Mode.UNDECIDED and not named:
            if DEFAULT_COLLECTION not in self._settings.collections:
                return refusals.NO_LEGACY_CLIENTS
            self._mode = Mode.LEGACY
            self._collections = [PeerCollection(DEFAULT_COLLECTION, None)]
        if self._mode is not Mode.COLLECTIONS:
            return refusals.COLLECTION_MISUSED if named else self._collections[0]
        if not named:
            return refusals.COLLECTION_MISUSED
        index = int_property(message.properties, "collection")
        if index is None or not 0 <= index < len(self._collections):
            return refusals.COLLECTION_OUT_OF_RANGE
        return self._collections[index]

    def _refuse_collection(self, message: IncomingMessage, refusal: Refusal) -> None:
        if message.profile == "setCheckpoint" and refusal.domain == "HTTP":
            refusal = refusal._replace(domain="BLIP")  # as LiteCore: replication.md §1.1
        self._peer.refuse(message, refusal)

    def _get_collections(self, message: IncomingMessage, body: bytes) -> None:
        if self._mode is not Mode.UNDECIDED:
            text = "Invalid getCollections message: not the first message"
            self._peer.refuse(message, Refusal("BLIP", 400, text))
            return
        wanted = parse_get_collections(body, self._limits)
        if isinstance(wanted, Refusal):
            self._peer.refuse(message, wanted)
            return
        self._mode = Mode.COLLECTIONS
        offered = self._settings.collections
        if offered.issuperset(wanted.paths):
            self._collections = [
                PeerCollection(path, str(index)) for index, path in enumerate(wanted.paths)
            ]
        self._checkpoints.get_collections(message, wanted, offered.__contains__)

    # --- requests ------------------------------------------------------------------

    def _get_checkpoint(self, request: Request) -> None:
        self._checkpoints.get_checkpoint(request)

    def _set_checkpoint(self, request: Request) -> None:
        self._checkpoints.set_checkpoint(request)

    def _sub_changes(self, request: Request) -> None:
        path = request.collection.path
        running = self._feeds.get(path)
        wanted = parse_sub_changes(
            request.message, request.body, self._form.versioning, self._limits
        )
        if isinstance(wanted, Refusal):
            self._peer.refuse(request.message, wanted)
        elif running is not None and not running.is_ended:
            self._peer.refuse(request.message, refusals.ALREADY_SUBSCRIBED)
        else:
            v2 = self._settings.protocol == 2  # the protocol's number
            feed = ChangesFeed(
                request.collection,
                wanted,
                self._store,
                self._peer,
                self._outgoing_revs,
                self._limits,
                self._form,
                DEFAULT_MAX_HISTORY_V2 if v2 else DEFAULT_MAX_HISTORY,
            )
            self._feeds[path] = feed
            self._peer.reply(request.message)
            feed.start()

    def _unsub_changes(self, request: Request) -> None:
        """End a subscription. Spec: replication.md §3.11."""
        if (feed := self._feeds.get(request.collection.path)) is not None:
            feed.stop()
        self._peer.reply(request.message)

    def _propose_changes(self, request: Request) -> None:
        if self._may_push(request):
            self._rev_finder.propose_changes(request)

    def _changes(self, request: Request) -> None:
        if self._may_push(request):
            self._rev_finder.changes(request)

    def _rev(self, request: Request) -> None:
        if self._may_push(request):
            self._incoming_revs.rev(request)

    def _norev(self, request: Request) -> None:
        self._incoming_revs.norev(request)

    def _get_attachment(self, request: Request) -> None:
        self._outgoing_blobs.get_attachment(request)

    def _get_rev(self, request: Request) -> None:
        """Give a connected client a document. Spec: replication.md §8."""
        message = request.message
        call = ReadRev(
            self._store.new_id(), request.collection.path, message.properties.get("id", "")
        )

        def answer(found: Answer) -> None:
            if isinstance(found, EdgeSyncError):
                self._peer.refuse(message, refusal_for(found))
            elif not isinstance(found, StoredRev) or found.deleted:
                self._peer.refuse(message, refusals.NO_DOCUMENT)
            else:
                rev, _ = self._form.sent(found, frozenset(), 1)
                if message.properties.get("ifNotRev") == rev:
                    self._peer.refuse(message, refusals.NOT_MODIFIED)
                else:
                    self._peer.reply(message, {"rev": rev}, found.body, compressed=True)

        self._store.ask(call, answer)

    def _may_push(self, request: Request) -> bool:
        if self._settings.read_only:
            self._peer.refuse(request.message, refusals.READ_ONLY)
        return not self._settings.read_only

    def _note_pushed(self, collection: PeerCollection, doc_id: str, key: str) -> None:
        feed = self._feeds.get(collection.path)
        if feed is not None:
            feed.note_pushed(doc_id, key)


class _Arriving:
    """A request of which not all frames have come."""

    __slots__ = ("_is_rev", "_parts", "is_oversized", "size")

    def __init__(self, is_rev: bool) -> None:
        self._is_rev = is_rev
        self._parts: list[bytes] = []
        self.size = 0
        self.is_oversized = False

    def append(self, data: bytes, max_document_bytes: int) -> int:
        """Keep a piece; return by how many bytes more is held now."""
        if self.is_oversized:
            return 0
        before = self.size
        self.size += len(data)
        if self._is_rev and self.size > max_document_bytes:
            self.is_oversized = True
            self._parts.clear()
            self.size = 0
        else:
            self._parts.append(data)
        return self.size - before

    def join(self) -> bytes:
        return b"".join(self._parts)


PROFILES: Final[Mapping[str, Callable[[Replicator, Request], None]]] = {
    "getCheckpoint": Replicator._get_checkpoint,
    "setCheckpoint": Replicator._set_checkpoint,
    "subChanges": Replicator._sub_changes,
    "unsubChanges": Replicator._unsub_changes,
    "changes": Replicator._changes,
    "proposeChanges": Replicator._propose_changes,
    "rev": Replicator._rev,
    "putRev": Replicator._rev,
    "norev": Replicator._norev,
    "getRev": Replicator._get_rev,
    "getAttachment": Replicator._get_attachment,
}
"""One row a request; `getCollections` and `PING` stand outside any collection."""
