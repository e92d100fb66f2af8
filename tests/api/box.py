"""A service as a process, and requests to its socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edgesync.api.client import ApiClient
from edgesync.errors import ServiceNotRunningError
from tests.integration.service import START_TIMEOUT_S, Service

COLLECTIONS = 'collections = ["_default", "inventory.items"]'


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Box(Service):
    """A service with a database `db` and a plain listener `test`."""

    def __init__(self, folder: Path, *, settings: str = "") -> None:
        super().__init__(folder, settings=settings, collections=COLLECTIONS)
        key = folder / "key"  # for [key_store] unlock = "file:key"
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)

    @property
    def socket(self) -> Path:
        return self.folder / "state" / "edgesync.sock"

    @property
    def client(self) -> ApiClient:
        return ApiClient(self.socket)

    @contextmanager
    def without_listener(self) -> Iterator[None]:
        """Run it though its listener cannot serve; wait for its socket instead."""
        self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        try:
            yield
        finally:
            self.kill()

    def _answers(self) -> bool:
        try:
            self.client.status()
        except ServiceNotRunningError:
            return False
        return True

    def connection(self) -> http.client.HTTPConnection:
        """Return an open connection."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.socket))
        return connection

    def ask(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request, and return the whole reply."""
        connection = self.connection()
        try:
            content = json.dumps(value).encode() if value is not None else body
            connection.request(method, path, body=content, headers=dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()
