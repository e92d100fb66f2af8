"""The client's end of a connection, as a machine: frames in, frames out."""

from __future__ import annotations

import json
import uuid
from enum import Enum, auto
from typing import Final, NamedTuple

from edgesync.blip.message import (
    IncomingMessage,
    MessagePiece,
    MessageType,
    bool_property,
)
from edgesync.limits import Limits
from edgesync.replication.replicator import DeadlinePassed, FramesReceived
from tests.active_peer.checkpoint_saver import SAVE_EVERY_S, CheckpointSaver
from tests.active_peer.exchange import Exchange, Reply
from tests.active_peer.failures import Refusal, SyncError
from tests.active_peer.options import (
    VERSION_VECTORS,
    CollectionLink,
    Result,
    SyncOptions,
    link_all,
)
from tests.active_peer.peer_blobs import proof
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.progress import Checkpoint
from tests.active_peer.pull_half import PullHalf
from tests.active_peer.push_half import PushHalf

NO_HANDLER: Final = Refusal("BLIP", 404, "no handler for message")
COLLECTION_MISUSED: Final = Refusal("HTTP", 400, "inappropriate use of the collection property.")
COLLECTION_RANGE: Final = Refusal("HTTP", 400, "the collection property is out of range.")
NO_SUCH_BLOB: Final = Refusal("LiteCore", 7, "No such blob")
BAD_DIGEST: Final = Refusal("LiteCore", 9, "Missing or invalid 'digest'")
MISSING_NONCE: Final = Refusal("BLIP", 400, "Missing nonce")


class DatabaseChanged(NamedTuple):
    """An application has saved or deleted a document."""


Event = FramesReceived | DatabaseChanged | DeadlinePassed


class State(Enum):
    """Where a session stands."""

    RUNNING = auto()
    STOPPING = auto()  # asked to end: nothing new is begun, the checkpoint is saved
    FINISHED = auto()
    FAILED = auto()


STEPS: Final = {
    State.RUNNING: {State.STOPPING, State.FINISHED, State.FAILED},
    State.STOPPING: {State.FINISHED, State.FAILED},
    State.FINISHED: set[State](),
    State.FAILED: set[State](),
}


class ActiveReplicator:
    """Synchronise a database with one server over one connection.

    The same shape as the server's `Replicator`, so that the two can be joined in
    memory. It reads and writes its database directly: the caller holds the
    database's lock.

    Spec: replication.md §1.2, §3, from the client's side.
    """

    def __init__(
        self,
        database: PeerDatabase,
        remote_id: str,
        options: SyncOptions,
        *,
        limits: Limits | None = None,
        time_s: int = 0,
    ) -> None:
        """Begin a session.

        Args:
            database: What to synchronise.
            remote_id: What stands for the server, usually its URL.
            options: What to do; the first protocol is the one that was agreed on.
            limits: Of BLIP.
            time_s: Seconds since 1970, for checkpoints.
        """
        self.result = Result()
        self.failure: SyncError | None = None
        self._database = database
        options = self._options = options.agreed(options.offered(database.form)[0])
        self._exchange = Exchange(limits or Limits())
        self._state = State.RUNNING
        self._now = 0.0
        remote = database.remote(remote_id)
        self._links = link_all(
            [database.collection(path) for path in options.collections],
            remote,
            named=options.names_collections,
        )
        self._halves = [
            _Collection(self, link, database, remote_id, time_s) for link in self._links
        ]
        if options.names_collections:
            self._get_collections()
        else:
            self._halves[0].start_alone()
        self._pump()

    # --- the machine ------------------------------------------------------------------

    def receive(self, event: Event, now: float) -> None:
        """Take in what happened.

        Args:
            event: What happened.
            now: Monotonic seconds.

        Raises:
            ProtocolError: The server broke the rules of BLIP; final.
        """
        self._now = now
        if isinstance(event, FramesReceived):
            for frame in event.frames:
                for piece in self._exchange.connection.receive(frame):
                    self._take(piece)
        self._pump()

    def frame_to_send(self) -> bytes | None:
        """Return the next frame for the server, None if nothing can go now."""
        frame = self._exchange.connection.frame_to_send()
        if self._exchange.is_uploading:
            self._exchange.feed()
        return frame

    def next_deadline(self) -> float | None:
        """Return when `DeadlinePassed` is due, in monotonic seconds."""
        return min((half.save_at for half in self._halves if half.waits_to_save), default=None)

    def stop(self) -> None:
        """End a continuous session; it is finished when its checkpoint is saved."""
        if self._state is State.RUNNING:
            self._go(State.STOPPING)
            for half in self._halves:
                half.saves_before_stop = half.saver.saves
            self._pump()

    def close(self) -> None:
        """Let go of open files, at the end of the connection."""
        self._exchange.close()

    @property
    def has_output(self) -> bool:
        """Whether `frame_to_send` would return a frame."""
        return self._exchange.connection.has_output

    @property
    def wants_input(self) -> bool:
        """Whether more of the server can be read: always."""
        return True

    @property
    def is_idle(self) -> bool:
        """Whether all is in sync and saved."""
        return (
            all(half.is_idle and not half.needs_saving for half in self._halves)
            and not self._exchange.is_uploading
            and not self._exchange.awaited_replies
        )

    @property
    def is_finished(self) -> bool:
        """Whether the session is over, well or not; its last frames may still have to go."""
        return self._state in (State.FINISHED, State.FAILED)

    def _go(self, state: State) -> None:
        if state not in STEPS[self._state]:
            raise RuntimeError(f"a session cannot go from {self._state} to {state}")
        self._state = state

    def _pump(self) -> None:
        if self._state is State.RUNNING:
            for half in self._halves:
                half.pump()
        if not self.is_finished:
            for half in self._halves:
                half.save_if_due(self._now, is_last=self._state is State.STOPPING)
            if self._is_over():
                self._finish()
                for half in self._halves:
                    half.push.report_unresolved()

    def _finish(self) -> None:
        refusals = [half.saver.refusal for half in self._halves if half.saver.refusal is not None]
        if refusals:
            self.fail(refusals[0])
        else:
            self._go(State.FINISHED)

    def _is_over(self) -> bool:
        if self._state is State.STOPPING:
            return all(half.is_saved_for_good for half in self._halves)
        return not self._options.continuous and self.is_idle

    def fail(self, refusal: Refusal) -> None:
        """End the session with what the server has answered. Spec: blip.md §6."""
        if not self.is_finished:
            self.failure = SyncError(
                f"the server refuses: {refusal.text} ({refusal.domain} {refusal.code})",
                refusal=refusal,
                is_transient=refusal.is_transient,
            )
            self._go(State.FAILED)

    # --- what arrives -----------------------------------------------------------------

    def _take(self, piece: MessagePiece) -> None:
        if piece.message.type is not MessageType.MSG:
            self._exchange.receive_reply(piece)
            return
        body = self._exchange.whole_request(piece)
        if body is not None:
            self._dispatch(piece.message, body)

    def _dispatch(self, message: IncomingMessage, body: bytes) -> None:
        half = self._half_of(message)
        if isinstance(half, Refusal):
            self.result.complaints.append(f"{message.properties}: {half.text}")
            self._exchange.refuse(message, half)
            return
        match message.profile:
            case "changes":
                half.pull.changes(message, body)
            case "rev":
                half.pull.rev(message, body)
            case "norev":
                half.pull.norev(message)
            case "getAttachment":
                self._get_attachment(message)
            case "proveAttachment":
                self._prove_attachment(message, body)
            case _:
                self._exchange.refuse(message, NO_HANDLER)

    def _half_of(self, message: IncomingMessage) -> _Collection | Refusal:
        """Return what a request is about. Spec: replication.md §1.1."""
        index = message.properties.get("collection")
        if (index is not None) is not self._options.names_collections:
            return COLLECTION_MISUSED
        if index is None:
            return self._halves[0]
        if not index.isdecimal() or int(index) >= len(self._halves):
            return COLLECTION_RANGE
        return self._halves[int(index)]

    def _get_attachment(self, message: IncomingMessage) -> None:
        digest = message.properties.get("digest", "")
        opened = self._database.blobs.open(digest)
        if not digest.startswith("sha1-"):
            self._exchange.refuse(message, BAD_DIGEST)
        elif opened is None:
            self._exchange.refuse(message, NO_SUCH_BLOB)
        else:
            compressed = bool_property(message.properties, "compress")
            self._exchange.upload(message, *opened, compressed=compressed)

    def _prove_attachment(self, message: IncomingMessage, nonce: bytes) -> None:
        digest = message.properties.get("digest", "")
        if not 1 <= len(nonce) <= 255:
            self._exchange.refuse(message, MISSING_NONCE)
        elif digest not in self._database.blobs:
            self._exchange.refuse(message, NO_SUCH_BLOB)
        else:
            self._exchange.reply(message, body=proof(nonce, self._database.blobs.read(digest)))

    # --- collections ------------------------------------------------------------------

    def _get_collections(self) -> None:
        body = {
            "checkpoint_ids": [half.saver.checkpoint_id for half in self._halves],
            "collections": [link.wire_path for link in self._links],
        }
        properties = {"Profile": "getCollections"}
        if self._options.protocol >= VERSION_VECTORS:
            properties["uuid"] = str(uuid.uuid5(uuid.NAMESPACE_OID, self._database.identity))
        self._exchange.request(properties, json.dumps(body).encode(), self._got_collections)

    def _got_collections(self, reply: Reply) -> None:
        if reply.refusal is not None:
            self.fail(reply.refusal)
            return
        found = json.loads(reply.body)
        for link, entry in zip(self._links, found, strict=True):
            if entry is None:
                name = link.collection.path
                text = f"Collection '{name}' is not found on the remote server"
                self.fail(Refusal("HTTP", 404, text))
                return
        for half, entry in zip(self._halves, found, strict=True):
            rev = entry.pop("rev", "")
            half.start(half.saver.agree(rev, json.dumps(entry).encode() if entry else b""))


class _Collection:
    """Both halves of a collection, and its checkpoint."""

    def __init__(
        self,
        session: ActiveReplicator,
        link: CollectionLink,
        database: PeerDatabase,
        remote_id: str,
        time_s: int,
    ) -> None:
        options = self._options = session._options
        exchange = session._exchange
        self._is_started = False
        self.push = PushHalf(link, exchange, options, session.result, session.fail)
        self.pull = PullHalf(link, exchange, database.blobs, options, session.result, session.fail)
        self.saves_before_stop = 0
        self.saver = CheckpointSaver(
            link,
            options.checkpoint_id(database.identity, remote_id, link.collection.path),
            database.remote(remote_id).checkpoints,
            exchange,
            time_s,
            session.fail,
        )

    def start_alone(self) -> None:
        """Begin without `getCollections`.

        Without a checkpoint of its own a client does not wait for the server's.
        Spec: replication.md §1.2.
        """
        if self.saver.local is None:
            self.saver.read(lambda _agreed: None)
            self.start(Checkpoint())
        else:
            self.saver.read(self.start)

    def start(self, checkpoint: Checkpoint) -> None:
        """Begin both halves after what is done with."""
        self._is_started = True
        self._checkpoint = checkpoint
        if self._options.push:
            self.push.start(checkpoint)
        if self._options.pull:
            self.pull.start(checkpoint.remote)

    def pump(self) -> None:
        """Let the pushing half go on; the pulling one only answers."""
        if self._is_started and self._options.push:
            self.push.pump()

    @property
    def is_idle(self) -> bool:
        """Whether both halves have nothing to do for now."""
        return (
            self._is_started
            and (not self._options.push or self.push.is_idle)
            and (not self._options.pull or self.pull.is_idle)
        )

    @property
    def needs_saving(self) -> bool:
        """Whether the server's copy of the checkpoint is behind."""
        if not self._is_started:
            return False
        return self.saver.is_saving or self.saver.needs_saving(self._reached())

    @property
    def is_saved_for_good(self) -> bool:
        """Whether a session that stops is done; it does not wait for what still comes in."""
        is_saved = self.saver.saves > self.saves_before_stop and not self.saver.is_saving
        return is_saved or not self.needs_saving

    @property
    def waits_to_save(self) -> bool:
        """Whether there is something to save, but not yet."""
        return not self.saver.is_saving and self.needs_saving

    @property
    def save_at(self) -> float:
        """When the checkpoint is saved even if there is no end of work."""
        return self.saver.saved_at + SAVE_EVERY_S

    def save_if_due(self, now: float, *, is_last: bool) -> None:
        """Save at the end of work, and every few seconds. Spec: replication.md §7.4."""
        if not self._is_started or self.saver.is_saving:
            return
        if not (is_last or now >= self.save_at or self.is_idle):
            return
        reached = self._reached()
        if self.saver.needs_saving(reached):
            self.saver.save(reached, now)

    def _reached(self) -> Checkpoint:
        before = self._checkpoint
        if self._options.push:
            before = Checkpoint(self.push.seen, frozenset(self.push.pending), before.remote)
        if self._options.pull:
            before = Checkpoint(before.seen, before.pending, self.pull.progress.done)
        return before
