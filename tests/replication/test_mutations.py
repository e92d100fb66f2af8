"""What real clients sent, damaged: frames as they were, and messages framed anew.

A frame has a checksum, so most damaged frames end there; messages that are
framed anew reach everything behind it. Nothing but a `ProtocolError` may come
out, every session must come to rest, and no document may change that was not
pushed. `EDGESYNC_MUTATIONS` says how many cases to try.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgesync.blip.message import encode_properties
from edgesync.documents.body import blob_digest
from edgesync.documents.names import collection_path
from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    AppendBlob,
    ChangesPage,
    FinishBlob,
    InsertRev,
    ReadChanges,
    ReadRev,
    StoredRev,
    Verify,
)
from edgesync.errors import ProtocolError
from edgesync.limits import Limits
from edgesync.replication.replicator import FramesReceived
from tests.blip.wire import FramePeer
from tests.loopback import PassiveEnd, Store
from tests.replication.replay import RecordedMessage, blob_content, messages

RECORDED = Path(__file__).parent.parent / "vectors" / "recorded"
CASES = int(os.environ.get("EDGESYNC_MUTATIONS", "1000"))
SHARDS = 4
MAX_MOVES = 20_000
"""A session that moves more frames and answers than this does not come to rest."""
MAX_FRAMES = 40
MAX_FRAME_BYTES = 20_000
SLOW_CASE_S = 5.0
MAX_GROWTH_KIB = 64 * 1024

AT_ONCE = Limits(commit_delay_s=0.0)
GUARDS = {f"guard-{n}": {"keep": n} for n in range(3)}
PROFILES = ("getCollections", "getCheckpoint", "setCheckpoint", "subChanges", "unsubChanges",
            "changes", "proposeChanges", "rev", "norev", "getAttachment", "proveAttachment",
            "getRev", "putRev", "PING")  # fmt: skip
VALUES = ("", "0", "1", "-1", "true", "18446744073709551616", "9" * 400, "x", "1-aa", "2-bb,1-aa",
          "0-", "1-zz", "1860010000000000@AAECAwQFBgcICQoLDA0ODw", "ffffffffffffffff@x", "*", ";",
          "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha1-../../x", "\u2603", "a\x01", "_x",
          "version-vectors", "rev-trees")  # fmt: skip
BODIES = (b"", b"[]", b"{}", b"null", b"[[]]", b"[null,7,{}]", b'{"docIDs":[1]}', b"[" * 200,
          b'{"a":' * 150 + b"1" + b"}" * 150, b'{"_attachments":{"x":{"digest":7}}}', b"\xff\xfe",
          b'{"@type":"blob","digest":7}', b'{"b":{"@type":"blob","digest":"sha1-x"}}',
          b'{"b":{"@type":"blob","digest":"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="}}',
          b'[[1,"guard","1-aa"]]', b'{"n":1e999}', b'{"n":NaN}')  # fmt: skip


# --- what is damaged ----------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A recorded connection."""

    protocol: int
    collections: tuple[str, ...]
    before: Any
    frames: tuple[bytes, ...]
    messages: tuple[RecordedMessage, ...]
    bodies: frozenset[str]
    blobs: tuple[bytes, ...]


@cache
def samples() -> tuple[Sample, ...]:
    found: list[Sample] = []
    for file in sorted(RECORDED.glob("*.json")):
        recording = json.loads(file.read_text())
        blobs = recording.get("blobs", {})
        for connection in recording["connections"]:
            frames = tuple(client_frames(connection, blobs))
            if not frames or not connection.get("subprotocol"):
                continue  # a handshake that failed
            said = [m for m in messages(connection, blobs) if isinstance(m, RecordedMessage)]
            names = recording["server"].get("collections_", ["_default"])
            found.append(
                Sample(
                    int(connection["subprotocol"][-1]),
                    tuple(map(collection_path, names)),
                    connection["before"]["documents"],
                    frames,
                    tuple(m for m in said if m.sender == "client"),
                    frozenset(all_bodies(recording)),
                    tuple(blob_content(blob) for blob in blobs.values()),
                )
            )
    return tuple(found)


def client_frames(connection: Any, blobs: Any) -> Iterator[bytes]:
    for entry in connection["frames"]:
        if entry["from"] != "client" or "frame" not in entry:
            continue
        frame = entry["frame"]
        if isinstance(frame, str):
            yield bytes.fromhex(frame)
        else:
            content = blob_content(blobs[frame["blob"]])
            part = content[frame["offset"] : frame["offset"] + frame["length"]]
            yield bytes.fromhex(frame["head"]) + part + bytes.fromhex(frame["tail"])


def all_bodies(recording: Any) -> Iterator[str]:
    """Yield every document body of a recording, in one form."""
    for connection in recording["connections"]:
        for message in messages(connection, recording.get("blobs", {})):
            if not isinstance(message, RecordedMessage):
                yield canonical(message.entry.get("edit", {}).get("body", {}))
            elif message.profile == "rev" and "deltaSrc" not in message.properties:
                yield canonical(json.loads(message.body))
    states = [recording["after"], *(c["before"] for c in recording["connections"])]
    for state in states:
        for documents in state.get("documents", {}).values():
            yield from (canonical(d["body"]) for d in documents if "body" in d)


def canonical(body: object) -> str:
    return json.dumps(body, sort_keys=True)


# --- how -------------------------------------------------------------------------


def damaged_frames(sample: Sample, chance: random.Random) -> list[bytes]:
    """Damage frames, their order and number."""
    frames = list(sample.frames[:MAX_FRAMES])
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place = chance.randrange(len(frames)) if frames else 0
        match chance.randrange(7):
            case 0 | 1 if frames:
                frames[place] = flipped(frames[place], chance)
            case 2 if frames:
                frames[place] = frames[place][: chance.randrange(len(frames[place]) + 1)]
            case 3 if frames:
                frames.insert(place, frames[chance.randrange(len(frames))])
            case 4 if frames:
                frames[place], frames[-1] = frames[-1], frames[place]
            case 5 if frames:
                del frames[place]
            case _:
                frames.insert(place, chance.randbytes(chance.randrange(40)))
    return frames


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Flip some bits, more often near the beginning, where the headers are."""
    if not data:
        return b"\x80"
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        end = chance.choice((min(4, len(changed)), len(changed)))
        changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def damaged_messages(sample: Sample, chance: random.Random) -> list[bytes]:
    """Damage messages, and frame them properly."""
    said = [m for m in sample.messages[:MAX_FRAMES] if len(m.body) <= MAX_FRAME_BYTES]
    victims = {chance.randrange(len(said)) for _ in range(chance.choice((1, 1, 2, 3)))}
    match chance.randrange(6):
        case 0:
            said.insert(chance.randrange(len(said)), chance.choice(said))
        case 1:
            chance.shuffle(said)
        case 2:
            del said[chance.randrange(len(said)) :]
        case _:
            pass
    peer, number = FramePeer(), 0
    frames: list[bytes] = []
    for place, message in enumerate(said):
        flags, payload = message.flags & 0x3F, payload_of(message)
        if message.type == "MSG":
            number += 1
        if place in victims:
            flags, payload = damaged_message(message, chance)
        own = number if message.type == "MSG" else message.number
        cuts = sorted(chance.sample(range(len(payload) + 1), min(2, len(payload))))
        frames += peer.cut(own, flags, payload, cuts if place in victims else ())
    return frames


def payload_of(message: RecordedMessage) -> bytes:
    return encode_properties(message.properties) + message.body


def damaged_message(message: RecordedMessage, chance: random.Random) -> tuple[int, bytes]:
    flags, properties, body = message.flags & 0x3F, dict(message.properties), message.body
    match chance.randrange(8):
        case 0:
            return flags, flipped(payload_of(message), chance)
        case 1:
            return flags, payload_of(message)[: chance.randrange(len(payload_of(message)) + 1)]
        case 2:
            return flags ^ (1 << chance.randrange(6)), payload_of(message)
        case 3:
            properties["Profile"] = chance.choice(PROFILES)
        case 4 if properties:
            properties[chance.choice(list(properties))] = chance.choice(VALUES)
        case 5 if properties:
            del properties[chance.choice(list(properties))]
        case 6:
            body = flipped(body, chance)
        case _:
            body = chance.choice(BODIES)
    return flags, encode_properties(properties) + body


# --- against what ------------------------------------------------------------------


class Target(PassiveEnd):
    """The server's end, fed with bare frames; what it answers is thrown away."""

    def feed(self, frames: Sequence[bytes]) -> str:
        """Give it frames; return how it ended."""
        moves = 0
        try:
            for frame in frames:
                self.receive(FramesReceived((frame,)))
                moves += self._come_to_rest(MAX_MOVES - moves)
        except ProtocolError:
            return "ProtocolError"
        return "rest"

    def _come_to_rest(self, allowed: int) -> int:
        for moves in range(allowed):
            if self.replicator.frame_to_send() is not None:
                self._submit()
            elif self._waits():
                self._store.wait(lambda: not self._waits())
            else:
                return moves
        raise AssertionError("the session does not come to rest")


def load(store: Store, sample: Sample) -> None:
    """Put the recorded state and the guards into a store."""
    store.create_collections(sample.collections)
    for doc_id, body in GUARDS.items():
        insert(store, DEFAULT_COLLECTION, doc_id, ["1-aa"], body)
    for content in sample.blobs:
        digest = blob_digest(content)
        store.ask(lambda call_id, c=content: AppendBlob(call_id, 1, c))  # type: ignore[misc]
        store.ask(lambda call_id, d=digest: FinishBlob(call_id, 1, d, None))  # type: ignore[misc]
    for name, documents in sample.before.items():
        for document in documents:
            history = [document["rev"], *document["history"]]
            path = collection_path(name)
            insert(store, path, document["id"], history, document.get("body", {}))
            store.set_vector(path, document["id"], document.get("vector"))


def insert(store: Store, path: str, doc_id: str, history: list[str], body: object) -> None:
    revs = tuple(map(RevID, history))
    text = json.dumps(body).encode()
    store.ask(lambda call_id: InsertRev(call_id, path, doc_id, revs, text, False, ()))


def stored_bodies(store: Store, path: str) -> dict[str, str]:
    """Return all documents, tombstones too, in one form."""
    page = store.ask(lambda call_id: ReadChanges(call_id, path, 0, 100_000, False, None))
    assert isinstance(page, ChangesPage)
    found: dict[str, str] = {}
    for change in page.changes:
        rev = store.ask(lambda call_id, d=change.doc_id: ReadRev(call_id, path, d))  # type: ignore[misc]
        assert isinstance(rev, StoredRev)
        found[change.doc_id] = canonical(json.loads(rev.body))
    return found


def check(store: Store, sample: Sample, *, may_be_new: bool) -> None:
    """Check that nothing changed that was not pushed, and that nothing is damaged."""
    for path in sample.collections:
        bodies = stored_bodies(store, path)
        guards = {doc_id: bodies.pop(doc_id) for doc_id in GUARDS if doc_id in bodies}
        if path == DEFAULT_COLLECTION:
            assert guards == {doc_id: canonical(body) for doc_id, body in GUARDS.items()}
        if not may_be_new:
            assert {*bodies.values()} <= sample.bodies | {"{}"}
    assert store.ask(Verify) == ()


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.timeout(max(60, CASES // 20))
@pytest.mark.parametrize("damage", [damaged_frames, damaged_messages])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_damaged_input_ends_in_a_protocol_error_or_comes_to_rest(
    tmp_path: Path, shard: int, damage: Any
) -> None:
    chosen = samples()[shard::SHARDS]
    per_sample = -(-CASES // (2 * len(samples())))
    ends: dict[str, int] = {}
    resident = 0
    for place, sample in enumerate(chosen):
        store = Store(tmp_path / f"{place}.edgesync", AT_ONCE)
        load(store, sample)
        for case in range(per_sample):
            chance = random.Random(f"{damage.__name__} {shard} {place} {case}")
            ended = run_case(store, sample, damage(sample, chance))
            ends[ended] = ends.get(ended, 0) + 1
        check(store, sample, may_be_new=damage is damaged_messages)
        store.close()
        resident = resident or resident_kib()
    assert ends["ProtocolError"] > 0
    assert resident_kib() - resident < MAX_GROWTH_KIB
    print(damage.__name__, ends)


def run_case(store: Store, sample: Sample, frames: list[bytes]) -> str:
    began = time.monotonic()
    target = Target(
        store,
        collections=sample.collections,
        protocol=sample.protocol,
        deltas=True,
        limits=AT_ONCE,
    )
    try:
        return target.feed(frames)
    finally:
        target.close()
        assert time.monotonic() - began < SLOW_CASE_S
