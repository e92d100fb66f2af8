"""A proxy between a real client and the server, which hears what the server says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from edgesync.blip.frame import MORE_COMING, FrameDecoder, decode_varint, parse_header
from edgesync.blip.message import MessageType, decode_properties
from edgesync.limits import Limits

RECEIVE_BYTES: Final = 256 * 1024
ACKS: Final = (4, 5)


class Said(NamedTuple):
    """A request of the server."""

    properties: dict[str, str]
    body: bytes

    @property
    def revisions(self) -> list[str]:
        """All that it says about revisions."""
        names = ("rev", "history", "replacedRev", "deltaSrc")
        found = [self.properties[name] for name in names if name in self.properties]
        if self.properties.get("Profile") == "changes":
            found += [entry[2] for entry in json.loads(self.body)]
        return found


class ListeningProxy:
    """Passes TCP connections on, without TLS, and keeps the server's side of each."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._socket.getsockname()[1]}{parts.path}"
        self._sockets: list[socket.socket] = []
        self._heard: list[bytearray] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(self._server)
                heard = bytearray()
                self._sockets += (client, server)
                self._heard.append(heard)
                self._start(self._pass_on, client, server, bytearray())
                self._start(self._pass_on, server, client, heard)

    def _pass_on(self, source: socket.socket, target: socket.socket, heard: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(RECEIVE_BYTES):
                heard += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def requests(self) -> list[Said]:
        """Return all requests of the server so far, of all connections."""
        return [said for heard in self._heard for said in _requests(bytes(heard))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for one in (self._socket, *self._sockets):
            with contextlib.suppress(OSError):  # the other side has gone
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._socket, *self._sockets):
            one.close()


def _requests(heard: bytes) -> Iterator[Said]:
    decoder = FrameDecoder(Limits())
    payloads: dict[tuple[int, int], bytes] = {}
    for frame in _messages(heard):
        header = parse_header(frame)
        kind = header.flags & 0x07
        if kind in ACKS:
            continue
        payload = decoder.begin(frame, header)
        while decoder.is_midway:
            payload += decoder.go_on()
        key = header.number, kind
        payloads[key] = payloads.get(key, b"") + payload
        if not header.flags & MORE_COMING:
            whole = payloads.pop(key)
            if kind == MessageType.MSG.value:
                size, start = decode_varint(whole, 0)
                block, body = whole[start : start + size], whole[start + size :]
                yield Said(decode_properties(block, Limits().max_properties), body)


def _messages(heard: bytes) -> Iterator[bytes]:
    """Yield the binary WebSocket messages of a server: not masked, not fragmented."""
    at = heard.index(b"\r\n\r\n") + 4
    while at + 2 <= len(heard):
        opcode, size, at = heard[at] & 0x0F, heard[at + 1], at + 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(heard[at : at + wide], "big"), at + wide
        if opcode == 2 and at + size <= len(heard):
            yield heard[at : at + size]
        at += size
