"""The outbox: messages of ours take turns and become frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from edgesync.blip.frame import (
    DEFLATE_RESERVE,
    MORE_COMING,
    NOREPLY,
    TYPE_MASK,
    URGENT,
    FrameEncoder,
    capacity,
    header_bytes,
)
from edgesync.blip.message import LARGEST_FRAME_BYTES, Departure, OutgoingMessage
from edgesync.limits import KIB

HURRIED_FRAME_BYTES: Final = 4 * KIB
"""A frame that an urgent message waits behind. Spec: blip.md §2.4."""
ALWAYS_FITS_BYTES: Final = HURRIED_FRAME_BYTES - DEFLATE_RESERVE
PAUSE_AT_BYTES: Final = 128_000
"""Unacknowledged bytes of a message. Spec: blip.md §5.1."""


_QUEUED: Final = Departure.QUEUED
_SENT: Final = Departure.SENT


class Outbox:
    """Queue messages, cut them, and make the frames of one direction.

    All in the queue have a frame to send; those without wait aside (`Departure`).

    Spec: blip.md §2.2, §2.4, §4, §5.1.
    """

    def __init__(self, request_sent: Callable[[OutgoingMessage], None]) -> None:
        """Call `request_sent` for each request that wants a reply, when it has left."""
        self._request_sent = request_sent
        self._encoder = FrameEncoder()
        self._queue: deque[OutgoingMessage] = deque()
        self._last_request = 0
        # Messages whose first frame has left and last has not: (is it a reply, number).
        self._departing: dict[tuple[bool, int], OutgoingMessage] = {}
        self.unsent_messages = 0
        self.unsent_requests = 0  # those that want a reply

    @property
    def has_frame(self) -> bool:
        """Whether `next_frame` would return one."""
        return bool(self._queue)

    def add(self, message: OutgoingMessage) -> None:
        """Queue a message, or keep it until it has a frame."""
        message.on_data = self._queue_again
        self.unsent_messages += 1
        if _wants_reply(message):
            self.unsent_requests += 1
        if message.has_frame:
            self._queue_again(message)

    def next_frame(self) -> bytes | None:
        """Make one frame of the message at the head. Spec: blip.md §4."""
        queue = self._queue
        if not queue:
            return None
        message = queue.popleft()
        if not message.number:
            self._last_request += 1
            message.number = self._last_request
        number, flags, size = message.number, message.flags, ALWAYS_FITS_BYTES
        if message.buffered_bytes > size:
            is_hurried = bool(queue) and queue[0].flags & URGENT and not flags & URGENT
            size = HURRIED_FRAME_BYTES if is_hurried else LARGEST_FRAME_BYTES
            size = capacity(number, flags, size)
        payload, is_last = message.take(size)
        if is_last:
            frame = self._encoder.encode(number, flags, payload)
            self._finish(message)
        else:
            frame = self._encoder.encode(number, flags | MORE_COMING, payload)
            self._set_aside(message, len(frame) - header_bytes(number))
        return frame

    def end(self) -> None:
        """Forget what has not left; nothing will be sent any more."""
        self._queue.clear()
        self._departing.clear()

    def rest(self) -> None:
        """Free what only speed needs, as nothing will be sent for a while."""
        self._encoder.rest()

    def receive_ack(self, is_reply: bool, number: int, received_bytes: int) -> None:
        """Let a message go on whose bytes have come; ignore ACKs of others. Spec: blip.md §5.1."""
        message = self._departing.get((is_reply, number))
        if message is None or received_bytes > message.sent_bytes:
            return
        message.unacked_bytes = min(message.unacked_bytes, message.sent_bytes - received_bytes)
        if message.departure is Departure.PAUSED and message.unacked_bytes < PAUSE_AT_BYTES:
            self._queue_or_starve(message)

    def _finish(self, message: OutgoingMessage) -> None:
        message.departure = _SENT
        message.on_data = None
        self.unsent_messages -= 1
        if message.sent_bytes:
            del self._departing[_key(message)]
        if _wants_reply(message):
            self.unsent_requests -= 1
            self._request_sent(message)

    def _set_aside(self, message: OutgoingMessage, counted_bytes: int) -> None:
        """Put a message back that is not at its end, or let it wait for an ACK or for data."""
        if not message.sent_bytes:
            self._departing[_key(message)] = message
        message.sent_bytes += counted_bytes
        message.unacked_bytes += counted_bytes
        if message.unacked_bytes >= PAUSE_AT_BYTES:
            message.departure = Departure.PAUSED
        else:
            self._queue_or_starve(message)

    def _queue_or_starve(self, message: OutgoingMessage) -> None:
        if message.has_frame:
            self._queue_again(message)
        else:
            message.departure = Departure.STARVED

    def _queue_again(self, message: OutgoingMessage) -> None:
        message.departure = _QUEUED
        if message.flags & URGENT and len(self._queue) > 1:
            self._queue.insert(self._urgent_place(message), message)
        else:
            self._queue.append(message)

    def _urgent_place(self, message: OutgoingMessage) -> int:
        """Find the place of an urgent message among at least two. Spec: blip.md §4."""
        queue = self._queue
        for place in range(len(queue) - 1, -1, -1):
            other = queue[place]
            if other.flags & URGENT:
                return min(place + 2, len(queue))
            if not message.sent_bytes and not other.sent_bytes:
                return place + 1
        return 1


def _key(message: OutgoingMessage) -> tuple[bool, int]:
    return message.flags & TYPE_MASK != 0, message.number


def _wants_reply(message: OutgoingMessage) -> bool:
    return not message.flags & (TYPE_MASK | NOREPLY)
