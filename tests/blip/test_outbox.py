"""Turns, urgency, windows. Spec: blip.md §2.4, §4, §5.1."""

from __future__ import annotations

import os
from typing import Any

import pytest

from edgesync.blip.connection import Connection
from edgesync.blip.frame import (
    ACK_OF_REPLY,
    ACK_OF_REQUEST,
    COMPRESSED,
    MORE_COMING,
    NOREPLY,
    TYPE_MASK,
    URGENT,
    encode_ack,
    parse_header,
)
from edgesync.blip.message import Departure, OutgoingMessage
from edgesync.blip.outbox import Outbox
from edgesync.limits import Limits
from tests.blip.wire import Collector, FramePeer, drain, received, vectors

FLOW = vectors("blip_flow.json")
LARGEST = 16_384


def numbers(connection: Connection, count: int) -> list[int]:
    """Send some frames; return whose they are."""
    frames = [connection.frame_to_send() for _ in range(count)]
    return [parse_header(frame).number for frame in frames if frame is not None]


def streamed_reply(connection: Connection, *, compressed: bool = False) -> OutgoingMessage:
    """Have the peer ask, and begin to answer."""
    collector = Collector()
    collector.feed(connection, FramePeer().message(1, {}))
    reply = connection.send_reply(collector.incoming[0], compressed=compressed, streamed=True)
    assert reply is not None
    return reply


@pytest.mark.parametrize("case", FLOW["queue_example"]["cases"], ids=lambda c: str(c["outbox"]))
def test_urgent_message_takes_its_place(case: Any) -> None:
    outbox = Outbox(lambda _: None)
    names: dict[OutgoingMessage, str] = {}
    for name in case["outbox"]:
        message = OutgoingMessage(0, URGENT if name[0] == "U" else 0, {}, bytes(50_000))
        message.sent_bytes = 100 * name.endswith("*")
        names[message] = name
        # As none is urgent behind another, each goes to the tail.
        outbox.add(message)
    new = OutgoingMessage(0, URGENT, {}, b"")
    names[new] = "U4"
    outbox.add(new)
    assert [names[message] for message in outbox._queue] == case["result"]


def test_big_messages_take_turns() -> None:
    connection = Connection(Limits())
    connection.send_request({}, bytes(40_000))
    connection.send_request({}, bytes(40_000))
    assert numbers(connection, 6) == [1, 2, 1, 2, 1, 2]


def test_small_message_overtakes_a_big_one() -> None:
    connection = Connection(Limits())
    connection.send_request({}, bytes(100_000))
    numbers(connection, 1)
    connection.send_request({}, b"small")
    assert numbers(connection, 3) == [1, 2, 1]


def test_requests_start_in_the_order_they_were_queued() -> None:
    connection = Connection(Limits())
    first = connection.send_request({})
    urgent = connection.send_request({}, urgent=True)
    last = connection.send_request({})
    drain(connection)
    assert (first.number, urgent.number, last.number) == (1, 2, 3)


def test_number_is_given_with_the_first_frame() -> None:
    connection = Connection(Limits())
    message = connection.send_request({}, bytes(20_000))
    assert message.number == 0
    connection.frame_to_send()
    assert (message.number, message.is_sent) == (1, False)
    connection.frame_to_send()
    assert (message.number, message.is_sent) == (1, True)


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_are_at_most_16384_bytes(compressed: bool) -> None:
    connection = Connection(Limits())
    connection.send_request({}, os.urandom(100_000), compressed=compressed)
    frames = drain(connection)
    sizes = [len(frame) for frame in frames]
    assert max(sizes) <= LARGEST
    assert compressed or sizes[:-1] == [LARGEST] * (len(sizes) - 1)


@pytest.mark.parametrize("compressed", [False, True])
def test_frame_before_an_urgent_message_is_at_most_4096_bytes(compressed: bool) -> None:
    connection = Connection(Limits())
    connection.send_request({}, os.urandom(100_000), compressed=compressed)
    connection.send_request({}, os.urandom(100_000), urgent=True)
    frames = [connection.frame_to_send() for _ in range(4)]
    sizes = [len(frame) for frame in frames if frame is not None]
    assert 4000 < sizes[0] <= 4096 < sizes[1] == LARGEST


def test_flags_are_on_every_frame() -> None:
    connection = Connection(Limits())
    connection.send_request({}, bytes(40_000), compressed=True, urgent=True, noreply=True)
    flags = COMPRESSED | URGENT | NOREPLY
    assert [parse_header(frame).flags for frame in drain(connection)] == [
        flags | MORE_COMING,
        flags | MORE_COMING,
        flags,
    ]


# --- windows -----------------------------------------------------------------------------


def test_sender_follows_the_numbers_of_the_vectors() -> None:
    connection = Connection(Limits())
    message = connection.send_request({}, bytes(200_000))
    sizes = [len(frame) - 2 for frame in drain(connection)]
    assert sizes == FLOW["frame_flow_control_bytes"][: FLOW["sender_pauses_after_frame"]]
    assert message.unacked_bytes == FLOW["sender_unacked_when_paused"]
    for ack in FLOW["sender_on_acks"]:
        received(connection, [encode_ack(1, ACK_OF_REQUEST, ack["ack_byte_count"])])
        assert message.unacked_bytes == ack["unacked_afterwards"]
        assert connection.has_output == ack["may_continue"]
    sizes += [len(frame) - 2 for frame in drain(connection)]
    assert sizes == FLOW["frame_flow_control_bytes"]
    assert message.is_sent


def test_paused_message_blocks_no_other() -> None:
    connection = Connection(Limits())
    paused = connection.send_request({}, bytes(200_000))
    drain(connection)
    connection.send_request({}, b"small")
    assert paused.departure is Departure.PAUSED
    assert numbers(connection, 1) == [2]
    assert connection.queued_messages == 1


@pytest.mark.parametrize(
    "ack",
    [
        encode_ack(1, ACK_OF_REPLY, 131_056),  # of another direction
        encode_ack(2, ACK_OF_REQUEST, 131_056),  # of none
        encode_ack(1, ACK_OF_REQUEST, 131_057),  # of more than was sent
        encode_ack(1, ACK_OF_REQUEST, 3_056),  # leaves 128 000
    ],
    ids=["reply", "unknown", "too much", "too little"],
)
def test_ack_does_not_let_a_message_go_on(ack: bytes) -> None:
    connection = Connection(Limits())
    connection.send_request({}, bytes(200_000))
    drain(connection)
    received(connection, [ack])
    assert not connection.has_output


def test_late_ack_is_ignored() -> None:
    connection = Connection(Limits())
    connection.send_request({}, bytes(100_000))
    drain(connection)
    received(connection, [encode_ack(1, ACK_OF_REQUEST, 50_000)])
    assert not connection.has_output


def test_older_ack_does_not_grow_the_window() -> None:
    connection = Connection(Limits())
    message = connection.send_request({}, bytes(200_000))
    drain(connection)
    received(connection, [encode_ack(1, ACK_OF_REQUEST, 131_056)])
    received(connection, [encode_ack(1, ACK_OF_REQUEST, 65_528)])
    assert message.unacked_bytes == 0


def test_acks_go_ahead_of_everything() -> None:
    connection = Connection(Limits())
    connection.send_request({}, urgent=True)
    received(connection, [FramePeer().frame(1, 0, bytes(60_000))])
    frame = connection.frame_to_send()
    assert frame == encode_ack(1, ACK_OF_REQUEST, 60_004)


# --- streamed bodies -------------------------------------------------------------------------


def test_streamed_message_without_data_blocks_nobody() -> None:
    connection = Connection(Limits())
    streamed_reply(connection)
    connection.send_request({}, b"other")
    [frame] = drain(connection)
    assert parse_header(frame).flags & TYPE_MASK == 0
    assert connection.queued_messages == 1


def test_feeding_makes_output() -> None:
    connection = Connection(Limits())
    reply = streamed_reply(connection)
    assert not connection.has_output
    reply.feed(bytes(40_000), False)
    assert connection.has_output


def test_streamed_body_is_held_back_until_its_end_is_known() -> None:
    connection = Connection(Limits())
    reply = streamed_reply(connection)
    reply.feed(bytes(40_000), False)
    drain(connection)
    assert 0 < reply.buffered_bytes <= LARGEST
    reply.feed(b"", True)
    assert len(drain(connection)) == 1
    assert (reply.buffered_bytes, reply.is_sent) == (0, True)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [0, 1, LARGEST - 1, LARGEST, LARGEST + 1, 2 * LARGEST])
def test_streamed_message_never_ends_in_an_empty_frame(size: int, compressed: bool) -> None:
    connection = Connection(Limits())
    reply = streamed_reply(connection, compressed=compressed)
    reply.feed(os.urandom(size), False)
    frames = drain(connection)
    reply.feed(b"", True)
    frames += drain(connection)
    assert all(len(frame) > 6 for frame in frames)
    assert not parse_header(frames[-1]).flags & MORE_COMING


def test_paused_stream_waits_for_its_ack_although_it_is_fed() -> None:
    connection = Connection(Limits())
    reply = streamed_reply(connection)
    reply.feed(bytes(140_000), False)
    drain(connection)
    assert reply.departure is Departure.PAUSED
    reply.feed(bytes(40_000), True)
    assert not connection.has_output
    received(connection, [encode_ack(1, ACK_OF_REPLY, reply.sent_bytes)])
    drain(connection)
    assert reply.is_sent


def test_acknowledged_stream_without_data_waits_for_it() -> None:
    connection = Connection(Limits())
    reply = streamed_reply(connection)
    reply.feed(bytes(140_000), False)
    drain(connection)
    received(connection, [encode_ack(1, ACK_OF_REPLY, reply.sent_bytes)])
    assert reply.departure is Departure.STARVED
    reply.feed(b"end", True)
    drain(connection)
    assert reply.is_sent
