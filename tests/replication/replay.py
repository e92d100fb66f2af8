"""Replay a recorded conversation: the client's messages go in, our answers must fit.

What is compared, and what may differ, is in `vectors/recorded/README.md`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from edgesync.blip.message import MessageType, OutgoingMessage
from edgesync.documents.body import blob_digest
from edgesync.documents.names import collection_path
from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    AppendBlob,
    FinishBlob,
    Inserted,
    InsertRev,
    InsertVersion,
    SetCheckpoint,
)
from edgesync.documents.version_vector import parse_identity
from tests.loopback import Message, PassiveEnd, Store


@dataclass
class RecordedMessage:
    """A message of a recording, joined from its frames."""

    sender: str
    type: str
    number: int
    properties: dict[str, str]
    flags: int
    body: bytes = b""
    at: int = 0  # place of its last frame

    @property
    def profile(self) -> str:
        return self.properties.get("Profile", "")


@dataclass
class Mark:
    """Something the server's own application did."""

    entry: dict[str, Any]


def blob_content(blob: dict[str, Any]) -> bytes:
    """Return the bytes of a made-up blob."""
    seed, length = blob["seed"].encode(), blob["length"]
    pieces = (
        hashlib.sha256(seed + counter.to_bytes(4, "big")).digest()
        for counter in range(length // 32 + 1)
    )
    return b"".join(pieces)[:length]


def current_version(rev: str) -> str:
    """Return what a `rev` calls what a `changes` may name by its whole vector."""
    return rev.partition(";")[0].partition(",")[0]


def names(profile: str, properties: dict[str, str]) -> tuple[str | None, ...]:
    """Return what tells requests of ours apart, but for their collection."""
    return (profile, properties.get("id"), properties.get("rev"), properties.get("digest"))


def messages(connection: dict[str, Any], blobs: dict[str, Any]) -> list[RecordedMessage | Mark]:
    """Join the frames of both sides to messages, in the order of their last frames."""
    open_messages: dict[tuple[str, str, int], RecordedMessage] = {}
    found: list[RecordedMessage | Mark] = []
    for at, frame in enumerate(connection["frames"]):
        if "decoded" not in frame:
            found.append(Mark(frame))
            continue
        decoded = frame["decoded"]
        if "bytes" in decoded:
            continue
        kind = "reply" if decoded["type"] in ("RPY", "ERR") else "MSG"
        key = (frame["from"], kind, decoded["number"])
        if key not in open_messages:
            open_messages[key] = RecordedMessage(
                frame["from"],
                decoded["type"],
                decoded["number"],
                dict(decoded.get("properties", [])),
                int(decoded["flags"], 16),
            )
        message = open_messages[key]
        message.body += _part(decoded, frame, blobs)
        if not int(decoded["flags"], 16) & 0x40:
            message.at = at
            found.append(open_messages.pop(key))
    return found


def _part(decoded: dict[str, Any], frame: dict[str, Any], blobs: dict[str, Any]) -> bytes:
    if "body" in decoded:
        return str(decoded["body"]).encode()
    if "body_hex" in decoded:
        return bytes.fromhex(decoded["body_hex"])
    if "body_blob" in decoded:
        part = decoded["body_blob"]
        content = blob_content(blobs[part["blob"]])
        return content[part["offset"] : part["offset"] + part["length"]]
    raise AssertionError(f"a frame without a body: {frame}")


@dataclass
class Replay:
    """One recorded connection against a replicator with a real store."""

    recording: dict[str, Any]
    connection: dict[str, Any]
    store: Store
    sequences: dict[tuple[str, int], int] = field(default_factory=dict)
    checkpoint_revs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.recording["server"].get("collections_", ["_default"])
        self.paths = [collection_path(name) for name in names]
        self.store.create_collections(self.paths)
        self._load(self.connection["before"])
        self.protocol = int(self.connection["subprotocol"][-1])
        self.end = PassiveEnd(
            self.store,
            collections=self.paths,
            protocol=self.protocol,
            read_only=self.recording["server"].get("read_only", False),
            deltas=self.recording["server"].get("deltas", True),
        )
        self.recorded = messages(self.connection, self.recording.get("blobs", {}))
        self.requests: dict[tuple[str, int], RecordedMessage] = {}
        self.replies: dict[tuple[str, int], RecordedMessage] = {}
        self.server_requests: dict[str, list[RecordedMessage]] = {}
        self.alike: dict[tuple[str | None, ...], list[RecordedMessage]] = {}
        for message in self.recorded:
            if isinstance(message, RecordedMessage):
                self._index(message)
        self.wants: dict[tuple[str, str, str], object] = {}
        self.indexes: list[str] = []
        self.sent: list[tuple[RecordedMessage, OutgoingMessage]] = []
        self.open: list[Message] = []  # requests of ours that the client has still to answer
        self.looked_at = 0
        self.reached: set[int] = set()
        self.before_request: dict[int, Callable[[], object]] = {}

    def _index(self, message: RecordedMessage) -> None:
        key = message.sender, message.number
        if message.type != "MSG":
            self.replies[key] = message
            return
        self.requests[key] = message
        if message.sender == "server":
            self.server_requests.setdefault(message.profile, []).append(message)
            self.alike.setdefault(names(message.profile, message.properties), []).append(message)

    # --- the store ------------------------------------------------------------------

    def _load(self, before: dict[str, Any]) -> None:
        for content in self._blob_contents():
            digest = blob_digest(content)
            if digest in before["blobs"]:
                self.store.ask(lambda call_id, c=content: AppendBlob(call_id, 1, c))  # type: ignore[misc]
                self.store.ask(lambda call_id, d=digest: FinishBlob(call_id, 1, d, None))  # type: ignore[misc]
        documents = [
            (document["sequence"], collection_path(name), document)
            for name, documents in before["documents"].items()
            for document in documents
        ]
        for sequence, path, document in sorted(documents, key=lambda entry: entry[:2]):
            self.sequences[path, sequence] = self.insert(path, document)
            self.store.set_vector(path, document["id"], document.get("vector"))
        for checkpoint_id, checkpoint in before["checkpoints"].items():
            body = self._our_remote(checkpoint["body"].encode())
            rev = self.store.ask(
                lambda call_id, i=checkpoint_id, b=body: SetCheckpoint(call_id, i, "", b)  # type: ignore[misc]
            )
            self.checkpoint_revs[checkpoint["rev"]] = str(rev)

    def _blob_contents(self) -> Iterator[bytes]:
        """Yield what the recording tells of blobs: made-up ones, and what the server sent."""
        blobs = self.recording.get("blobs", {})
        yield from (blob_content(blob) for blob in blobs.values())
        for connection in self.recording.get("connections", []):
            recorded = [m for m in messages(connection, blobs) if isinstance(m, RecordedMessage)]
            asked = {m.number for m in recorded if m.profile == "getAttachment"}
            yield from (m.body for m in recorded if m.type == "RPY" and m.number in asked)

    def _edit(self, path: str, edit: dict[str, Any]) -> int:
        """Do what the server's own application did; return the sequence."""
        if self.protocol < 4:
            return self.insert(path, edit)
        inserted = self.store.ask(
            lambda call_id: InsertVersion(
                call_id,
                path,
                edit["id"],
                parse_identity(edit["vector"]),
                json.dumps(edit["body"]).encode(),
                edit["deleted"],
                (),
            )
        )
        assert isinstance(inserted, Inserted)
        return inserted.sequence

    def insert(self, path: str, document: dict[str, Any]) -> int:
        """Put a revision into the store; return its sequence."""
        history = tuple(RevID(rev) for rev in [document["rev"], *document.get("history", [])])
        body = json.dumps(document["body"]).encode()
        inserted = self.store.ask(
            lambda call_id: InsertRev(
                call_id, path, document["id"], history, body, document["deleted"], ()
            )
        )
        assert isinstance(inserted, Inserted)
        return inserted.sequence

    def _our_sequence(self, path: str, sequence: int) -> int:
        """Return our sequence for a recorded one; between known ones, the last before it."""
        known = [
            ours for (p, theirs), ours in self.sequences.items() if p == path and theirs <= sequence
        ]
        return max(known, default=0)

    def _our_remote(self, body: bytes, path: str | None = None) -> bytes:
        """Return a checkpoint body with our sequence in `remote`."""
        root = json.loads(body)
        if isinstance(root.get("remote"), int):
            root["remote"] = self._our_sequence(path or self.paths[0], root["remote"])
        return json.dumps(root).encode()

    # --- the conversation -------------------------------------------------------------

    def run(self) -> None:
        """Play all of it; afterwards every request of the client has its answer."""
        for message in self.recorded:
            if isinstance(message, Mark):
                self._act(message.entry)
            elif message.sender == "client" and message.type == "MSG":
                self.before_request.get(message.number, bool)()
                self._send_request(message)
                self._answer_open_requests()
            elif message.sender == "client":
                self._reach_reply(message)
                self._answer_open_requests()
        self._answer_open_requests()

    def _act(self, entry: dict[str, Any]) -> None:
        if "edit" in entry:
            edit = entry["edit"]
            path = collection_path(edit["collection"])
            self.sequences[path, edit["sequence"]] = self._edit(path, edit)
            self.end.run()
        else:
            raise AssertionError(f"nothing is known about {entry}")

    def _send_request(self, message: RecordedMessage) -> None:
        properties = dict(message.properties)
        body = message.body
        path = self._path(properties)
        if message.profile == "getCollections":
            self.indexes = [collection_path(name) for name in json.loads(body)["collections"]]
        if message.profile == "setCheckpoint":
            properties["rev"] = self.checkpoint_revs.get(properties["rev"], properties["rev"])
        if "since" in properties:
            properties["since"] = str(self._our_sequence(path, int(properties["since"])))
        sent = self.end.client.send_request(
            properties,
            body,
            compressed=bool(message.flags & 0x08),
            urgent=bool(message.flags & 0x10),
            noreply=bool(message.flags & 0x20),
        )
        self.sent.append((message, sent))
        self.end.run()
        if message.profile in ("getCheckpoint", "setCheckpoint"):
            self._learn_checkpoint_rev(message, sent)

    def _path(self, properties: dict[str, str]) -> str:
        if "collection" in properties and self.indexes:
            return self.indexes[int(properties["collection"])]
        return self.paths[0]

    def _learn_checkpoint_rev(self, message: RecordedMessage, sent: OutgoingMessage) -> None:
        recorded = self.replies.get(("server", message.number))
        ours = self.end.reply_to(sent)
        if recorded is not None and recorded.type == "RPY" and ours is not None:
            assert not ours.head.is_error, ours
            self.checkpoint_revs[recorded.properties["rev"]] = ours.properties["rev"]

    def _reach_reply(self, reply: RecordedMessage) -> None:
        """Come to where the client answers; of a `changes`, remember it entry by entry."""
        self.reached.add(reply.number)
        request = self.requests["server", reply.number]
        if request.profile == "changes" and reply.type == "RPY":
            path = self._path(request.properties)
            answers = json.loads(reply.body or b"[]")
            for place, entry in enumerate(json.loads(request.body)):
                want = answers[place] if place < len(answers) else 0
                self.wants[path, entry[1], current_version(entry[2])] = want

    # --- the client's replies ------------------------------------------------------------

    def _answer_open_requests(self) -> None:
        while pending := self._what_can_be_answered():
            for message in pending:
                self._answer(message)

    def _what_can_be_answered(self) -> list[Message]:
        new = self.end.received[self.looked_at :]
        self.looked_at += len(new)
        self.open += [m for m in new if m.type is MessageType.MSG and not m.head.noreply]
        ready: list[Message] = []
        waiting: list[Message] = []
        for message in self.open:
            (ready if self._can_answer(message) else waiting).append(message)
        self.open = waiting
        return ready

    def _can_answer(self, message: Message) -> bool:
        if message.profile != "changes":
            like = self._recorded_request_like(message)
            return like is not None and like.number in self.reached
        path = self._path(message.properties)
        entries = json.loads(message.body)
        return all((path, e[1], current_version(e[2])) in self.wants for e in entries)

    def _answer(self, message: Message) -> None:
        if message.profile == "changes":
            path = self._path(message.properties)
            entries = json.loads(message.body)
            wants = [self.wants[path, e[1], current_version(e[2])] for e in entries]
            self.end.answer(message, orjson.dumps(wants), {"maxHistory": "50", "deltas": "true"})
            return
        recorded = self._recorded_request_like(message)
        assert recorded is not None
        reply = self.replies.get(("client", recorded.number))
        if reply is None:
            return
        if reply.type == "ERR":
            properties = reply.properties
            self.end.client.send_error(
                message.head,
                properties.get("Error-Domain", "BLIP"),
                int(properties["Error-Code"]),
                reply.body.decode(),
            )
        else:
            self.end.client.send_reply(
                message.head, reply.properties, reply.body, compressed=bool(reply.flags & 0x08)
            )
        self.end.run()

    def _recorded_request_like(self, message: Message) -> RecordedMessage | None:
        path = self._path(message.properties)
        for recorded in self.alike.get(names(message.profile, message.properties), []):
            if self._path(recorded.properties) == path:
                return recorded
        return None

    # --- what must fit -------------------------------------------------------------------

    def check_answers(self) -> None:
        """Compare our answer to each of the client's requests with the recorded one."""
        for message, sent in self.sent:
            recorded = self.replies.get(("server", message.number))
            if recorded is None:
                continue
            ours = self.end.reply_to(sent)
            assert ours is not None, f"no answer to {message}"
            assert (ours.type.name, self._meaning(message, ours.properties, ours.body)) == (
                recorded.type,
                self._meaning(message, recorded.properties, recorded.body),
            ), message

    def _meaning(
        self, request: RecordedMessage, properties: dict[str, str], body: bytes
    ) -> dict[str, object]:
        if "Error-Code" in properties:
            return {"error": (properties.get("Error-Domain", "BLIP"), properties["Error-Code"])}
        match request.profile:
            case "proposeChanges":
                statuses = json.loads(body)
                while statuses and statuses[-1] == 0:
                    statuses.pop()
                return {"statuses": statuses, "blobs": properties.get("blobs")}
            case "setCheckpoint":
                return {"has_rev": bool(properties.get("rev"))}
            case "getCheckpoint":
                root = json.loads(body)
                return {"body": {**root, "remote": "remote" in root}}
            case "getCollections":
                entries = json.loads(body)
                return {"entries": [e and {**e, "rev": "rev" in e, "remote": ""} for e in entries]}
            case "rev":
                return {}
            case _:
                return {"body": body}

    def check_revs(self) -> None:
        """Compare the revisions we sent, and would not send, with the recorded ones.

        Where the recorded server had nothing to send any more, and the client takes
        replacements, we send the newer revision.
        """
        replaced = {
            (self._path(m.properties), m.properties["id"], m.properties["replacedRev"], "")
            for m in self.end.requests("rev")
            if "replacedRev" in m.properties
        }
        ours = [m for m in self.end.requests("rev") if "replacedRev" not in m.properties]
        keys = {self._rev_key(m.properties) for m in ours}
        assert keys == self._recorded_keys("rev"), keys ^ self._recorded_keys("rev")
        norevs = {self._rev_key(m.properties) for m in self.end.requests("norev")}
        assert norevs | replaced == self._recorded_keys("norev")
        for message in ours:
            like = self._recorded_request_like(message)
            assert like is not None
            if "deltaSrc" not in like.properties and "deltaSrc" not in message.properties:
                assert json.loads(message.body) == json.loads(like.body)
            if self.protocol < 4:
                assert message.properties.get("history") == like.properties.get("history")

    def _recorded_keys(self, profile: str) -> set[tuple[str, str, str, str]]:
        return {self._rev_key(m.properties) for m in self.server_requests.get(profile, [])}

    def pushed(self) -> dict[tuple[str, str], str]:
        """Return the last revision that the client sent of each document."""
        return {
            (self._path(m.properties), m.properties["id"]): m.properties["rev"]
            for m, _ in self.sent
            if m.profile == "rev"
        }

    def _rev_key(self, properties: dict[str, str]) -> tuple[str, str, str, str]:
        return (
            self._path(properties),
            properties["id"],
            properties["rev"],
            properties.get("deleted", ""),
        )
