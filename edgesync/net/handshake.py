"""The opening request: parse it, authenticate, route, upgrade, or refuse with a reason."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import gevent
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from edgesync.identity.certificate import Certificate, readable_subject_of
from edgesync.limits import Limits
from edgesync.net.passwords import Credentials, PasswordChecks, Verdict, parse_basic
from edgesync.net.transport import Transport
from edgesync.net.websocket import PeerSocket

_log = logging.getLogger(__name__)

_READ_BYTES: Final = 8192
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_LINGER_S: Final = 2.0
_RETRY_AFTER_S: Final = 10
_KEY_BYTES: Final = 16
_MAX_DATABASE_NAME_BYTES: Final = 240
_VERSION: Final = "13"
_TLS_HANDSHAKE: Final = b"\x16"  # the first byte of a ClientHello
_SYNC: Final = "/_blipsync"
_UPGRADE: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", _VERSION))

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HandshakeRules:
    """Who may connect, to what."""

    database: str
    """The name in the URL."""
    subprotocols: tuple[str, ...]
    """The names we serve; the client's order decides."""
    authenticate: Callable[[Credentials], bool] | None
    """Asked about passwords in a thread of gevent's pool, so that only its own
    connection waits for it; not asked if the client names nobody, who is
    refused. Must not raise. None: no password is needed."""
    product: str
    """For the `Server` header: edgesync/<version>."""


class Peer(NamedTuple):
    """Who is at the other end of a connection that was accepted."""

    address: str
    port: int
    user: str | None  # None unless it was authenticated
    certificate_subject: str | None
    user_agent: str
    subprotocol: str
    correlation_id: str
    is_tls: bool


class Client(NamedTuple):
    """Who has connected, as far as TCP and TLS tell."""

    address: str
    port: int
    is_tls: bool
    certificates: tuple[Certificate, ...]  # for which it was let in, leaf first


class Place(NamedTuple):
    """A connection's place among those that are served."""

    take: Callable[[], str | None]  # returns why it cannot be had, if so
    give_back: Callable[[], None]  # harmless without one


class UpgradeRequest(NamedTuple):
    """What a client asks for."""

    method: str
    version: str  # HTTP/1.1
    target: str  # as sent: path and query
    headers: Mapping[str, str]  # by lower-case name; repeated ones joined with commas
    address: str
    port: int
    credentials: Credentials | None


class Refusal(NamedTuple):
    """An answer other than 101."""

    status: str  # with the reason phrase, which is what 3.x clients show
    text: str  # what 4.x clients show
    headers: Headers = ()


_NOT_AUTHENTIC: Final = {
    Verdict.WRONG: Refusal(
        "401 Unauthorized",
        "A valid user name and password are needed",
        (("WWW-Authenticate", 'Basic charset="UTF-8"'),),
    ),
    # Clients take it for transient, and come again.
    Verdict.NOT_NOW: Refusal(
        "429 Too Many Requests",
        "Too many wrong passwords came from this address; try again later",
        (("Retry-After", str(_RETRY_AFTER_S)),),
    ),
}
_TOO_LARGE: Final = Refusal(
    "431 Request Header Fields Too Large", "The headers are too many or too large"
)


class _BadHead(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status)
        self.refusal = refusal


def find_refusal(request: UpgradeRequest, rules: HandshakeRules) -> Refusal | None:
    """Check a request of a client that is authenticated; None if it may be upgraded.

    Spec: tls-and-auth.md §1, §2.
    """
    if request.method != "GET":
        return Refusal("405 Method Not Allowed", "Only GET is served here", (("Allow", "GET"),))
    return _check_path(request, rules.database) or _check_upgrade(request, rules.subprotocols)


def choose_subprotocol(offered: str, served: tuple[str, ...]) -> str | None:
    """Return the first name of the client's list that we serve. Spec: blip.md §1.3."""
    names = (name.strip() for name in offered.split(","))
    return next((name for name in names if name in served), None)


class PeerHandler(WebSocketHandler):  # type: ignore[misc]  # gevent-websocket has no types
    """Serve one request of one connection.

    What is corrected in the handlers of gevent-websocket and pywsgi, each
    point tested:

    * the head is read here, under `Limits`: 15 s, bytes of the request line
      and of the headers, number of headers; bytes after it are not lost;
    * the subprotocol is an exact name, the first of the client's that we
      serve, and a client that offers none of ours is refused;
    * refusals have a body, `Date` and `Server`, are read by the client before
      TCP ends, and end the connection; 101 has `Server` and X-Correlation-Id;
    * a body beside the upgrade is refused: its bytes would be read as frames;
    * bad input is one line in the log, not a traceback on standard error.

    Spec: tls-and-auth.md §2; blip.md §1.1 to §1.3.
    """

    def __init__(
        self,
        transport: Transport,
        client: Client,
        server: WSGIServer,
        *,
        rules: HandshakeRules,
        limits: Limits,
        passwords: PasswordChecks | None,
        place: Place,
        serve: Callable[[PeerSocket, Peer], None],
    ) -> None:
        """Take a connection.

        Args:
            transport: Plain or encrypted.
            client: Who is at its other end.
            server: pywsgi's server.
            rules: Who may connect.
            limits: Of the request.
            passwords: Checks them; None: no password is needed.
            place: Taken when the request is there, given back when it is refused.
            serve: Has the connection after the upgrade; returns at its end.
        """
        super().__init__(transport, (client.address, client.port), server, rfile=BytesIO())
        self._client = client
        self._rules = rules
        self._limits = limits
        self._passwords = passwords
        self._place = place
        self._serve = serve
        self._early = b""  # what came after the head
        self._peer: Peer | None = None

    def handle(self) -> None:
        """Serve the one request, then end the connection.

        Raises:
            OSError: The connection was lost before the upgrade.
        """
        try:
            self.handle_one_request()
        finally:
            self.socket.close()

    def handle_one_request(self) -> None:
        """Read the head, then let pywsgi parse it and answer."""
        self.environ: dict[str, str] = {}
        self.close_connection = True
        try:
            self.rfile = BytesIO(self._read_head())
            super().handle_one_request()
        except _BadHead as bad:
            self._answer(bad.refusal)

    def read_request(self, raw_requestline: str) -> bool:
        """Parse as pywsgi does, but for the two things it is too liberal in."""
        parsed = bool(super().read_request(raw_requestline))
        if self.request_version != "HTTP/1.1":
            raise ValueError("HTTP/1.1 is needed")
        return parsed

    def handle_one_response(self) -> None:
        """Refuse or upgrade; pywsgi's own would print what goes wrong."""
        try:
            self.run_application()
        except OSError:
            if self._peer is None:
                raise
            _log.debug("%s: lost while 101 was sent", self._who)

    def upgrade_websocket(self) -> list[bytes] | None:
        """Decide; either start a refusal and return its body, or start the 101."""
        request = self._request()
        if (full := self._place.take()) is not None:
            retry = (("Retry-After", str(_RETRY_AFTER_S)),)
            return self.refuse(Refusal("503 Service Unavailable", full, retry))
        if (stranger := self._find_stranger(request)) is not None:
            return self.refuse(stranger)
        if (refusal := find_refusal(request, self._rules)) is not None:
            return self.refuse(refusal)
        self._peer = self._make_peer(request)
        self._accept(request.headers["sec-websocket-key"], self._peer)
        return None

    def run_websocket(self) -> None:
        """Hand the connection over until it ends."""
        assert self._peer is not None
        self.environ.clear()  # of no use any more, and the connection may last for days
        self.headers = None
        self.rfile = BytesIO()
        try:
            self._serve(self.websocket, self._peer)
        finally:
            self.websocket.drop()  # harmless after a proper end

    def refuse(self, refusal: Refusal) -> list[bytes]:
        """Start the answer; return its body."""
        # Of guesses that are not looked at, a warning tells once.
        level = logging.DEBUG if refusal == _NOT_AUTHENTIC[Verdict.NOT_NOW] else logging.INFO
        _log.log(level, "%s: %s: %s", self._who, refusal.status, refusal.text)
        body = f"{refusal.text}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            ("Server", self._rules.product),
            *refusal.headers,
        ]
        self.start_response(refusal.status, headers)
        return [b"" if self.command == "HEAD" else body]

    def process_result(self) -> None:
        """Send a refusal so that it is read, even by a client that still sends."""
        with gevent.Timeout(self._limits.request_timeout_s, TimeoutError):
            super().process_result()
        self._place.give_back()  # others need the place
        self.socket.linger(_LINGER_S)

    def log_request(self) -> None:
        """Do nothing: refusals are logged when made, sessions by themselves."""

    @property
    def logger(self) -> logging.Logger:
        """The module's; gevent-websocket would make one that prints."""
        return _log

    @property
    def _who(self) -> str:
        return f"{self._client.address}:{self._client.port}"

    def _handle_client_error(self, ex: Exception) -> None:
        """Answer what pywsgi or http.client cannot parse; pywsgi's hook for this."""
        if isinstance(ex, HTTPException):
            self._answer(_TOO_LARGE)
        else:
            self._answer(Refusal("400 Bad Request", "This is no HTTP/1.1 request"))

    def _answer(self, refusal: Refusal) -> None:
        self.headers_sent = False
        self.result = self.refuse(refusal)
        self.process_result()

    def _read_head(self) -> bytes:
        """Read up to the empty line that ends the headers.

        Raises:
            OSError: The client went away, or never said anything.
            _BadHead: It said something that will not become a request.
        """
        head = bytearray()
        with suppress(gevent.Timeout), gevent.Timeout(self._limits.request_timeout_s):
            while True:
                if not (data := self.socket.recv(_READ_BYTES)):
                    raise ConnectionError("the client left before it asked for anything")
                searched = max(0, len(head) - 2)
                head += data if head else data.lstrip(b"\r\n")
                _check_beginning(head, self._limits)
                if (end := _END_OF_HEAD.search(head, searched)) is not None:
                    self._early = bytes(head[end.end() :])
                    del head[end.end() :]
                    _check_headers(head, self._limits)
                    return bytes(head)
        if not head:
            raise TimeoutError("the client asked for nothing")
        raise _BadHead(Refusal("408 Request Timeout", "The request took too long"))

    def _request(self) -> UpgradeRequest:
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in self.environ.items()
            if name.startswith("HTTP_") or name == "CONTENT_LENGTH"
        }
        return UpgradeRequest(
            self.command,
            self.request_version,
            self.path,
            headers,
            self._client.address,
            self._client.port,
            parse_basic(headers.get("authorization", "")),
        )

    def _find_stranger(self, request: UpgradeRequest) -> Refusal | None:
        """Refuse who has no right password, if one is needed."""
        if self._passwords is None:
            return None
        verdict = self._passwords.check(request.address, request.credentials)
        return _NOT_AUTHENTIC.get(verdict)

    def _make_peer(self, request: UpgradeRequest) -> Peer:
        certificates = self._client.certificates
        is_user = self._passwords is not None and request.credentials is not None
        offered = request.headers.get("sec-websocket-protocol", "")
        return Peer(
            request.address,
            request.port,
            request.credentials.user if is_user and request.credentials else None,
            readable_subject_of(certificates[0]) if certificates else None,
            _printable(request.headers.get("user-agent", "")),
            choose_subprotocol(offered, self._rules.subprotocols) or "",
            secrets.token_hex(8),
            self._client.is_tls,
        )

    def _accept(self, key: str, peer: Peer) -> None:
        digest = hashlib.sha1((key + self.GUID).encode("latin-1")).digest()  # noqa: S324
        headers = [
            ("Upgrade", "websocket"),  # clients compare these two to the letter
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", base64.b64encode(digest).decode()),
            ("Sec-WebSocket-Protocol", peer.subprotocol),
            ("Server", self._rules.product),
            ("X-Correlation-Id", peer.correlation_id),
        ]
        self.start_response("101 Switching Protocols", headers)
        self.websocket = PeerSocket(self.socket, self._limits, self._early)


def _check_beginning(head: bytearray, limits: Limits) -> None:
    """Check what has come of a head so far; cheap, as it may come byte by byte."""
    if head.startswith(_TLS_HANDSHAKE):
        raise _BadHead(Refusal("400 Bad Request", "TLS is not enabled on this port"))
    if head and not head[:1].isalpha():
        raise _BadHead(Refusal("400 Bad Request", "This is no HTTP request"))
    line_end = head.find(b"\n")
    if (line_end if line_end >= 0 else len(head)) > limits.max_request_line_bytes:
        raise _BadHead(Refusal("414 URI Too Long", "The request line is too long"))
    if len(head) > limits.max_request_line_bytes + limits.max_header_bytes + _READ_BYTES:
        raise _BadHead(_TOO_LARGE)


def _check_headers(head: bytearray, limits: Limits) -> None:
    """Check a head that is complete."""
    line_end = head.find(b"\n")
    count = head.count(b"\n", line_end + 1) - 1  # without the empty line
    if len(head) - line_end > limits.max_header_bytes or count > limits.max_headers:
        raise _BadHead(_TOO_LARGE)


def _check_path(request: UpgradeRequest, database: str) -> Refusal | None:
    path = request.target.partition("?")[0]
    name = path[1 : -len(_SYNC)] if path.startswith("/") and path.endswith(_SYNC) else ""
    if not name or name.startswith("_") or "/" in name:
        if _asks_for_websocket(request.headers):
            return Refusal("403 Forbidden", "No upgrade available")
        return Refusal("404 Not Found", "Nothing is served under this path")
    try:
        decoded = unquote_to_bytes(name.encode("latin-1")).decode()
    except UnicodeDecodeError:
        decoded = ""
    if not _is_database_name(decoded):
        return Refusal("400 Bad Request", "Illegal database name")
    return None if decoded == database else Refusal("404 Not Found", "No such database")


def _is_database_name(name: str) -> bool:
    """Say whether some client could have a database of that name. Spec: documents.md §7."""
    size = len(name.encode())
    return 0 < size <= _MAX_DATABASE_NAME_BYTES and name.isprintable() and "/" not in name


def _check_upgrade(request: UpgradeRequest, served: tuple[str, ...]) -> Refusal | None:
    headers = request.headers
    if not _asks_for_websocket(headers):
        return Refusal("426 Upgrade Required", "Only WebSocket is served here", _UPGRADE)
    if headers.get("sec-websocket-version", "").strip() != _VERSION:
        return Refusal("426 Upgrade Required", "Only WebSocket version 13 is served", _UPGRADE)
    if not _is_key(headers.get("sec-websocket-key", "")):
        return Refusal("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes in base64")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return Refusal("400 Bad Request", "A WebSocket request has no body")
    if choose_subprotocol(headers.get("sec-websocket-protocol", ""), served) is None:
        text = f"No common protocol; served are {', '.join(served)}"
        return Refusal("403 Forbidden", text)
    return None


def _asks_for_websocket(headers: Mapping[str, str]) -> bool:
    return "websocket" in _tokens(headers.get("upgrade", "")) and "upgrade" in _tokens(
        headers.get("connection", "")
    )


def _tokens(header: str) -> Iterable[str]:
    return [token.strip().lower() for token in header.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key.strip(), validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
