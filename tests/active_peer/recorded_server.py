"""A server made of a recording: it answers a client as the recorded one was answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessageType
from edgesync.limits import Limits
from edgesync.replication.replicator import FramesReceived
from tests.active_peer.active_replicator import ActiveReplicator

RECORDED: Final = Path(__file__).parents[1] / "vectors" / "recorded"


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
        for frame in connection["frames"]:
            decoded = frame.get("decoded")
            if not isinstance(decoded, dict) or "bytes" in decoded:
                continue
            said = self.client if frame["from"] == "client" else self.server
            if "part" in decoded:
                continue  # the blobs' contents do not matter here
            body = decoded.get("body", "").encode()
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


def recordings(scenario: str, client: str = "3.2.4") -> Iterator[Recording]:
    text = (RECORDED / f"{scenario}.cbl-{client}.json").read_text(encoding="utf-8")
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


def exchange_frames(peer: ActiveReplicator, server: RecordedServer) -> None:
    """Move frames until both are silent."""
    while True:
        moved = False
        while (frame := peer.frame_to_send()) is not None:
            server.take(frame)
            moved = True
        while (frame := server.connection.frame_to_send()) is not None:
            peer.receive(FramesReceived((frame,)), 0.0)
            moved = True
        if not moved:
            return
