"""TCP, TLS and WebSocket of the active peer, for one thread."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.active_peer.failures import TRANSIENT_STATUSES, SyncError

CONNECT_TIMEOUT_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 5.0
RECEIVE_BYTES: Final = 256 * 1024
SEND_BYTES: Final = 64 * 1024
USER_AGENT: Final = "EdgesyncActivePeer/1"
STOPPED_CODES: Final = frozenset({1000, 1001})
COME_BACK_CODES: Final = frozenset({1006, 4001})
ABNORMAL: Final = 1006


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How this peer shows who it is, and whom it trusts."""

    user: str | None = None
    password: str = ""
    certificate: tuple[Path, Path] | None = None
    """PEM files: the client's certificate chain and its key."""
    fingerprint: str | None = None
    """SHA-256 of the only server certificate to accept, in hex; any other without one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """To add to the opening request."""

    def all_headers(self) -> dict[str, str]:
        """Return the headers to add, with the password."""
        if self.user is None:
            return dict(self.headers)
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {token}", **self.headers}


class PeerSocket:
    """An open WebSocket. Not blocking: `select` on `fileno`, then `receive` or `flush`.

    Spec: blip.md §1; tls-and-auth.md §2.
    """

    def __init__(self, url: str, protocols: Sequence[int], credentials: Credentials) -> None:
        """Connect.

        Raises:
            SyncError: Nothing answers, the certificate is not the pinned one, or the
                server refuses the upgrade.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise SyncError(f"{url} is no ws:// or wss:// URL")
        self._where = parts.netloc
        self.fingerprint = ""
        self._out = bytearray()
        self._message: list[bytes] = []
        self._ends_after_flush = False
        self.is_at_end = False
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        try:
            plain = socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S)
        except OSError as error:
            raise SyncError(
                f"cannot connect to {parts.netloc}: {error}", is_transient=True
            ) from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket | ssl.SSLSocket = plain
        try:
            if parts.scheme == "wss":
                self._start_tls(plain, parts.hostname, credentials)
            self._websocket = ClientProtocol(
                parse_uri(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/_blipsync"),
                subprotocols=[Subprotocol(f"BLIP_3+CBMobile_{n}") for n in protocols],
            )
            self._upgrade(credentials)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    # --- opening ----------------------------------------------------------------------

    def _start_tls(self, plain: socket.socket, host: str, credentials: Credentials) -> None:
        """Accept any certificate or the pinned one. Spec: tls-and-auth.md §4.6."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if credentials.certificate is not None:
            context.load_cert_chain(*credentials.certificate)
        try:
            secure = context.wrap_socket(plain, server_hostname=host)
        except OSError as error:
            is_cut = isinstance(error, ConnectionError | TimeoutError | ssl.SSLEOFError)
            raise SyncError(
                f"TLS with {self._where} failed: {error}", is_transient=is_cut
            ) from error
        self._socket = secure
        self.fingerprint = hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
        pinned = credentials.fingerprint
        if pinned is not None and pinned.replace(":", "").lower() != self.fingerprint:
            raise SyncError(
                f"the certificate of {self._where} is not the pinned one;"
                f" its SHA-256 fingerprint is {self.fingerprint}"
            )

    def _upgrade(self, credentials: Credentials) -> None:
        websocket = self._websocket
        request = websocket.connect()
        request.headers["User-Agent"] = USER_AGENT
        for name, value in credentials.all_headers().items():
            request.headers[name] = value
        websocket.send_request(request)
        try:
            self._socket.sendall(b"".join(websocket.data_to_send()))
            while websocket.state is State.CONNECTING and websocket.handshake_exc is None:
                data = self._socket.recv(RECEIVE_BYTES)
                websocket.receive_data(data) if data else websocket.receive_eof()
        except OSError as error:
            raise SyncError(
                f"{self._where} broke the connection off before it answered: {error}",
                close_code=ABNORMAL,
                is_transient=True,
            ) from error
        if websocket.handshake_exc is not None:
            raise self._refusal(websocket.handshake_exc)
        response, *self._early = websocket.events_received()
        assert isinstance(response, Response)
        self._check(response)

    def _refusal(self, error: Exception) -> SyncError:
        if isinstance(error, InvalidStatus):
            response = error.response
            text = (response.body or b"").decode("utf-8", "replace").strip()
            status = response.status_code
            return SyncError(
                f"{self._where} answers {status} {text or response.reason_phrase}",
                http_status=status,
                is_transient=status in TRANSIENT_STATUSES,
            )
        if isinstance(error, InvalidMessage):
            return SyncError(
                f"{self._where} does not answer in HTTP", close_code=ABNORMAL, is_transient=True
            )
        assert isinstance(error, InvalidHandshake)
        return SyncError(f"{self._where} upgrades in a wrong way: {error}")

    def _check(self, response: Response) -> None:
        """Be as strict as LiteCore. Spec: blip.md §1.2."""
        for name, wanted in (("Connection", "upgrade"), ("Upgrade", "websocket")):
            found = response.headers[name]
            if (found.lower() if name == "Connection" else found) != wanted:
                raise SyncError(f"{name} of the answer is {found}; clients fail on that")
        if self._websocket.subprotocol is None:
            raise SyncError("the answer names no subprotocol; clients fail on that")

    @property
    def protocol(self) -> str:
        """The subprotocol agreed on."""
        return self._websocket.subprotocol or ""

    # --- moving -----------------------------------------------------------------------

    def fileno(self) -> int:
        """Return what to select on."""
        return self._socket.fileno()

    @property
    def unsent_bytes(self) -> int:
        """What waits for `flush`."""
        return len(self._out)

    @property
    def has_unread(self) -> bool:
        """Whether there is input that `select` does not see."""
        if self._early:
            return True
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def send(self, message: bytes) -> None:
        """Queue a binary message."""
        self._websocket.send_binary(message)
        self._collect()

    def flush(self) -> None:
        """Send what the server takes now."""
        try:
            while self._out:
                sent = self._socket.send(self._out[:SEND_BYTES])
                del self._out[:sent]
            if self._ends_after_flush:
                self._socket.shutdown(socket.SHUT_WR)
                self._ends_after_flush = False
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError:
            self._out.clear()  # the reading side says why

    def receive(self) -> list[bytes]:
        """Return the binary messages that have come. After the last one `is_at_end`."""
        self._read()
        messages: list[bytes] = []
        events = [*self._early, *self._websocket.events_received()]
        self._early = []
        for event in events:
            if isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._message.append(bytes(event.data))
                if event.fin:
                    messages.append(b"".join(self._message))
                    self._message.clear()
        self._collect()
        return messages

    def _read(self) -> None:
        received = 0
        try:
            while received < RECEIVE_BYTES:
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    self._websocket.receive_eof()
                    self.is_at_end = True
                    return
                received += len(data)
                self._websocket.receive_data(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._websocket.receive_eof()
            self.is_at_end = True

    def _collect(self) -> None:
        """Take what the WebSocket wants sent; an empty piece means the end."""
        for data in self._websocket.data_to_send():
            self._out += data
            self._ends_after_flush |= not data

    # --- closing ----------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed."""
        return self.is_at_end or self._websocket.close_rcvd is not None

    def close_error(self) -> SyncError:
        """Say how the server closed. Spec: blip.md §1.5."""
        code = self._websocket.close_code or ABNORMAL
        reason = self._websocket.close_reason or ""
        how = f"closed with {code} {reason}".rstrip()
        if code == ABNORMAL:
            how = "broke the connection off"
            fault = self._websocket.parser_exc
            if fault is not None and not isinstance(fault, EOFError):
                how = f"broke the rules of WebSocket: {fault}"
        return SyncError(
            f"{self._where} {how}", close_code=code, is_transient=code in COME_BACK_CODES
        )

    def close(self, code: int, reason: str = "") -> None:
        """Send a CLOSE, wait for the server's and for the end of the connection."""
        try:
            if self._websocket.state is State.OPEN:
                self._websocket.send_close(code, reason)
                self._collect()
            deadline = time.monotonic() + CLOSE_TIMEOUT_S
            while not self.is_at_end and time.monotonic() < deadline:
                self.flush()
                writers = [self] if self._out else []
                if not self.has_unread:
                    select.select([self], writers, [], max(0.0, deadline - time.monotonic()))
                self.receive()
        finally:
            self.drop()

    @property
    def was_closed_cleanly(self) -> bool:
        """Whether the server answered the CLOSE."""
        return self._websocket.close_rcvd is not None

    def drop(self) -> None:
        """End the connection without a CLOSE, or after it."""
        with contextlib.suppress(OSError):
            self._socket.close()
