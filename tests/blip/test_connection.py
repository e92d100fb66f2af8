"""Both directions together; recorded conversations. Spec: blip.md §2 to §7."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.blip.connection import Connection
from edgesync.blip.frame import TYPE_MASK, decode_varint, parse_header
from edgesync.blip.message import IncomingMessage, MessageType, OutgoingMessage
from edgesync.errors import ProtocolError
from edgesync.limits import Limits
from tests.blip.wire import RECORDED, Collector, FramePeer, drain, vectors

TYPES = {"MSG": 0, "RPY": 1, "ERR": 2, "ACKMSG": 4, "ACKRPY": 5}
CONVERSATIONS = vectors("conversations.json")["conversations"]


# --- replies ---------------------------------------------------------------------------


def request_of(connection: Connection, flags: int = 0) -> IncomingMessage:
    """Have the peer send request 1."""
    collector = Collector()
    collector.feed(connection, FramePeer().message(1, {"Profile": "rev"}, flags=flags))
    return collector.incoming[0]


def test_empty_reply_has_the_bytes_of_the_specification() -> None:
    connection = Connection(Limits())
    connection.send_reply(request_of(connection))
    connection.send_request({})
    assert [frame.hex() for frame in drain(connection)] == ["010100d202ef8d", "01000041d912ff"]


def test_error_reply_has_the_bytes_of_the_specification() -> None:
    connection = Connection(Limits())
    connection.send_error(request_of(connection), "HTTP", 404, "no such checkpoint")
    [frame] = drain(connection)
    assert frame.hex() == (
        "0102214572726f722d446f6d61696e0048545450004572726f722d436f64650034303400"
        "6e6f207375636820636865636b706f696e7401614702"
    )


@pytest.mark.parametrize("flags", [0x00, 0x10])
def test_reply_is_as_urgent_as_its_request(flags: int) -> None:
    connection = Connection(Limits())
    connection.send_reply(request_of(connection, flags))
    [frame] = drain(connection)
    assert parse_header(frame).flags == flags | MessageType.RPY


def test_noreply_request_gets_no_reply() -> None:
    connection = Connection(Limits())
    assert connection.send_reply(request_of(connection, 0x20)) is None
    assert not connection.has_output


def test_request_is_answered_once() -> None:
    connection = Connection(Limits())
    request = request_of(connection)
    connection.send_reply(request)
    with pytest.raises(RuntimeError, match="cannot be answered"):
        connection.send_error(request, "HTTP", 500, "")


def test_request_is_not_answered_before_its_end() -> None:
    connection = Connection(Limits())
    frames = list(FramePeer().message(1, {}, b"body", cuts=[2]))
    [piece] = connection.receive(frames[0])
    with pytest.raises(RuntimeError, match="cannot be answered"):
        connection.send_reply(piece.message)


def test_replies_are_awaited_from_sending_to_their_end() -> None:
    connection, peer = Connection(Limits()), FramePeer()
    counts = [connection.awaiting_replies]
    connection.send_request({})
    connection.send_request({}, noreply=True)
    counts.append(connection.awaiting_replies)
    drain(connection)
    counts.append(connection.awaiting_replies)
    frames = list(peer.message(1, {}, b"body", flags=1, cuts=[2]))
    for frame in frames:
        list(connection.receive(frame))
        counts.append(connection.awaiting_replies)
    assert counts == [0, 1, 1, 1, 0]


def test_everything_is_refused_after_a_protocol_error() -> None:
    connection = Connection(Limits())
    request = request_of(connection)
    connection.send_request({})
    with pytest.raises(ProtocolError):
        connection.receive(b"\x01")
    for call in (
        lambda: connection.receive(b""),
        lambda: connection.send_request({}),
        lambda: connection.send_reply(request),
        connection.frame_to_send,
    ):
        with pytest.raises(ProtocolError, match="failed before"):
            call()
    assert not connection.has_output


# --- conversations ----------------------------------------------------------------------


class Recorded(NamedTuple):
    """A frame of a conversation."""

    side: str
    frame: bytes
    decoded: Any


def blob_bytes(seed: str, length: int) -> bytes:
    blocks = range(-(-length // 32))
    data = (hashlib.sha256(seed.encode() + i.to_bytes(4, "big")).digest() for i in blocks)
    return b"".join(data)[:length]


def recorded_frames(recording: Any, connection: Any) -> Iterator[Recorded]:
    """Give the frames of a recorded connection, with made-up blobs filled in."""
    blobs = {
        name: blob_bytes(blob["seed"], blob["length"])
        for name, blob in recording.get("blobs", {}).items()
    }

    def part(blob: Any, key: str = "blob") -> bytes:
        return blobs[blob[key]][blob["offset"] : blob["offset"] + blob["length"]]

    for entry in connection["frames"]:
        if "frame" not in entry:
            continue
        frame, decoded = entry["frame"], entry["decoded"]
        if isinstance(frame, dict):
            data = bytes.fromhex(frame["head"]) + part(frame) + bytes.fromhex(frame["tail"])
        else:
            data = bytes.fromhex(frame)
        if "body_blob" in decoded:
            body = part(decoded["body_blob"])
        elif "body_hex" in decoded:
            body = bytes.fromhex(decoded["body_hex"])
        else:
            body = decoded.get("body", "").encode()
        yield Recorded(entry["from"], data, {**decoded, "body": body})


class Listener:
    """Read one side of a conversation, having asked what the other side asked."""

    def __init__(self, side: str) -> None:
        self.connection = Connection(Limits())
        self.acks: list[tuple[int, int, int]] = []
        self._side = side

    def take(self, recorded: Recorded) -> None:
        header = parse_header(recorded.frame)
        decoded = recorded.decoded
        if recorded.side == self._side:
            self._compare(recorded)
        elif decoded["type"] == "MSG" and not decoded.get("part"):
            # It counts from its first frame on: in this order the numbers were given.
            request = self.connection.send_request({}, noreply=bool(header.flags & 0x20))
            self._drain()
            assert request.number == decoded["number"]

    def _compare(self, recorded: Recorded) -> None:
        frame, decoded = recorded.frame, recorded.decoded
        header = parse_header(frame)
        assert header.number == decoded["number"]
        assert header.flags == int(decoded["flags"], 16)
        assert header.flags & TYPE_MASK == TYPES[decoded["type"]]
        pieces = list(self.connection.receive(frame))
        if "bytes" in decoded:
            assert decode_varint(frame, header.payload_start)[0] == decoded["bytes"]
            assert not pieces
        else:
            assert b"".join(piece.data for piece in pieces) == decoded["body"]
            assert pieces[0].is_first == ("properties" in decoded)
            if pieces[0].is_first:
                assert pieces[0].message.properties == dict(decoded["properties"])
        self._drain()

    def _drain(self) -> None:
        for frame in drain(self.connection):
            number, flags, start = parse_header(frame)
            if flags & TYPE_MASK in (4, 5):
                self.acks.append((number, flags, decode_varint(frame, start)[0]))


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_conversation_is_understood(path: Any, side: str) -> None:
    recording = json.loads(path.read_text(encoding="utf-8"))
    for connection in recording["connections"]:
        listener = Listener(side)
        for recorded in recorded_frames(recording, connection):
            listener.take(recorded)


def test_acks_are_those_of_a_real_client() -> None:
    seen = 0
    for path in RECORDED.glob("pull-*.json"):
        recording = json.loads(path.read_text(encoding="utf-8"))
        for connection in recording["connections"]:
            listener = Listener("server")
            acks = []
            for recorded in recorded_frames(recording, connection):
                listener.take(recorded)
                decoded = recorded.decoded
                if recorded.side == "client" and "bytes" in decoded:
                    flags = int(decoded["flags"], 16)
                    acks.append((decoded["number"], flags, decoded["bytes"]))
            assert listener.acks == acks
            seen += len(acks)
    assert seen


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda case: case["name"])
def test_conversation_of_the_vectors_is_understood(conversation: Any, side: str) -> None:
    listener = Listener(side)
    for step in conversation["steps"]:
        frame = bytes.fromhex(step["frame_hex"])
        header = parse_header(frame)
        if step["from"] != side:
            decoded = {"type": step["type"], "number": step["number"]}
            listener.take(Recorded(step["from"], frame, decoded))
            continue
        [piece] = listener.connection.receive(frame)
        assert (header.number, header.flags) == (step["number"], int(step["flags_hex"], 16))
        assert piece.message.properties == dict(step["properties"])
        if "body_json" in step:
            assert json.loads(piece.data) == step["body_json"]
        else:
            assert piece.data == step.get("body_text", "").encode()


# --- two connections, joined -----------------------------------------------------------------


class Draft(NamedTuple):
    """A request to send, and how to answer it."""

    seed: int
    size: int
    is_random: bool
    compressed: bool
    urgent: bool
    noreply: bool
    reply_size: int
    reply_streamed: bool
    reply_compressed: bool


SIZES = st.one_of(
    st.integers(0, 50), st.integers(0, 40_000), st.sampled_from([16_384, 65_536, 300_000])
)
DRAFTS = st.builds(
    Draft,
    seed=st.integers(0, 2**32),
    size=SIZES,
    is_random=st.booleans(),
    compressed=st.booleans(),
    urgent=st.booleans(),
    noreply=st.booleans(),
    reply_size=SIZES,
    reply_streamed=st.booleans(),
    reply_compressed=st.booleans(),
)


def content(seed: int, size: int, is_random: bool) -> bytes:
    random = Random(seed)
    if is_random:
        return random.randbytes(size)
    return (b"%d some text, " % seed * (size // 10 + 1))[:size]


class End:
    """One side: sends requests, answers those of the other side."""

    def __init__(self, name: str, drafts: list[Draft], other_drafts: list[Draft]) -> None:
        self.connection = Connection(Limits())
        self.collector = Collector()
        self.wire: deque[bytes] = deque()  # to the other side
        self.answered: dict[int, bytes] = {}  # our request's index: the reply
        self._drafts = drafts
        self._other_drafts = other_drafts
        self._to_send = deque(range(len(drafts)))
        self._requests: dict[OutgoingMessage, int] = {}
        self._streams: list[tuple[OutgoingMessage, deque[bytes]]] = []

    @property
    def actions(self) -> list[Any]:
        """What can be done now."""
        actions: list[Any] = []
        if self._to_send:
            actions.append(self._send)
        if self.connection.has_output:
            actions.append(self._put_on_wire)
        if self._streams:
            actions.append(self._feed)
        return actions

    def _send(self) -> None:
        index = self._to_send.popleft()
        draft = self._drafts[index]
        message = self.connection.send_request(
            {"Profile": "test", "index": str(index)},
            content(draft.seed, draft.size, draft.is_random),
            compressed=draft.compressed,
            urgent=draft.urgent,
            noreply=draft.noreply,
        )
        self._requests[message] = index

    def _put_on_wire(self) -> None:
        frame = self.connection.frame_to_send()
        assert frame is not None
        assert len(frame) <= 16_384
        self.wire.append(frame)

    def _feed(self) -> None:
        reply, parts = self._streams.pop(0)
        reply.feed(parts.popleft(), not parts)
        if parts:
            self._streams.append((reply, parts))

    def receive(self, frame: bytes) -> None:
        known = len(self.collector.messages)
        self.collector.feed(self.connection, [frame])
        for message, whole in zip(
            self.collector.incoming[known:], self.collector.messages[known:], strict=True
        ):
            if message.type is MessageType.MSG:
                self._answer(message, whole.body)
            else:
                assert message.request is not None
                self.answered[self._requests[message.request]] = whole.body

    def _answer(self, request: IncomingMessage, body: bytes) -> None:
        draft = self._other_drafts[int(request.properties["index"])]
        assert body == content(draft.seed, draft.size, draft.is_random)
        answer = content(draft.seed + 1, draft.reply_size, draft.is_random)
        compressed = draft.reply_compressed
        if not draft.reply_streamed:
            self.connection.send_reply(request, {}, answer, compressed=compressed)
            return
        reply = self.connection.send_reply(request, {}, compressed=compressed, streamed=True)
        if reply is not None:
            parts = deque(answer[at : at + 30_000] for at in range(0, len(answer) + 1, 30_000))
            self._streams.append((reply, parts))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(DRAFTS, max_size=6),
    st.lists(DRAFTS, max_size=6),
    st.randoms(use_true_random=False),
)
def test_two_connections_agree_whatever_the_interleaving(
    left_drafts: list[Draft], right_drafts: list[Draft], random: Random
) -> None:
    left = End("left", left_drafts, right_drafts)
    right = End("right", right_drafts, left_drafts)
    while True:
        actions = left.actions + right.actions
        if left.wire:
            actions.append(lambda: right.receive(left.wire.popleft()))
        if right.wire:
            actions.append(lambda: left.receive(right.wire.popleft()))
        if not actions:
            break
        random.choice(actions)()
    for end, drafts in ((left, left_drafts), (right, right_drafts)):
        assert end.answered == {
            index: content(draft.seed + 1, draft.reply_size, draft.is_random)
            for index, draft in enumerate(drafts)
            if not draft.noreply
        }
        assert (end.connection.awaiting_replies, end.connection.queued_messages) == (0, 0)
