"""Asks the service over its Unix socket; needs the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote, urlencode

from edgesync.api.answers import (
    ConnectionAnswer,
    DatabaseAnswer,
    IdentityAnswer,
    InterfaceAnswer,
    ListenerAnswer,
    PeerAnswer,
    StatusAnswer,
)
from edgesync.api.places import SOCKET_VARIABLE, socket_to_serve, sockets_to_try, state_folder
from edgesync.errors import ApiError, NotPermittedError, ServiceNotRunningError, UsageError

__all__ = [
    "SOCKET_VARIABLE",
    "Answer",
    "ApiClient",
    "find_socket",
    "path_of",
    "socket_to_serve",
    "state_folder",
]

TIMEOUT_S: Final = 30.0
FORBIDDEN: Final = 403
PIECE_BYTES: Final = 64 * 1024
Query = Mapping[str, str | int | bool | None]


def find_socket(environment: Mapping[str, str]) -> Path:
    """Return the service's socket: the first that is there, else where one would be."""
    candidates = list(sockets_to_try(environment))
    for path in candidates:
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return path
        except PermissionError:
            return path  # asking it tells the person why it cannot be asked
        except OSError:
            continue
    return candidates[0]


def path_of(*segments: str) -> str:
    """Return a path of names that may contain anything.

    Raises:
        UsageError: One is empty, and so the path would be that of something else.
    """
    if not all(segments):
        raise UsageError("a name or ID is empty")
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


class Answer:
    """What came back; its content is read on demand."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        length = response.getheader("Content-Length")
        self.length = int(length) if length is not None else None
        """Bytes of the content, None if the service does not say."""

    def header(self, name: str) -> str:
        """Return a header, empty if it is absent."""
        return self._response.getheader(name) or ""

    def read(self) -> bytes:
        """Return the whole content."""
        return self._response.read()

    def pieces(self) -> Iterator[bytes]:
        """Yield the content as it comes."""
        while piece := self._response.read1(PIECE_BYTES):
            yield piece

    def lines(self) -> Iterator[dict[str, object]]:
        """Yield a value for each line of JSON as it comes.

        Raises:
            ApiError: A line says that the work failed.
        """
        for line in self._response:
            if line.strip():
                value: dict[str, object] = json.loads(line)
                if "error" in value and "reason" in value:
                    raise _refusal(0, value)
                yield value


class ApiClient:
    """The service, as a program on this machine sees it."""

    def __init__(self, path: Path, *, timeout_s: float | None = TIMEOUT_S) -> None:
        """Store what is given; connects when something is asked.

        Args:
            path: Of the socket.
            timeout_s: How long the service may be silent; None: for ever.
        """
        self.path = path
        self._timeout_s = timeout_s

    def get(self, path: str, query: Query | None = None) -> object:
        """Return the JSON at a path.

        Raises:
            ApiError: The service is not there, or refuses.
        """
        return self.send("GET", path, query=query)

    def send(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        query: Query | None = None,
        patient: bool = False,
    ) -> object:
        """Send a value as JSON and return the JSON that comes back.

        Raises:
            ApiError: The service is not there, or refuses.
        """
        body = None if value is None else json.dumps(value).encode()
        with self.open(method, path, body=body, query=query, patient=patient) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    # The casts below: the service makes its answers by the same types.

    def status(self) -> StatusAnswer:
        """Return the state of everything."""
        return cast(StatusAnswer, self.get("/_edgesync/status"))

    def listeners(self) -> list[ListenerAnswer]:
        """Return all listeners."""
        return cast(list[ListenerAnswer], self.get("/_edgesync/listeners"))

    def listener(self, name: str) -> ListenerAnswer:
        """Return a listener."""
        return cast(ListenerAnswer, self.get(path_of("_edgesync", "listeners", name)))

    def connections(self) -> list[ConnectionAnswer]:
        """Return all clients."""
        return cast(list[ConnectionAnswer], self.get("/_edgesync/connections"))

    def databases(self) -> list[DatabaseAnswer]:
        """Return all databases."""
        return cast(list[DatabaseAnswer], self.get("/_edgesync/databases"))

    def database(self, name: str) -> DatabaseAnswer:
        """Return a database."""
        return cast(DatabaseAnswer, self.get(path_of("_edgesync", "databases", name)))

    def identities(self) -> list[IdentityAnswer]:
        """Return all identities of the key store."""
        return cast(list[IdentityAnswer], self.get("/_edgesync/identities"))

    def interfaces(self) -> list[InterfaceAnswer]:
        """Return the network interfaces that have an address."""
        return cast(list[InterfaceAnswer], self.get("/_edgesync/interfaces"))

    def peers(self, timeout_ms: int) -> list[PeerAnswer]:
        """Return the listeners that are announced around here."""
        query = {"timeout": timeout_ms}
        return cast(
            list[PeerAnswer], self.send("GET", "/_edgesync/peers", query=query, patient=True)
        )

    def work(
        self,
        path: str,
        told: Callable[[int, int], None],
        *,
        body: Iterable[bytes] | None = None,
        content_type: str = "application/json",
    ) -> object:
        """Have long work done, and return its result.

        Args:
            path: What to post to.
            told: Told what is done of how much.
            body: Sent first.
            content_type: Of the body.

        Raises:
            ApiError: The service is not there, or the work failed.
        """
        with self.open(
            "POST",
            path,
            body=body if body is not None else b"",
            content_type=content_type,
            patient=True,
        ) as answer:
            for step in answer.lines():
                if "result" in step:
                    return step["result"]
                done, total = step.get("done"), step.get("total")
                if isinstance(done, int) and isinstance(total, int):
                    told(done, total)
        raise ApiError(
            "edgesyncd ended the connection", hint='look at its log with "edgesync logs"'
        )

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        content_type: str = "application/json",
        query: Query | None = None,
        patient: bool = False,
    ) -> Iterator[Answer]:
        """Send a request and give its answer while it comes.

        Args:
            method: HTTP's.
            path: With its segments quoted, as `path_of` does.
            body: The content; pieces are sent as they come.
            content_type: Of the body.
            query: Appended to the path; None values are left out.
            patient: Whether the service may be silent for any time.

        Raises:
            ApiError: The service is not there, or refuses.
        """
        connection = _UnixConnection(self.path, None if patient else self._timeout_s)
        try:
            try:
                headers = {"Content-Type": content_type} if body is not None else {}
                connection.request(method, _target(path, query), body=body, headers=headers)
                response = connection.getresponse()
            except (BrokenPipeError, ConnectionResetError):
                # Refused before all was sent: the reason is there to be read, as a rule.
                response = _late_answer(connection)
            except TimeoutError as error:
                raise ApiError(
                    "edgesyncd does not answer", hint='look at its log with "edgesync logs"'
                ) from error
            answer = Answer(response)
            if answer.status >= http.client.BAD_REQUEST:
                raise _refusal(answer.status, _parsed(answer.read()))
            yield answer
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(os.fspath(self._path))
        except PermissionError as error:
            raise NotPermittedError(
                f"you may not use {self._path}",
                hint='use sudo, or become a member of the group "edgesync": '
                '"sudo usermod -aG edgesync $USER", then log in again',
            ) from error
        except OSError as error:
            raise ServiceNotRunningError(
                "edgesyncd is not running", hint='start it with "systemctl start edgesyncd"'
            ) from error


def _target(path: str, query: Query | None) -> str:
    given = {
        key: json.dumps(value) if isinstance(value, bool) else value
        for key, value in (query or {}).items()
        if value is not None
    }
    return f"{path}?{urlencode(given)}" if given else path


def _late_answer(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    try:
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise ApiError(
            "edgesyncd ended the connection", hint='look at its log with "edgesync logs"'
        ) from error


def _parsed(content: bytes) -> Mapping[str, object]:
    try:
        value: object = json.loads(content)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"reason": content.decode(errors="replace")}


def _refusal(status: int, value: Mapping[str, object]) -> ApiError:
    kind = NotPermittedError if status == FORBIDDEN else ApiError
    reason = str(value.get("reason") or f"edgesyncd answered {status}")
    return kind(reason, hint=str(value.get("hint", "")))
