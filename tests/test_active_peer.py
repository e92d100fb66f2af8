"""The active peer itself: it must send what real clients were seen to send."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessageType
from edgesync.limits import Limits
from edgesync.replication.replicator import FrameReceived
from tests.active_peer.active_replicator import ActiveReplicator
from tests.active_peer.folder import Folder, FolderError, file_name
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.peer_blobs import BlobReference, PeerBlobs, find_blobs
from tests.active_peer.peer_database import KeepConflict, PeerDatabase, Taken, encode_body
from tests.active_peer.progress import Checkpoint, PullProgress

RECORDED = Path(__file__).parent / "vectors" / "recorded"
SERVER = "ws://server/db"


# --- recordings --------------------------------------------------------------------


class Said(NamedTuple):
    """A message, as recorded or as sent."""

    type: str
    properties: Mapping[str, str]
    flags: int
    body: bytes
    number: int

    @property
    def profile(self) -> str:
        return self.properties.get("Profile", "")

    @property
    def subject(self) -> tuple[str | None, ...]:
        """What tells it from others of the same profile."""
        keys = ("Profile", "collection", "id", "rev", "digest")
        wanted = keys if self.profile in ("rev", "getAttachment") else keys[:2]
        return tuple(self.properties.get(key) for key in wanted)


class Recording:
    """One recorded connection: what each side said."""

    def __init__(self, connection: Mapping[str, list[Mapping[str, object]]]) -> None:
        self.client: list[Said] = []
        self.server: list[Said] = []
        whole: dict[tuple[object, object, object], list[object]] = {}
        for frame in connection["frames"]:
            decoded = frame.get("decoded")
            if not isinstance(decoded, dict) or "bytes" in decoded:
                continue
            said = self.client if frame["from"] == "client" else self.server
            key = (frame["from"], decoded["type"] == "MSG", decoded["number"])
            if "part" in decoded:
                continue  # the blobs' contents do not matter here
            body = decoded.get("body", "").encode()
            whole[key] = [body]
            said.append(
                Said(
                    decoded["type"],
                    dict(decoded.get("properties", [])),
                    int(decoded["flags"], 16) & ~0x40,
                    body,
                    decoded["number"],
                )
            )

    def reply_to(self, request: Said, side: list[Said]) -> Said:
        return next(s for s in side if s.type != "MSG" and s.number == request.number)


def recordings(scenario: str) -> Iterator[Recording]:
    text = (RECORDED / f"{scenario}.cbl-3.2.4.json").read_text(encoding="utf-8")
    for connection in json.loads(text)["connections"]:
        yield Recording(connection)


class RecordedServer:
    """Answer as the recorded server did, each time the client says the recorded thing."""

    def __init__(self, recording: Recording) -> None:
        self.connection = Connection(Limits())
        self.received: list[Said] = []
        self._recording = recording
        self._unused = list(recording.client)
        self._requests = [said for said in recording.server if said.type == "MSG"]
        self._is_subscribed: set[str | None] = set()
        self._is_wanted = False
        self._arrived: set[str] = set()

    def take(self, frame: bytes) -> None:
        for piece in self.connection.receive(frame):
            assert piece.is_first
            assert piece.is_last
            self._hear(piece.message, piece.data)
        self._speak()

    def _hear(self, message: IncomingMessage, body: bytes) -> None:
        flags = message.type | message.compressed << 3 | message.urgent << 4 | message.noreply << 5
        said = Said(message.type.name, message.properties, flags, body, message.number)
        self.received.append(said)
        if message.type is not MessageType.MSG:
            self._is_wanted = True
            return
        if said.profile == "subChanges":
            self._is_subscribed.add(said.properties.get("collection"))
        self._arrived.add(said.properties.get("id", ""))
        if not message.noreply:
            self._answer(message, said)

    def _answer(self, message: IncomingMessage, said: Said) -> None:
        for known in self._unused:
            if known.type == "MSG" and known.subject == said.subject and not known.flags & 0x20:
                self._unused.remove(known)
                reply = self._recording.reply_to(known, self._recording.server)
                break
        else:  # a `setCheckpoint` more than the recorded client sent
            assert said.profile == "setCheckpoint", said
            reply = Said("RPY", {"rev": "99-cc"}, 1, b"", 0)
        if reply.type == "ERR":
            code = int(reply.properties["Error-Code"])
            text = reply.body.decode()
            self.connection.send_error(message, reply.properties["Error-Domain"], code, text)
        else:
            self.connection.send_reply(message, reply.properties, reply.body)

    def _speak(self) -> None:
        for said in list(self._requests):
            if said.profile == "changes":
                may = said.properties.get("collection") in self._is_subscribed
            elif said.profile == "getAttachment":
                may = said.properties["docID"] in self._arrived
            else:
                may = self._is_wanted
            if may:
                self._requests.remove(said)
                self.connection.send_request(
                    said.properties, said.body, urgent=True, noreply=bool(said.flags & 0x20)
                )


def replay(database: PeerDatabase, recording: Recording, options: SyncOptions) -> RecordedServer:
    """Run the active peer against a recorded server until both are silent."""
    server = RecordedServer(recording)
    peer = ActiveReplicator(database, SERVER, options)
    while True:
        moved = False
        while (frame := peer.frame_to_send()) is not None:
            server.take(frame)
            moved = True
        while (frame := server.connection.frame_to_send()) is not None:
            peer.receive(FrameReceived(frame), 0.0)
            moved = True
        if not moved:
            assert peer.is_finished
            return server


def edit_as_recorded(database: PeerDatabase, recording: Recording) -> None:
    """Make the documents that the recorded client proposes."""
    bodies = {(s.properties["id"], s.properties["rev"]): s for s in recording.client if s.properties.get("id")}
    for proposal in recording.client:
        if proposal.profile != "proposeChanges":
            continue
        index = proposal.properties.get("collection")
        collection = database.collections[int(index or 0)]
        for doc_id, rev_id, parent, _ in json.loads(proposal.body):
            document = collection.document(doc_id)
            if document is not None and rev_id in document.chain:
                continue
            sent = bodies.get((doc_id, rev_id))
            chain = (rev_id, parent) if parent else (rev_id,)
            body = sent.body if sent else b"{}"
            collection.store(doc_id, chain, body, deleted=bool(sent and "deleted" in sent.properties))


def essence(said: Said) -> object:
    """Reduce a message to what must be the same: flags, properties in order, body."""
    properties = dict(said.properties)
    properties.pop("client", None)
    properties.pop("deltas", None)  # this peer takes none
    if said.profile in ("getCheckpoint", "setCheckpoint"):
        properties.pop("rev", None)
    body: object = json.loads(said.body) if said.body else None
    if said.profile == "proposeChanges" and isinstance(body, list):
        body = [entry[:3] for entry in body]  # sizes are estimates
    if said.profile == "getCollections" and isinstance(body, dict):
        body = body["collections"]
    if said.type == "RPY":
        return said.type, said.flags & ~0x10, list(properties.items()), body
    return said.type, said.flags, list(properties.items()), body


def requests(said: list[Said], *profiles: str) -> list[object]:
    found = [essence(s) for s in said if s.type == "MSG" and s.profile in profiles and s.body != b"[]"]
    return sorted(found, key=repr)


PUSHES = ["push-3-docs", "push-delete", "push-undelete", "push-two-batches", "push-busy-503",
          "push-rejected-403", "conflict-push-only"]  # fmt: skip
PULLS = ["pull-3-docs", "pull-tombstone", "pull-two-batches"]
BOTH = ["resume", "checkpoint-lost", "two-collections"]


@pytest.mark.parametrize("scenario", [*PUSHES, *PULLS, *BOTH])
def test_requests_are_those_of_a_real_client(scenario: str) -> None:
    database = PeerDatabase()
    two = ("field.meters", "field.trucks") if scenario == "two-collections" else None
    options = SyncOptions(
        push=scenario not in PULLS,
        pull=scenario not in PUSHES,
        collections=two or ("_default._default",),
    )
    for path in options.collections:
        database.collection(path)
    for run, recording in enumerate(recordings(scenario)):
        if scenario == "checkpoint-lost" and run == 1:
            database.remotes[SERVER].checkpoints.clear()  # the recorded client starts over
            database.remotes[SERVER].revs.clear()
        edit_as_recorded(database, recording)
        server = replay(database, recording, options)
        for profile in ("getCollections", "getCheckpoint", "subChanges", "proposeChanges", "rev"):
            assert requests(server.received, profile) == requests(recording.client, profile)
        assert replies(server.received) == replies(recording.client)
        # With both directions this peer also counts what it pulled in the same run.
        keys = ("remote",) if scenario in BOTH else ("local", "localCompleted", "remote")
        assert last_checkpoint(server.received, keys) == last_checkpoint(recording.client, keys)


def replies(said: list[Said]) -> list[object]:
    return sorted((essence(s) for s in said if s.type != "MSG"), key=repr)


def last_checkpoint(said: list[Said], keys: tuple[str, ...]) -> object:
    saved = [json.loads(s.body) for s in said if s.profile == "setCheckpoint"]
    return {key: saved[-1].get(key) for key in keys}
