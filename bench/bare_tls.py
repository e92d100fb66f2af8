"""The least that an idle TLS connection takes: OpenSSL in memory, two greenlets, nothing of ours.

As a program it is the server: `python -m bench.bare_tls` prints its port.
"""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

import gevent
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import socket as GeventSocket
from OpenSSL import SSL

from bench.service import Process, compiled

CONNECTIONS = 1000
READ_BYTES = 65_536
RECORD_BYTES = 16_384
HELLO = b"x" * 500  # about what a client and a server say until they are in sync


class BareServer(Process):
    """The program below, as a process, and 1,000 clients."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bare_tls"],
            env=compiled(),
            stdout=subprocess.PIPE,
            text=True,
        )
        super().__init__(self._process.pid)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self._clients: list[ssl.SSLSocket] = []

    def connect(self) -> None:
        """Open the connections; each says something and is answered."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        for _ in range(CONNECTIONS):
            client = context.wrap_socket(socket.create_connection(("127.0.0.1", self._port)))
            client.sendall(HELLO)
            client.recv(len(HELLO))
            self._clients.append(client)
        time.sleep(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients:
            client.close()
        self._process.terminate()
        self._process.communicate()


def serve() -> None:
    """Accept until the process is ended."""
    context = _context()
    server = StreamServer(
        ("127.0.0.1", 0), lambda sock, _address: _connection(context, sock), backlog=CONNECTIONS
    )
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()


def _context() -> SSL.Context:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    return context


def _connection(context: SSL.Context, sock: GeventSocket) -> None:
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    gevent.spawn(Event().wait)  # the writer
    while data := _receive(connection, sock):
        connection.sendall(data)
        _flush(connection, sock)


def _receive(connection: SSL.Connection, sock: GeventSocket) -> bytes:
    """Wait for data; the first call makes the handshake."""
    while True:
        try:
            return connection.recv(RECORD_BYTES)
        except SSL.WantReadError:
            _flush(connection, sock)
            if not (data := sock.recv(READ_BYTES)):
                return b""
            connection.bio_write(data)
        except SSL.Error:
            return b""


def _flush(connection: SSL.Connection, sock: GeventSocket) -> None:
    try:
        while True:
            sock.sendall(connection.bio_read(READ_BYTES))
    except SSL.WantReadError:
        return


if __name__ == "__main__":
    serve()
