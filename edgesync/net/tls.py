"""TLS for accepted connections, by memory BIO. The only module that imports pyOpenSSL."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from gevent.lock import Semaphore
from gevent.socket import socket as GeventSocket
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags

from edgesync.errors import IdentityError
from edgesync.identity.certificate import Certificate, PrivateKey
from edgesync.identity.trust import CANNOT_BE_READ, MAX_CHAIN
from edgesync.limits import KIB, MIB
from edgesync.net.transport import drain, send_all

_log = logging.getLogger(__name__)

ClientRefusal = Callable[[Sequence[Certificate], datetime], str | None]
"""Says why a client with this chain, leaf first, may not come in now, for the log; None if
it may. Asked inside the handshake, where nothing may wait."""

_CIPHERS_OF_TLS_1_2: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # 1.3 has only modern ones
_RECORD_BYTES: Final = 16 * KIB
_READ_BYTES: Final = 64 * KIB
_CHUNK_BYTES: Final = 128 * KIB  # above what a sender passes at a time, records' overhead included
_MAX_UNSENT_BYTES: Final = MIB
_MAX_ROUNDS_WITHOUT_DATA: Final = 256
_ALERT_LINGER_S: Final = 1.0
# What OpenSSL says of the last certificate of a chain, if it knows no issuer of it: that it is
# self-signed, alone or not, or that its issuer was not found. X509_V_ERR_...
_IS_THE_LAST: Final = frozenset((18, 19, 20, 21))
_CHAIN_TOO_LONG: Final = 22


class ServerTLS:
    """One identity, ready to encrypt any number of connections.

    OpenSSL freezes a context once it is used: a renewed identity is a new
    object, and the connections of the old one go on with it.

    TLS 1.2 and 1.3. No renegotiation and no compression, as both have a
    history; no resumption, as a resumed session would skip the check of a
    client's certificate. TLS 1.2 alone if clients need a certificate: in 1.3 a
    client learns of its refusal after its handshake, and takes it for a broken
    connection that is worth another try.

    Spec: tls-and-auth.md §4.1, §4.7.
    """

    def __init__(
        self,
        chain: Sequence[Certificate],
        key: PrivateKey,
        client_refusal: ClientRefusal | None = None,
    ) -> None:
        """Take an identity.

        Args:
            chain: The leaf first; all of it is sent to clients, who may show it.
            key: The leaf's.
            client_refusal: Clients need a certificate, and this decides about it,
                alone; None: they are not asked for one.

        Raises:
            IdentityError: The key is not the leaf's, or OpenSSL takes one of them not.
        """
        self._client_refusal = client_refusal
        try:
            self._context = _make_context(chain, key)
            if client_refusal is not None:
                _want_certificates(self._context)
        except SSL.Error as error:
            raise IdentityError(f"OpenSSL does not take the identity: {_reason(error)}") from error

    def wrap(self, sock: GeventSocket, stall_timeout_s: float) -> TLSSocket:
        """Make the handshake; the caller bounds its time.

        Raises:
            OSError: The peer went away, speaks no TLS that we speak, or has no
                certificate that lets it in; it has been told and its socket is closed.
        """
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        check = None if self._client_refusal is None else _ClientCheck(self._client_refusal)
        connection.set_app_data(check)
        tls_socket = TLSSocket(connection, sock, stall_timeout_s)
        tls_socket.shake_hands(check)
        return tls_socket


class _ClientCheck:
    """Decides about the certificate of one client, once, with its whole chain.

    OpenSSL's own verifier is made to find a fault in each certificate. Of the
    last one it does not know the issuer, as it trusts nobody; this it says
    first. Of the others it has no revocation list, which it says from the leaf
    up. All this before it computes a signature; so a refusal costs none, and
    reaches the client as the alert that belongs to these faults, `unknown_ca`.

    Attributes:
        chain: What the client sent, leaf first, as far as it makes a chain.
        refusal: Why the client may not come in; None once it may.
    """

    def __init__(self, refusal: ClientRefusal) -> None:
        self._decide = refusal
        self._found: dict[int, Certificate] = {}  # by depth
        self._length = 0  # of the chain, when it is known
        self._is_decided = False
        self.chain: tuple[Certificate, ...] = ()
        self.refusal: str | None = "its certificate was not looked at"

    @property
    def is_refused(self) -> bool:
        """Whether that is what ended the handshake."""
        return self._is_decided and self.refusal is not None

    def look_at(self, certificate: X509, fault: int, depth: int) -> bool:
        """Return whether OpenSSL may go on; must not wait."""
        if not self._is_decided:
            try:
                self._look_at(certificate, fault, depth)
            except Exception:  # noqa: BLE001 - OpenSSL is above us, and whoever sent this is a stranger
                _log.exception("a client's certificate could not be judged")
                self._is_decided, self.refusal = True, "its certificate could not be judged"
        return not self._is_decided or self.refusal is None

    def _look_at(self, certificate: X509, fault: int, depth: int) -> None:
        if fault == _CHAIN_TOO_LONG or depth >= MAX_CHAIN:
            self._is_decided, self.refusal = True, f"it sent more than {MAX_CHAIN} certificates"
            return
        if depth not in self._found:
            try:
                self._found[depth] = certificate.to_cryptography()
            except CANNOT_BE_READ:
                self._is_decided, self.refusal = True, "a certificate is malformed"
                return
        if fault in _IS_THE_LAST:
            self._length = depth + 1
        if len(self._found) == self._length:
            self._is_decided = True
            self.chain = tuple(self._found[each] for each in range(self._length))
            self.refusal = self._decide(self.chain, datetime.now(UTC))


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
        self.client_chain: tuple[Certificate, ...] = ()
        self._late_error: SSL.Error | None = None

    def shake_hands(self, check: _ClientCheck | None) -> None:
        """Make the handshake as a server.

        Args:
            check: Decides about the client's certificate; None: it needs none.

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
                raise ConnectionError(_why_no_handshake(error, check)) from error
            else:
                break
        if check is not None:
            if check.refusal is not None:  # whatever OpenSSL says, nobody was let in
                self.close()
                raise ConnectionError(f"the client was refused: {check.refusal}")
            self.client_chain = check.chain
        self._flush()

    def recv(self, max_bytes: int, /) -> bytes:
        """Wait for bytes; return what has come of them, and none at the end."""
        wanted = min(max_bytes, _RECORD_BYTES)
        for _ in range(_MAX_ROUNDS_WITHOUT_DATA):
            try:
                return self._with_more(self._recv_record(wanted), max_bytes)
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

    def _recv_record(self, max_bytes: int) -> bytes:
        late_error, self._late_error = self._late_error, None
        if late_error is not None:
            raise late_error
        return self._connection.recv(max_bytes)

    def _with_more(self, data: bytes, max_bytes: int) -> bytes:
        """Add the records that have come along: clients put each message into one of its own.

        An error behind them is for the next call.
        """
        records = [data]
        room = max_bytes - len(data)
        while room >= _RECORD_BYTES:
            try:
                records.append(self._connection.recv(_RECORD_BYTES))
                room -= len(records[-1])
            except SSL.WantReadError:  # there are no more
                break
            except SSL.Error as error:
                self._late_error = error.with_traceback(None)  # which would keep `records`
                break
        return b"".join(records)

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


def _want_certificates(context: SSL.Context) -> None:
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    context.set_verify_depth(MAX_CHAIN)
    store = context.get_cert_store()
    assert store is not None
    # There are no lists, which is a fault of every certificate: see `_ClientCheck`.
    store.set_flags(X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL)


def _verify(connection: SSL.Connection, certificate: X509, fault: int, depth: int, _: int) -> bool:
    check = connection.get_app_data()
    return isinstance(check, _ClientCheck) and check.look_at(certificate, fault, depth)


def _why_no_handshake(error: SSL.Error, check: _ClientCheck | None) -> str:
    if check is not None and check.is_refused:
        return f"the client was refused: {check.refusal}"
    return f"no TLS handshake: {_reason(error)}"


def _reason(error: SSL.Error) -> str:
    """Say what OpenSSL says: its errors carry tuples (library, function, reason)."""
    entries = error.args[0] if error.args else ()
    if isinstance(entries, list | tuple):
        return "; ".join(str(entry[-1]) for entry in entries if entry) or "no reason given"
    return str(error.args[-1])
