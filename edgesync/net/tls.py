"""TLS for accepted connections, by memory BIO. The only module that imports pyOpenSSL."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from gevent.lock import Semaphore
from gevent.socket import socket as GeventSocket
from OpenSSL import SSL

from edgesync.errors import IdentityError
from edgesync.identity.certificate import Certificate, PrivateKey
from edgesync.limits import KIB, MIB
from edgesync.net.transport import drain, send_all

_CIPHERS_OF_TLS_1_2: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # 1.3 has only modern ones
_RECORD_BYTES: Final = 16 * KIB
_READ_BYTES: Final = 64 * KIB
_CHUNK_BYTES: Final = 128 * KIB  # above what a sender passes at a time, records' overhead included
_MAX_UNSENT_BYTES: Final = MIB
_MAX_ROUNDS_WITHOUT_DATA: Final = 256
_ALERT_LINGER_S: Final = 1.0


class ServerTLS:
    """One identity, ready to encrypt any number of connections.

    OpenSSL freezes a context once it is used: a renewed identity is a new
    object, and the connections of the old one go on with it.

    TLS 1.2 and 1.3. No renegotiation and no compression, as both have a
    history; no resumption, as a resumed session would skip the check of a
    client's certificate.

    Spec: tls-and-auth.md §4.1.
    """

    def __init__(self, chain: Sequence[Certificate], key: PrivateKey) -> None:
        """Take an identity.

        Args:
            chain: The leaf first; all of it is sent to clients, who may show it.
            key: The leaf's.

        Raises:
            IdentityError: The key is not the leaf's, or OpenSSL takes one of them not.
        """
        try:
            self._context = _make_context(chain, key)
        except SSL.Error as error:
            raise IdentityError(f"OpenSSL does not take the identity: {_reason(error)}") from error

    def wrap(self, sock: GeventSocket, stall_timeout_s: float) -> TLSSocket:
        """Make the handshake; the caller bounds its time.

        Raises:
            OSError: The peer went away, or speaks no TLS that we speak; it has
                been told and its socket is closed.
        """
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        tls_socket = TLSSocket(connection, sock, stall_timeout_s)
        tls_socket.shake_hands()
        return tls_socket


class TLSSocket:
    """An encrypted connection; a `Transport`.

    OpenSSL only ever sees memory: `_feed` brings what came, `_flush` sends what
    it made. Anything may make something to send, reading too (the answer to a
    key update, an alert), so two locks keep order:

    * `_writing`: the records of one `sendall` stay together;
    * `_flushing`: one greenlet at a time takes from `_unsent` and sends, in the
      order in which OpenSSL made it. A reader never waits for this lock: who
      holds it sends what was added meanwhile. So a peer that reads nothing
      until we have read it cannot bring both to a standstill.
    """

    def __init__(
        self, connection: SSL.Connection, sock: GeventSocket, stall_timeout_s: float
    ) -> None:
        self._connection = connection
        self._socket = sock
        self._stall_timeout_s = stall_timeout_s
        self._unsent: deque[bytes] = deque()
        self._writing = Semaphore()
        self._flushing = Semaphore()

    def shake_hands(self) -> None:
        """Make the handshake as a server.

        Raises:
            OSError: It failed; the peer was told why and the socket is closed.
        """
        while True:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                self._flush()
                self._feed()
            except SSL.Error as error:
                with suppress(OSError):
                    self._flush()  # the alert
                drain(self._socket, _ALERT_LINGER_S)
                raise ConnectionError(f"no TLS handshake: {_reason(error)}") from error
            else:
                self._flush()
                return

    def recv(self, max_bytes: int, /) -> bytes:
        """Wait for bytes; return at most one record's, and none at the end."""
        wanted = min(max_bytes, _RECORD_BYTES)
        for _ in range(_MAX_ROUNDS_WITHOUT_DATA):
            try:
                return self._connection.recv(wanted)
            except SSL.WantReadError:
                self._flush_unless_busy()
                self._feed()
            except (SSL.ZeroReturnError, SSL.SysCallError):
                return b""  # with close_notify or without
            except SSL.Error as error:
                with suppress(OSError):
                    self._flush_unless_busy()  # the alert
                raise ConnectionError(f"TLS: {_reason(error)}") from error
        raise ConnectionError("TLS: the peer sends everything but data")

    def sendall(self, data: bytes, /) -> None:
        """Wait until the kernel has taken all of `data`, encrypted."""
        with self._writing:
            for start in range(0, len(data), _CHUNK_BYTES):
                try:
                    self._connection.sendall(data[start : start + _CHUNK_BYTES])
                except SSL.Error as error:
                    raise ConnectionError(f"TLS: {_reason(error)}") from error
                self._flush()

    def linger(self, timeout_s: float, /) -> None:
        """End our side, give the peer time to read what was sent, then close."""
        with suppress(SSL.Error, OSError):
            self._connection.shutdown()  # puts close_notify into memory
            self._flush_unless_busy()
        drain(self._socket, timeout_s)

    def close(self) -> None:
        """Cut the connection; whoever waits on it gets an error."""
        self._socket.close()

    def _feed(self) -> None:
        if data := self._socket.recv(_READ_BYTES):
            self._connection.bio_write(data)
        else:
            self._connection.bio_shutdown()

    def _flush(self) -> None:
        self._collect(_CHUNK_BYTES)
        with self._flushing:
            self._send_unsent()

    def _flush_unless_busy(self) -> None:
        self._collect(KIB)
        if self._unsent and self._flushing.acquire(blocking=False):
            try:
                self._send_unsent()
            finally:
                self._flushing.release()
        elif sum(map(len, self._unsent)) > _MAX_UNSENT_BYTES:
            raise ConnectionError("TLS: the peer asks for answers and does not read them")

    def _send_unsent(self) -> None:
        while self._unsent:
            send_all(self._socket, self._unsent.popleft(), self._stall_timeout_s)

    def _collect(self, max_bytes: int) -> None:
        """Take what OpenSSL has made; never waits, so the order is kept."""
        with suppress(SSL.WantReadError):  # there is no more
            while True:
                self._unsent.append(self._connection.bio_read(max_bytes))


def _make_context(chain: Sequence[Certificate], key: PrivateKey) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION
        | SSL.OP_NO_RENEGOTIATION
        | SSL.OP_NO_TICKET
        | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 32 KiB less for every idle connection
    context.set_cipher_list(_CIPHERS_OF_TLS_1_2)
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)
    context.check_privatekey()
    return context


def _reason(error: SSL.Error) -> str:
    """Say what OpenSSL says: its errors carry tuples (library, function, reason)."""
    entries = error.args[0] if error.args else ()
    if isinstance(entries, list | tuple):
        return "; ".join(str(entry[-1]) for entry in entries if entry) or "no reason given"
    return str(error.args[-1])
