"""The stream of bytes below HTTP and WebSocket, plain or encrypted."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final, Protocol

import gevent
from gevent.socket import socket as GeventSocket

from edgesync.limits import MIB

_DRAIN_BYTES: Final = 4 * MIB
_READ_BYTES: Final = 65_536


class Transport(Protocol):
    """A stream that one greenlet reads while another one writes.

    Every failure is an `OSError`; a write that makes no progress for too long
    is a `TimeoutError`. After any of them the stream is only good for `close`.
    """

    def recv(self, max_bytes: int, /) -> bytes:
        """Wait for bytes; return at most `max_bytes`, and none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Wait until the kernel has taken all of `data`."""

    def linger(self, timeout_s: float, /) -> None:
        """End our side, give the peer time to read what was sent, then close."""

    def close(self) -> None:
        """Cut the connection; whoever waits on it gets an error."""


class PlainSocket:
    """A TCP connection without encryption."""

    __slots__ = ("_socket", "_stall_timeout_s", "recv")

    def __init__(self, sock: GeventSocket, stall_timeout_s: float) -> None:
        self._socket = sock
        self._stall_timeout_s = stall_timeout_s
        self.recv = sock.recv  # a layer less for what happens most often

    def sendall(self, data: bytes, /) -> None:
        """Wait until the kernel has taken all of `data`."""
        send_all(self._socket, data, self._stall_timeout_s)

    def linger(self, timeout_s: float, /) -> None:
        """End our side, give the peer time to read what was sent, then close."""
        drain(self._socket, timeout_s)

    def close(self) -> None:
        """Cut the connection; whoever waits on it gets an error."""
        self._socket.close()


def send_all(sock: GeventSocket, data: bytes, stall_timeout_s: float) -> None:
    """Send everything; the timeout starts anew whenever the peer took a byte.

    Raises:
        TimeoutError: Not one byte was taken for `stall_timeout_s`.
        OSError: The connection is gone.
    """
    rest = memoryview(data)
    while rest:
        with gevent.Timeout(stall_timeout_s, TimeoutError):
            sent = sock.send(rest)
        rest = rest[sent:]


def drain(sock: GeventSocket, timeout_s: float) -> None:
    """End our side of a connection, discard what still comes, and close it.

    Closing with unread bytes would make the kernel send RST, on which the peer
    may lose what it has not read yet: a refusal, or a CLOSE with its reason.
    """
    left = _DRAIN_BYTES
    with suppress(OSError), gevent.Timeout(timeout_s, TimeoutError):
        sock.shutdown(socket.SHUT_WR)
        while left > 0 and (data := sock.recv(_READ_BYTES)):
            left -= len(data)
    sock.close()
