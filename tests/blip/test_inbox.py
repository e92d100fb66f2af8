"""Frames of the peer become messages. Spec: blip.md §2.2, §2.3, §5.2, §7."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.blip.connection import Connection
from edgesync.blip.frame import (
    ACK_OF_REPLY,
    ACK_OF_REQUEST,
    COMPRESSED,
    MORE_COMING,
    NOREPLY,
    PIECE_BYTES,
    URGENT,
    encode_ack,
    parse_header,
)
from edgesync.blip.inbox import Inbox
from edgesync.blip.message import encode_properties
from edgesync.errors import ProtocolError
from edgesync.limits import Limits
from tests.blip.wire import Collector, FramePeer, Message, drain, received, send_requests, vectors

SCENARIOS = vectors("blip_frames.json")["scenarios"]
MESSAGES = [message for scenario in SCENARIOS for message in scenario["messages"]]
BAD_FRAMES = vectors("blip_bad_frames.json")["frames"]
FLOW = vectors("blip_flow.json")

strings = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
properties_strategy = st.dictionaries(strings, strings, max_size=4)


def as_message(case: Any) -> Message:
    body = case["body_text"].encode() if "body_text" in case else bytes.fromhex(case["body_hex"])
    return Message(1, case["type"], dict(case["properties"]), body)


def awaiting(count: int, limits: Limits | None = None) -> Connection:
    connection = Connection(limits or Limits())
    send_requests(connection, count)
    return connection


# --- vectors -------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, COMPRESSED])
@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: f"{case['type']}-{case['number']}")
def test_message_of_the_vectors_arrives_whole(case: Any, flags: int) -> None:
    message = as_message(case)
    frames = FramePeer().message(1, message.properties, message.body, flags=flags | message.type)
    assert received(awaiting(1), frames) == [message]


@pytest.mark.parametrize("flags", [0, COMPRESSED])
@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: f"{case['type']}-{case['number']}")
def test_message_of_the_vectors_arrives_cut_at_every_byte(case: Any, flags: int) -> None:
    message = as_message(case)
    payload = encode_properties(message.properties) + message.body[:300]
    expected = message._replace(body=message.body[:300])
    for place in range(len(payload) + 1):
        frames = FramePeer().cut(1, flags | message.type, payload, [place])
        assert received(awaiting(1), frames) == [expected]
    frames = FramePeer().cut(1, flags | message.type, payload, range(1, len(payload)))
    assert received(awaiting(1), frames) == [expected]


@pytest.mark.parametrize("case", BAD_FRAMES, ids=lambda case: case["name"])
def test_bad_frame_of_the_vectors(case: Any) -> None:
    frames = [case["hex"]] if isinstance(case["hex"], str) else case["hex"]
    connection = Connection(Limits())
    messages: list[Message] = []
    if case["effect"] == "fatal":
        with pytest.raises(ProtocolError):
            received(connection, map(bytes.fromhex, frames))
        with pytest.raises(ProtocolError, match="failed before"):
            connection.receive(bytes.fromhex("010000d202ef8d"))
    else:
        messages = received(connection, map(bytes.fromhex, frames))
    assert [message.body.decode() for message in messages] == (
        [case["message_body_text"]] if "message_body_text" in case else []
    )


def test_ignored_frame_does_not_touch_the_checksum() -> None:
    peer, connection = FramePeer(), Connection(Limits())
    ignored = [bytes.fromhex(case["hex"]) for case in BAD_FRAMES if case["effect"] == "ignored"]
    before = list(peer.message(1, {}, b"before", flags=COMPRESSED))
    after = list(peer.message(2, {}, b"after", flags=COMPRESSED))
    assert [m.body for m in received(connection, [*before, *ignored, *after])] == [
        b"before",
        b"after",
    ]


# --- pieces -----------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, COMPRESSED])
def test_message_of_one_frame_is_one_piece(flags: int) -> None:
    body = bytes(PIECE_BYTES - 1)
    [frame] = FramePeer().message(1, {}, body, flags=flags)
    [piece] = Connection(Limits()).receive(frame)
    assert (piece.data, piece.is_first, piece.is_last) == (body, True, True)


def test_pieces_are_at_most_64_kib() -> None:
    body = os.urandom(1000) * 200
    [frame] = FramePeer().message(1, {"a": "b"}, body, flags=COMPRESSED)
    pieces = list(Connection(Limits()).receive(frame))
    assert max(len(piece.data) for piece in pieces) <= PIECE_BYTES
    assert b"".join(piece.data for piece in pieces) == body
    assert [piece.is_first for piece in pieces] == [True, False, False, False]
    assert [piece.is_last for piece in pieces] == [False, False, False, True]


def test_properties_are_there_with_the_first_piece() -> None:
    peer, connection = FramePeer(), Connection(Limits())
    frames = list(peer.message(1, {"Profile": "rev"}, b"body", cuts=[3, 13]))
    assert list(connection.receive(frames[0])) == []
    [piece] = connection.receive(frames[1])
    assert (piece.message.profile, piece.data, piece.is_first) == ("rev", b"", True)


def test_message_tells_its_flags_and_wire_bytes() -> None:
    [frame] = FramePeer().message(1, {}, b"body", flags=URGENT | NOREPLY | COMPRESSED)
    [piece] = Connection(Limits()).receive(frame)
    message = piece.message
    assert (message.urgent, message.noreply, message.compressed) == (True, True, True)
    assert message.wire_bytes == len(frame) - 2


def test_frame_may_not_follow_one_that_is_not_taken() -> None:
    peer, connection = FramePeer(), Connection(Limits())
    long, short = peer.frame(1, 0, bytes(200_000)), peer.frame(2, 0, b"\x00")
    pieces = connection.receive(long)
    next(pieces)
    with pytest.raises(RuntimeError, match="not taken"):
        connection.receive(short)
    assert len(list(pieces)) == 3
    assert len(list(connection.receive(short))) == 1


@given(
    st.lists(
        st.tuples(
            properties_strategy,
            st.binary(max_size=60),
            st.sampled_from([0, COMPRESSED, URGENT, COMPRESSED | NOREPLY]),
            st.lists(st.integers(0, 80), max_size=6),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_any_cut_and_interleaving_gives_the_same_messages(
    drafts: list[tuple[dict[str, str], bytes, int, list[int]]], random: Any
) -> None:
    peer, connection = FramePeer(), Connection(Limits())
    ready = list(enumerate(drafts, 1))
    under_way: list[Any] = []
    collector = Collector()
    while ready or under_way:
        if ready and (not under_way or random.random() < 0.5):
            number, (properties, body, flags, cuts) = ready.pop(0)
            size = len(encode_properties(properties) + body)
            frames = peer.message(
                number, properties, body, flags=flags, cuts=[min(cut, size) for cut in cuts]
            )
            under_way.append(frames)
            frame = next(frames)
        else:
            frames = random.choice(under_way)
            frame = next(frames, b"")
            if not frame:
                under_way.remove(frames)
                continue
        collector.feed(connection, [frame])
    assert sorted(collector.messages, key=lambda message: message.number) == [
        Message(number, 0, properties, body)
        for number, (properties, body, _, _) in enumerate(drafts, 1)
    ]


def test_frame_that_is_taken_has_nothing_more() -> None:
    inbox = Inbox(Limits())
    frame = FramePeer().frame(1, 0, b"\x00")
    inbox.receive(frame, parse_header(frame))
    with pytest.raises(RuntimeError, match="no frame"):
        inbox.go_on()


# --- numbers ------------------------------------------------------------------------------


def test_request_and_reply_of_one_number_arrive_at_once() -> None:
    peer = FramePeer()
    request = peer.frame(1, MORE_COMING, b"\x00request ")
    reply = peer.frame(1, 1 | MORE_COMING, b"\x00reply ")
    rest = [peer.frame(1, 0, b"ends"), peer.frame(1, 1, b"ends")]
    assert [m.body for m in received(awaiting(1), [request, reply, *rest])] == [
        b"request ends",
        b"reply ends",
    ]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_request_number_must_be_the_next(number: int) -> None:
    peer, connection = FramePeer(), Connection(Limits())
    received(connection, [peer.frame(1, 0, b"\x00")])
    with pytest.raises(ProtocolError, match="follows request 1"):
        received(connection, [peer.frame(number, 0, b"\x00")])


def test_reply_is_accepted_once() -> None:
    peer, connection = FramePeer(), awaiting(1)
    received(connection, [peer.frame(1, 1, b"\x00")])
    with pytest.raises(ProtocolError, match="answers no request"):
        received(connection, [peer.frame(1, 1, b"\x00")])


def test_reply_to_a_noreply_request_is_refused() -> None:
    connection = Connection(Limits())
    connection.send_request({}, noreply=True)
    drain(connection)
    with pytest.raises(ProtocolError, match="answers no request"):
        received(connection, [FramePeer().frame(1, 1, b"\x00")])


def test_reply_to_a_request_half_sent_is_refused() -> None:
    connection = Connection(Limits())
    connection.send_request({}, bytes(20_000))
    connection.frame_to_send()
    with pytest.raises(ProtocolError, match="answers no request"):
        received(connection, [FramePeer().frame(1, 1, b"\x00")])


def test_reply_names_its_request() -> None:
    connection = Connection(Limits())
    first, second = connection.send_request({}), connection.send_request({})
    drain(connection)
    peer, collector = FramePeer(), Collector()
    collector.feed(connection, [peer.frame(2, 1, b"\x00"), peer.frame(1, 2, b"\x00")])
    assert [message.request for message in collector.incoming] == [second, first]


# --- limits ---------------------------------------------------------------------------------


def test_bomb_stops_at_the_limit() -> None:
    peer = FramePeer()
    connection = Connection(Limits(max_message_bytes=300_000))
    frame = peer.frame(1, COMPRESSED, bytes(50_000_000))
    assert len(frame) < 50_000
    taken = 0
    with pytest.raises(ProtocolError, match="more than 300000 bytes"):  # noqa: PT012
        for piece in connection.receive(frame):
            taken += len(piece.data)
    assert 300_000 - PIECE_BYTES <= taken <= 300_000
    with pytest.raises(ProtocolError, match="failed before"):
        connection.receive(frame)


def test_body_is_limited_over_all_frames() -> None:
    peer, connection = FramePeer(), Connection(Limits(max_message_bytes=1000))
    assert received(connection, peer.message(1, {}, bytes(1000), cuts=[500]))
    with pytest.raises(ProtocolError, match="more than 1000 bytes"):
        received(connection, peer.message(2, {}, bytes(1001), cuts=[500]))


def test_reply_has_the_limit_of_its_request() -> None:
    connection = Connection(Limits(max_message_bytes=10))
    connection.send_request({}, max_reply_bytes=100)
    connection.send_request({})
    drain(connection)
    peer = FramePeer()
    assert received(connection, peer.message(1, {}, bytes(100), flags=1))
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        received(connection, peer.message(2, {}, bytes(11), flags=1))


def test_messages_under_way_are_limited() -> None:
    peer = FramePeer()
    connection = awaiting(1, Limits(max_open_messages=2))
    received(connection, [peer.frame(1, MORE_COMING, b""), peer.frame(1, MORE_COMING | 1, b"")])
    received(connection, [peer.frame(2, 0, b"\x00")])
    with pytest.raises(ProtocolError, match="more than 2 messages"):
        received(connection, [peer.frame(3, MORE_COMING, b"")])


def test_properties_of_the_limit_are_taken_and_no_more() -> None:
    peer, connection = FramePeer(), Connection(Limits(max_properties_bytes=1000))
    assert received(connection, peer.message(1, {"key": "v" * 995}, cuts=[500]))
    with pytest.raises(ProtocolError, match="1001 bytes of properties"):
        received(connection, peer.message(2, {"key": "v" * 996}, cuts=[500]))


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_noise_raises_nothing_but_protocol_error(frames: list[bytes]) -> None:
    connection = awaiting(3)
    try:
        received(connection, frames)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            connection.receive(b"")


@given(st.data())
def test_payload_noise_raises_nothing_but_protocol_error(data: st.DataObject) -> None:
    peer, connection = FramePeer(), awaiting(3)
    frames = st.builds(peer.frame, st.integers(0, 4), st.integers(0, 0x7F), st.binary(max_size=30))
    try:
        for _ in range(5):
            list(connection.receive(data.draw(frames)))
    except ProtocolError:
        assert not connection.has_output


@given(st.data())
def test_damaged_frame_raises_nothing_but_protocol_error(data: st.DataObject) -> None:
    peer, connection = FramePeer(), Connection(Limits())
    body = b'{"text": "some text, some text"}'
    frames = list(peer.message(1, {"Profile": "rev"}, body, flags=COMPRESSED, cuts=[20]))
    index = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[index])
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    frames[index] = bytes(frame)
    try:
        messages = received(connection, frames)
    except ProtocolError:
        return
    # Only flags and type are not covered by the checksum.
    assert all(message.body == body for message in messages)


# --- ACKs ------------------------------------------------------------------------------------


def test_acks_follow_the_numbers_of_the_vectors() -> None:
    sender, connection = Connection(Limits()), Connection(Limits())
    sender.send_request({}, bytes(200_000))
    expected = {ack["after_frame"]: ack["ack_byte_count"] for ack in FLOW["receiver_acks"]}
    collector = Collector()
    for index in range(1, len(FLOW["frame_flow_control_bytes"]) + 1):
        frame = sender.frame_to_send()
        assert frame is not None
        collector.feed(connection, [frame])
        ack = [encode_ack(1, ACK_OF_REQUEST, expected[index])] if index in expected else []
        assert drain(connection) == ack
        for frame in ack:
            received(sender, [frame])


@pytest.mark.parametrize("type_", [1, 2])
def test_reply_is_acknowledged_as_such(type_: int) -> None:
    connection = awaiting(1)
    received(connection, [FramePeer().frame(1, type_, bytes(50_000))])
    assert drain(connection) == [encode_ack(1, ACK_OF_REPLY, 50_004)]


def test_later_count_replaces_an_ack_not_sent() -> None:
    peer, connection = FramePeer(), Connection(Limits())
    frames = [peer.frame(1, MORE_COMING, bytes(50_000)) for _ in range(3)]
    received(connection, frames)
    assert drain(connection) == [encode_ack(1, ACK_OF_REQUEST, 150_012)]


def test_messages_below_50000_bytes_are_not_acknowledged() -> None:
    peer, connection = FramePeer(), Connection(Limits())
    received(connection, [peer.frame(1, 0, bytes(49_995)), peer.frame(2, 0, bytes(49_995))])
    assert not connection.has_output
