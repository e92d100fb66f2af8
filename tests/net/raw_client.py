"""A client that sends and shows exact bytes."""

from __future__ import annotations

import base64
from typing import Final, NamedTuple, Protocol

from gevent import socket

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
OFFERED: Final = "BLIP_3+CBMobile_3,BLIP_3+CBMobile_2"
MASK: Final = bytes.fromhex("37fa213d")

BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A


class Stream(Protocol):
    """A socket, as far as a client needs it."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...


class Answer(NamedTuple):
    """An HTTP answer."""

    status: str
    headers: dict[str, str]
    body: bytes


class RawClient:
    """Speaks HTTP and WebSocket to the letter, or against it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self._stream.sendall(data)

    def read_answer(self) -> Answer:
        head, _, self._buffer = self._read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        body = self._read(int(headers.get("Content-Length", "0")))
        return Answer(lines[0], headers, body)

    def upgrade(self, **changes: str) -> Answer:
        self.send(upgrade_request(**changes))
        return self.read_answer()

    def read_frame(self) -> tuple[int, bytes]:
        """Return first byte and payload of the next frame."""
        first, second = self._read(2)
        length = second
        if second >= 126:
            length = int.from_bytes(self._read(2 if second == 126 else 8), "big")
        return first, self._read(length)

    def read_to_end(self) -> bytes:
        """Return all that comes until TCP ends; a reset raises."""
        while data := self._stream.recv(65_536):
            self._buffer += data
        rest, self._buffer = self._buffer, b""
        return rest

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._fill()
        return self._buffer

    def _fill(self) -> None:
        if not (data := self._stream.recv(65_536)):
            raise EOFError(self._buffer)
        self._buffer += data


def connect(port: int) -> tuple[socket.socket, RawClient]:
    """Connect without encryption."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(10)
    return sock, RawClient(sock)


def connect_upgraded(port: int) -> tuple[socket.socket, RawClient]:
    """Connect as a client that is accepted."""
    sock, client = connect(port)
    assert client.upgrade().status == "HTTP/1.1 101 Switching Protocols"
    return sock, client


def upgrade_request(
    *,
    line: str = "GET /db/_blipsync HTTP/1.1",
    drop: str = "",
    more: str = "",
    body: str = "",
    **changes: str,
) -> bytes:
    """Return a request; `drop` and the changes are names of headers with underscores."""
    headers = {
        "Host": "127.0.0.1",
        "User_Agent": "CouchbaseLite/3.2.4",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": KEY,
        "Sec_WebSocket_Protocol": OFFERED,
    } | changes
    headers.pop(drop, None)
    lines = [line, *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n" + body).encode("latin-1")


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    """Return the value of an `Authorization` header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


def frame(payload: bytes = b"", first_byte: int = BINARY, mask: bytes = MASK) -> bytes:
    """Return a masked frame."""
    return header(len(payload), first_byte) + mask + masked(payload, mask)


def header(length: int, first_byte: int = BINARY) -> bytes:
    """Return the header of a masked frame up to the mask, the length in its shortest form."""
    if length < 126:
        return bytes((first_byte, 0x80 | length))
    if length < 65_536:
        return bytes((first_byte, 0x80 | 126)) + length.to_bytes(2, "big")
    return bytes((first_byte, 0x80 | 127)) + length.to_bytes(8, "big")


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """Mask as the RFC defines it, but for one number at a time: tests send megabytes."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a CLOSE."""
    return code.to_bytes(2, "big") + reason.encode()
