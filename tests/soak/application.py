"""What a person does with an app: edit, connect for a while, lose the connection."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypedDict

import gevent

from tests.active_peer.failures import SyncError
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import DEFAULT_COLLECTION, PeerDatabase
from tests.active_peer.sync import ContinuousSync, sync

ROOMS: Final = (DEFAULT_COLLECTION, *(f"rooms.room-{number}" for number in range(1, 10)))
OWN_DOCUMENTS: Final = 8
SHARED_DOCUMENTS: Final = 10
BLOB_BYTES: Final = (1_000, 60_000)
VERSIONS: Final = 4
SLOW_CLOSE: Final = "the server did not answer the CLOSE"
"""Within 5 s, which says something about the machine that does all of this at once."""


class Report(TypedDict):
    """What a client ends with."""

    room: str
    digest: str
    missing_blobs: int
    own: dict[str, str]
    """What its documents must be: a hash of the body, "" if it is deleted."""
    shared: dict[str, list[str]]
    """What it has written to documents of all."""
    edits: int
    syncs: int
    cuts: int
    failures: list[str]
    """What should not have happened."""


class Moved(NamedTuple):
    """How far a client was behind."""

    revisions: int


class Application:
    """One client: where it is, what it speaks, and what it has written."""

    def __init__(self, url: str, number: int, pause_s: float) -> None:
        self._url = url
        self._number = number
        self._pause_s = pause_s
        self._rng = random.Random(number)
        self._room = ROOMS[number % len(ROOMS)]
        generations = (2, 3, 4) if self._room == DEFAULT_COLLECTION else (3, 4)
        protocol = generations[number // len(ROOMS) % len(generations)]
        self._protocols = (protocol,)
        self._database = PeerDatabase(versions=protocol == VERSIONS)
        self._own: dict[str, str] = {}
        self._shared: dict[str, list[str]] = {}
        self._until = 0.0
        self._edits = self._syncs = self._cuts = 0
        self._failures: list[str] = []

    def live(self, until: float) -> None:
        """Edit and sync until it is time."""
        self._until = until
        while time.monotonic() < until:
            for _ in range(self._rng.randint(1, 3)):
                self._edit()
            act = self._rng.choices((self._stay, self._visit, self._be_cut), (4, 4, 2))[0]
            self._try(act)
            gevent.sleep(self._rng.uniform(0, 2 * self._pause_s))

    def settle(self) -> Moved:
        """Sync once without an edit."""
        moved: list[int] = []

        def once() -> None:
            result = sync(
                self._database, self._url, collections=[self._room], protocols=self._protocols
            )
            self._check(result.complaints)
            moved.append(result.pushed + result.pulled + result.conflicts)

        self._try(once)
        return Moved(moved[0] if moved else 1)

    def report(self) -> Report:
        return {
            "room": self._room,
            "digest": self._database.digest(self._room),
            "missing_blobs": len(self._database.missing_blobs(self._room)),
            "own": self._own,
            "shared": self._shared,
            "edits": self._edits,
            "syncs": self._syncs,
            "cuts": self._cuts,
            "failures": self._failures,
        }

    # --- editing ------------------------------------------------------------------------

    def _edit(self) -> None:
        self._edits += 1
        if self._rng.random() < 0.75:
            self._edit_own(f"own-{self._number}-{self._rng.randrange(OWN_DOCUMENTS)}")
        else:
            doc_id = f"shared-{self._rng.randrange(SHARED_DOCUMENTS)}"
            self._shared.setdefault(doc_id, []).append(self._write(doc_id))

    def _edit_own(self, doc_id: str) -> None:
        self._own[doc_id] = self._write(doc_id)

    def _write(self, doc_id: str) -> str:
        """Save or delete a document; return the hash of what it is now."""
        database, rng = self._database, self._rng
        if database.get(doc_id, self._room) is not None and rng.random() < 0.15:
            database.delete(doc_id, self._room)
            return ""
        body: dict[str, object] = {"by": self._number, "edit": self._edits}
        body["text"] = rng.randbytes(rng.choice((50, 200, 3000))).hex()
        if rng.random() < 0.15:
            content = rng.randbytes(rng.randint(*BLOB_BYTES))
            body["picture"] = database.save_blob(content, "image/png")
        database.save(doc_id, body, self._room)
        return hash_of(database.get(doc_id, self._room))

    # --- connecting ---------------------------------------------------------------------

    def _try(self, act: Callable[[], None]) -> None:
        self._syncs += 1
        try:
            act()
        except SyncError as error:
            if not error.is_transient:
                self._failures.append(str(error))
        except TimeoutError as error:
            self._failures.append(str(error))

    def _check(self, complaints: list[str]) -> None:
        self._failures += [each for each in complaints if each != SLOW_CLOSE]

    def _visit(self) -> None:
        """Sync once, as an app that is opened for a moment."""
        result = sync(
            self._database, self._url, collections=[self._room], protocols=self._protocols
        )
        self._check(result.complaints)

    def _stay(self) -> None:
        """Stay connected for some edits."""
        options = SyncOptions(collections=(self._room,), protocols=self._protocols)
        with ContinuousSync(self._database, self._url, options) as live:
            for _ in range(self._rng.randint(1, 4)):
                gevent.sleep(self._rng.uniform(0, 2 * self._pause_s))
                if time.monotonic() > self._until:
                    break
                self._edit()
            self._wait_while_others_edit(live)
        self._check(live.result.complaints)

    def _wait_while_others_edit(self, live: ContinuousSync) -> None:
        """Wait until all is in sync; in a room where much happens that may be never."""
        with suppress(TimeoutError):
            live.wait_idle(self._pause_s)

    def _be_cut(self) -> None:
        """Lose the connection in the middle."""
        cut = gevent.Timeout(self._rng.uniform(0.02, 0.3))
        try:
            with cut:
                self._visit()
        except gevent.Timeout as timeout:
            if timeout is not cut:
                raise
            self._cuts += 1


def hash_of(body: dict[str, object] | None) -> str:
    """Return what stands for a body in a report; "" if there is none."""
    if body is None:
        return ""
    return hashlib.sha256(repr(sorted(body.items())).encode()).hexdigest()[:16]
