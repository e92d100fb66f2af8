"""TLS 1.3 key updates in the middle of transfers, from a client of OpenSSL's own making.

Python's `ssl` cannot ask for them, so OpenSSL is called directly.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from typing import Final

import gevent
import pytest
from gevent.queue import Queue
from gevent.server import StreamServer
from gevent.socket import socket as GeventSocket

from edgesync.net.tls import ServerTLS, TLSSocket
from tests.net.test_tls import in_thread

LIBRARY: Final = find_library("ssl")
TOTAL: Final = 4 * 1024 * 1024
BUFFER: Final = 8192  # small, so that updates meet writes that wait
PARTIAL_WRITES: Final = 3  # SSL_MODE_ENABLE_PARTIAL_WRITE | _ACCEPT_MOVING_WRITE_BUFFER
WANT_READ, WANT_WRITE = 2, 3

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs the library libssl")


class UpdatingClient:
    """Sends and reads at the same time, and asks for new keys again and again."""

    def __init__(self, port: int, update_every: int) -> None:
        self._library = c.CDLL(LIBRARY)
        self._update_every = update_every
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect(("127.0.0.1", port))
        method = self._pointer("TLS_client_method")
        self._context = self._pointer("SSL_CTX_new", method)
        self._call("SSL_CTX_ctrl", self._context, 33, c.c_long(PARTIAL_WRITES), None)
        self._ssl = self._pointer("SSL_new", self._context)
        self._call("SSL_set_fd", self._ssl, self._socket.fileno())
        assert self._call("SSL_connect", self._ssl) == 1
        self._socket.setblocking(False)
        self.updates = 0
        self._error = 0

    def talk(self, data: bytes) -> bytes:
        """Send `data` and return as much as came back."""
        sent, received = 0, bytearray()
        buffer = c.create_string_buffer(65_536)
        while len(received) < len(data):
            wants_write = sent < len(data) or self._error == WANT_WRITE
            writers = [self._socket] if wants_write else []
            assert any(select.select([self._socket], writers, [], 10)), "stalled"
            if sent >= self.updates * self._update_every and sent < len(data):
                assert self._call("SSL_key_update", self._ssl, 1) == 1  # both directions
                self.updates += 1
            rest = data[sent : sent + 16_384]
            sent += max(0, self._do("SSL_write", rest, len(rest))) if rest else 0
            while (count := self._do("SSL_read", buffer, len(buffer))) > 0:
                received += buffer.raw[:count]
        return bytes(received)

    def close(self) -> None:
        self._library.SSL_free(self._ssl)
        self._library.SSL_CTX_free(self._context)
        self._socket.close()

    def _do(self, name: str, buffer: object, size: int) -> int:
        done = self._call(name, self._ssl, buffer, size)
        if done <= 0:
            self._error = self._call("SSL_get_error", self._ssl, done)
            assert self._error in (WANT_READ, WANT_WRITE)
        return done

    def _call(self, name: str, *arguments: object) -> int:
        function = getattr(self._library, name)
        function.restype = c.c_int
        done: int = function(*arguments)
        return done

    def _pointer(self, name: str, *arguments: c.c_void_p) -> c.c_void_p:
        function = getattr(self._library, name)
        function.restype = c.c_void_p
        return c.c_void_p(function(*arguments))


def send_all(stream: TLSSocket, queue: Queue[bytes]) -> None:
    while data := queue.get():
        stream.sendall(data)


@contextmanager
def echoing(tls: ServerTLS) -> Iterator[int]:
    """Serve what sends everything back; one greenlet reads, one writes."""

    def handle(sock: GeventSocket, _address: object) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = tls.wrap(sock, 10)
        queue: Queue[bytes] = Queue(16)
        writer = gevent.spawn(send_all, stream, queue)
        while data := stream.recv(65_536):
            queue.put(data)
        queue.put(b"")
        writer.join()
        stream.close()

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    yield int(server.server_port or 0)
    server.stop(timeout=1)


@pytest.mark.parametrize("update_every", [16_384, 100_000])
def test_no_byte_is_lost_while_keys_change(tls: ServerTLS, update_every: int) -> None:
    data = random.Random(1).randbytes(TOTAL)

    def talk(port: int) -> tuple[bytes, int]:
        client = UpdatingClient(port, update_every)
        received = client.talk(data)
        client.close()
        return hashlib.sha256(received).digest(), client.updates

    before = time.monotonic()
    with echoing(tls) as port:
        digest, updates = in_thread(lambda: talk(port))
    assert digest == hashlib.sha256(data).digest()
    assert updates == -(-TOTAL // update_every)
    assert time.monotonic() - before < 30
