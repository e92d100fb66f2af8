"""A replicator with a real store, in memory: frames go in, frames come out.

Nothing waits for a clock: after each step everything that the replicator asked
of the store is answered, so a test sees all that follows from what it sent.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessageType, OutgoingMessage
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    Committed,
    CreateCollection,
    StoreCall,
    StoreDone,
)
from edgesync.errors import EdgeSyncError
from edgesync.limits import Limits
from edgesync.replication.replicator import (
    Event,
    FramesReceived,
    Replicator,
    ReplicatorSettings,
    Resumed,
)
from edgesync.storage.engine import Engine
from edgesync.storage.maintenance import DATABASE_FILE

ANSWER_TIMEOUT_S = 20.0


class Store:
    """An engine, and the wait for its answers."""

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._woken = threading.Event()
        self._file = folder / DATABASE_FILE
        self.engine = Engine.open(folder, limits or Limits(), self._woken.set, clock)
        self._own = self.engine.connect(self._take)
        self._answers: dict[int, object] = {}
        self._ids = itertools.count(1)

    def _take(self, *answers: StoreDone) -> None:
        for done in answers:
            self._answers[done.call_id] = done.result

    def wait(self, until: Callable[[], bool]) -> None:
        """Deliver the engine's answers until something holds."""
        while not until():
            assert self._woken.wait(ANSWER_TIMEOUT_S), "the store does not answer"
            self._woken.clear()
            self.engine.deliver()

    def ask(self, make: Callable[[int], StoreCall]) -> object:
        """Return the answer to one call; an error is raised."""
        call_id = next(self._ids)
        self._own.submit([make(call_id)])
        self.wait(lambda: call_id in self._answers)
        result = self._answers.pop(call_id)
        if isinstance(result, EdgeSyncError):
            raise result
        return result

    def create_collections(self, paths: Sequence[str]) -> None:
        for path in paths:
            if path != DEFAULT_COLLECTION:
                self.ask(lambda call_id, path=path: CreateCollection(call_id, path))  # type: ignore[misc]

    def set_vector(self, path: str, doc_id: str, vector: str | None) -> None:
        """Write a version vector that somebody else gave, or leave ours."""
        if vector is not None:
            with contextlib.closing(sqlite3.connect(self._file)) as connection:
                connection.execute(
                    """UPDATE document SET vector = ? WHERE doc_id = ? AND collection =
                    (SELECT id FROM collection WHERE scope || '.' || name = ?)""",
                    (vector, doc_id, path),
                )
                connection.commit()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the writer out, as a curious person's command would."""
        with contextlib.closing(sqlite3.connect(self._file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    def close(self) -> None:
        self.engine.close()
        self.engine.deliver()


class Message:
    """A message that came whole."""

    def __init__(self, head: IncomingMessage, body: bytes) -> None:
        self.head = head
        self.body = body

    @property
    def type(self) -> MessageType:
        return self.head.type

    @property
    def properties(self) -> dict[str, str]:
        return self.head.properties

    @property
    def profile(self) -> str:
        return self.head.profile

    def __repr__(self) -> str:
        return f"<{self.type.name} {self.head.number} {self.properties} {self.body[:100]!r}>"


class PassiveEnd:
    """The server's end of a connection, and a bare BLIP connection to talk to it."""

    def __init__(
        self,
        store: Store,
        *,
        collections: Sequence[str] = (DEFAULT_COLLECTION,),
        protocol: int = 3,
        read_only: bool = False,
        deltas: bool = False,
        limits: Limits | None = None,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        limits = limits or Limits()
        settings = ReplicatorSettings(frozenset(collections), protocol, read_only, deltas)
        if deltas:
            store.engine.keep_bodies()
        self.now = 0.0
        self.replicator = Replicator(settings, limits, self.now, entropy)
        self.client = Connection(limits)
        self.received: list[Message] = []
        self._store = store
        self._parts: dict[IncomingMessage, list[bytes]] = {}
        self._asked = 0
        self._answered = 0
        self._link = store.engine.connect(self._on_answers)
        self._forget = store.engine.add_commit_listener(self._on_commit)

    def close(self) -> None:
        self.replicator.end()
        self._forget()
        self._link.close()

    # --- the wire ---------------------------------------------------------------

    def run(self) -> None:
        """Move frames and answers until nothing moves any more."""
        while True:
            moved = False
            while (frame := self.client.frame_to_send()) is not None:
                self.receive(FramesReceived((frame,)))
                moved = True
            while (frame := self.replicator.frame_to_send()) is not None:
                self._submit()
                self._take_frame(frame)
                moved = True
            if self._answered < self._asked:
                self._store.wait(lambda: self._answered == self._asked)
                moved = True
            if not moved:
                return

    def receive(self, *events: Event) -> None:
        """Give events to the replicator, and its questions to the store."""
        for event in events:
            self.replicator.receive(event, self.now)
            self._submit()
        while self.replicator.has_backlog:
            self._store.wait(lambda: self.replicator.wants_input or not self._waits())
            self.replicator.receive(Resumed(), self.now)
            self._submit()

    def _waits(self) -> bool:
        return self._answered < self._asked

    def _submit(self) -> None:
        if calls := self.replicator.store_calls():
            self._asked += len(calls)
            self._link.submit(calls)

    def _on_answers(self, *answers: StoreDone) -> None:
        self._answered += len(answers)
        self._take_events(*answers)

    def _on_commit(self, committed: Committed) -> None:
        self._take_events(committed)

    def _take_events(self, *events: Event) -> None:
        for event in events:
            self.replicator.receive(event, self.now)
        self._submit()

    def _take_frame(self, frame: bytes) -> None:
        for piece in self.client.receive(frame):
            parts = self._parts.setdefault(piece.message, [])
            parts.append(piece.data)
            if piece.is_last:
                del self._parts[piece.message]
                self.received.append(Message(piece.message, b"".join(parts)))

    # --- the client's side ---------------------------------------------------------

    def request(
        self, profile: str, body: bytes = b"", *, noreply: bool = False, **properties: str
    ) -> Message | None:
        """Send a request and return its reply, if there is one after all has moved."""
        sent = self.send({"Profile": profile, **properties}, body, noreply=noreply)
        return self.reply_to(sent)

    def send(
        self, properties: dict[str, str], body: bytes = b"", *, noreply: bool = False
    ) -> OutgoingMessage:
        """Send a request; all that follows from it has happened on return."""
        sent = self.client.send_request(properties, body, noreply=noreply, compressed=bool(body))
        self.run()
        return sent

    def reply_to(self, request: OutgoingMessage) -> Message | None:
        """Return the reply to a request of the client."""
        for message in self.received:
            if message.head.request is request:
                return message
        return None

    def answer(
        self, request: Message, body: bytes = b"", properties: dict[str, str] | None = None
    ) -> None:
        """Reply to a request of the server."""
        self.client.send_reply(request.head, properties or {}, body)
        self.run()

    def requests(self, profile: str) -> list[Message]:
        """Return the server's requests of a profile, as they came."""
        return [m for m in self.received if m.type is MessageType.MSG and m.profile == profile]
