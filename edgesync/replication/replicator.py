"""One connection's replication, from the passive side: which request goes where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Final, NamedTuple, assert_never

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessagePiece, int_property
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    Committed,
    StoreCall,
    StoreDone,
)
from edgesync.errors import PeerSilentError, ProtocolError
from edgesync.limits import KIB, MIB, Limits
from edgesync.replication import refusals
from edgesync.replication.changes_feed import ChangesFeed
from edgesync.replication.checkpoints import Checkpoints
from edgesync.replication.incoming_blobs import IncomingBlobs
from edgesync.replication.incoming_revs import IncomingRevs
from edgesync.replication.outgoing_blobs import OutgoingBlobs
from edgesync.replication.outgoing_revs import OutgoingRevs
from edgesync.replication.partial_request import PartialRequest
from edgesync.replication.ports import PeerPort, StorePort
from edgesync.replication.profiles import (
    DEFAULT_MAX_HISTORY,
    DEFAULT_MAX_HISTORY_V2,
    PeerCollection,
    Request,
    parse_get_collections,
    parse_sub_changes,
)
from edgesync.replication.refusals import Refusal
from edgesync.replication.rev_finder import RevFinder
from edgesync.replication.rev_forms import TreeForm, VersionForm

BODY_PROFILES: Final = frozenset({"rev", "putRev"})
"""Requests whose body is a document."""
VERSION_VECTORS: Final = 4
"""The first protocol version that speaks of them."""
BYTES_AT_A_TIME: Final = MIB
"""Of pieces, after which others have their turn; a few milliseconds of work."""
BYTES_PER_PIECE: Final = 4 * KIB
"""What a small piece counts as."""


class FramesReceived(NamedTuple):
    """BLIP frames came from the peer, in this order."""

    frames: Sequence[bytes]


class DeadlinePassed(NamedTuple):
    """The time of `next_deadline` has come."""


class Resumed(NamedTuple):
    """Others had their turn: go on with the frames at hand, while `has_backlog`."""


Event = FramesReceived | Resumed | StoreDone | Committed | DeadlinePassed


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


# Each look at a member through its class costs as much as ten of these.
_UNDECIDED: Final = Mode.UNDECIDED
_COLLECTIONS: Final = Mode.COLLECTIONS


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
        self._by_index: dict[str, PeerCollection] = {}  # as clients write it
        self._feeds: dict[str, ChangesFeed] = {}
        self._arriving: dict[IncomingMessage, PartialRequest] = {}
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
            partial(_note_pushed, self._feeds),
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
            case StoreDone():
                self._store.answer(event)
            case FramesReceived(frames):
                if self._pieces is not None:
                    raise RuntimeError("the last frames are not taken yet")
                self._last_frame_at = now
                self._pieces = self._pieces_of(frames)
                self._go_on()
            case Resumed():
                self._go_on()
            case Committed(sequences):
                for path, feed in self._feeds.items():
                    if path in sequences:
                        feed.committed(sequences[path])
            case DeadlinePassed():
                self._check_deadline(now)
            case _:
                assert_never(event)

    def frame_to_send(self) -> bytes | None:
        """Return the next frame for the peer, None if nothing can go now.

        Call `store_calls` before and after.
        """
        return self._connection.frame_to_send()

    def store_calls(self) -> list[StoreCall]:
        """Hand over the questions to the store since the last time.

        What events and frames have made room for is done here, once for all of them.
        """
        self._pump()
        return self._store.take_calls()

    def next_deadline(self) -> float | None:
        """Return when `DeadlinePassed` is due, in monotonic seconds."""
        if not self._peer.awaiting_replies:
            return None
        return self._last_frame_at + self._limits.reply_timeout_s

    def end(self) -> None:
        """Wait for nothing any more.

        What waits refers to who waits for it: without, all is free at once, and need not
        wait for a garbage collector that seldom runs.
        """
        self._pieces = None
        self._arriving.clear()
        self._feeds.clear()
        self._outgoing_revs.end()
        self._incoming_blobs.end()
        self._peer.end()
        self._store.end()
        self._connection.end()

    @property
    def wants_input(self) -> bool:
        """Whether more of the peer can be read; what waits for the store is bounded."""
        in_store = self._incoming_revs.bytes_inserting + self._incoming_blobs.bytes_appending
        requests = self._peer.unanswered_requests + self._connection.queued_messages
        limits = self._limits
        return in_store < limits.max_unanswered_bytes and requests < limits.max_unanswered_requests

    @property
    def has_backlog(self) -> bool:
        """Whether the last frames are not wholly taken: `Resumed` is due, and no other frame."""
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
        """Take pieces of the frames at hand, some at a time: they may unpack to a thousandfold."""
        if self._pieces is None or not self.wants_input:
            return
        room = BYTES_AT_A_TIME
        for piece in self._pieces:
            self._take(piece)
            room -= len(piece.data) + BYTES_PER_PIECE
            if room <= 0 or not self.wants_input:
                return
        self._pieces = None

    def _pieces_of(self, frames: Sequence[bytes]) -> Iterator[MessagePiece]:
        for frame in frames:
            yield from self._connection.receive(frame)

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
        if now - self._last_frame_at >= self._limits.ping_interval_s:
            self._connection.rest()  # idle clients may be many

    # --- what arrives ------------------------------------------------------------

    def _take(self, piece: MessagePiece) -> None:
        message, data, is_first, is_last = piece
        if message.request is not None:
            self._peer.take_reply(piece)
        elif is_first and is_last:
            self._peer.accept(message)
            is_long = len(data) > self._limits.max_document_bytes
            is_oversized = is_long and message.profile in BODY_PROFILES
            self._dispatch(message, b"" if is_oversized else data, is_oversized=is_oversized)
        else:
            self._collect(piece)

    def _collect(self, piece: MessagePiece) -> None:
        """Join a request of several frames, while all that is not whole stays bounded."""
        message = piece.message
        if piece.is_first:
            self._peer.accept(message)
            self._arriving[message] = PartialRequest(is_rev=message.profile in BODY_PROFILES)
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
        handler = PROFILES.get(message.profile)
        if handler is None:
            self._dispatch_outside(message, body)
            return
        collection = self._collection_of(message)
        if isinstance(collection, Refusal):
            self._refuse_collection(message, collection)
        elif is_oversized and not self._settings.read_only:
            self._incoming_revs.rev(Request(message, b"", collection), is_oversized=True)
        else:
            handler(self, Request(message, body, collection))

    def _dispatch_outside(self, message: IncomingMessage, body: bytes) -> None:
        """Answer what is about no collection."""
        if message.profile == "getCollections":
            self._get_collections(message, body)
        elif message.profile == "PING":
            self._peer.reply(message)
        else:
            self._peer.refuse(message, refusals.UNKNOWN_PROFILE)

    # --- collections ---------------------------------------------------------------

    def _collection_of(self, message: IncomingMessage) -> PeerCollection | Refusal:
        """Return what a request is about. Spec: replication.md §1.1."""
        named = "collection" in message.properties
        if self._mode is _UNDECIDED and not named:
            if DEFAULT_COLLECTION not in self._settings.collections:
                return refusals.NO_LEGACY_CLIENTS
            self._mode = Mode.LEGACY
            self._collections = [PeerCollection(DEFAULT_COLLECTION, None)]
        if self._mode is not _COLLECTIONS:
            return refusals.COLLECTION_MISUSED if named else self._collections[0]
        if not named:
            return refusals.COLLECTION_MISUSED
        found = self._by_index.get(message.properties["collection"])
        if found is not None:
            return found
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
            self._by_index = {str(index): each for index, each in enumerate(self._collections)}
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
        self._outgoing_revs.get_rev(request)

    def _may_push(self, request: Request) -> bool:
        if self._settings.read_only:
            self._peer.refuse(request.message, refusals.READ_ONLY)
        return not self._settings.read_only


def _note_pushed(
    feeds: Mapping[str, ChangesFeed], collection: PeerCollection, doc_id: str, key: str
) -> None:
    feed = feeds.get(collection.path)
    if feed is not None:
        feed.note_pushed(doc_id, key)


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
