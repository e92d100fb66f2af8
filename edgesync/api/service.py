"""The service itself: its state, listeners, clients, network, events and log."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import falcon

import edgesync
from edgesync import (
    ConnectionInfo,
    Database,
    ListenerCertificateAuthenticator,
    ListenerPasswordAuthenticator,
    URLEndpointListener,
)
from edgesync.api.answers import (
    ConnectionAnswer,
    DatabaseAnswer,
    DescriptorsAnswer,
    DiskAnswer,
    KeyStoreState,
    ListenerAnswer,
    ListenerState,
    PeerAnswer,
    StatusAnswer,
    Traffic,
    what_is_wrong,
)
from edgesync.api.box import Box, keyspace_of
from edgesync.api.documents import Application
from edgesync.api.requests import JSON_LINES, answer, flag, number
from edgesync.errors import EdgeSyncError, UnknownNameError
from edgesync.limits import Limits
from edgesync.net.interfaces import interfaces

if TYPE_CHECKING:
    from edgesync.net.mdns import Discovered

DISCOVERY_MS: Final = 2_000
MAX_DISCOVERY_MS: Final = 20_000
NO_TRAFFIC: Final[Traffic] = {
    "connections": 0,
    "revisions_in": 0,
    "revisions_out": 0,
    "bytes_in": 0,
    "bytes_out": 0,
}


def add_routes(application: Application, box: Box, limits: Limits) -> None:
    """Add the paths of this module."""
    for path, answering in (
        ("status", _Status(box)),
        ("listeners", _Listeners(box)),
        ("listeners/{name}", _Listener(box)),
        ("listeners/{name}/restart", _Restart(box)),
        ("connections", _Connections(box)),
        ("connections/{connection_id}", _Connection(box)),
        ("interfaces", _Interfaces()),
        ("peers", _Peers(limits)),
        ("events", _Events(box)),
        ("log", _Log(box)),
    ):
        application.add_route(f"/_edgesync/{path}", answering)


# --- what is told ------------------------------------------------------------------


def describe_listener(box: Box, name: str) -> ListenerAnswer:
    """Return what the API tells of a listener."""
    listener = box.listener(name)
    config, status, identity = listener.config, listener.status, listener.tls_identity
    waiting_for = listener.waiting_for or ""
    state: ListenerState = "waiting" if waiting_for else "serving" if listener.port else "stopped"
    totals = listener.totals
    return {
        "name": name,
        "database": _database_of(listener).name,
        "collections": [collection.path for collection in config.collections],
        "state": state,
        "problem": waiting_for,
        "urls": list(listener.urls),
        "interface": config.network_interface,
        "port": listener.port or config.port,
        "tls": not config.disable_tls,
        "fingerprint": identity.fingerprint.hex(":").upper() if identity is not None else None,
        "identity": identity.label if identity is not None else None,
        "expires_at": identity.expiration.isoformat() if identity is not None else None,
        "authentication": _authentication(listener),
        "read_only": config.read_only,
        "delta_sync": config.enable_delta_sync,
        "announced_as": list(box.mdns_names().get(name, ())),
        "connections": status.connection_count,
        "active": status.active_connection_count,
        "totals": {
            "connections": totals.connections,
            "revisions_in": totals.revisions_in,
            "revisions_out": totals.revisions_out,
            "bytes_in": totals.bytes_in,
            "bytes_out": totals.bytes_out,
        },
    }


def describe_database(database: Database) -> DatabaseAnswer:
    """Return what the API tells of a database."""
    return {
        "name": database.name,
        "folder": str(database.folder),
        "open": True,
        "problem": database.problem,
        "versions_ahead_s": int(database.versions_ahead_s),
        "bytes": _file_bytes(database),
        "collections": [
            {"keyspace": keyspace_of(each), "documents": each.count}
            for each in database.collections
        ],
    }


def all_listeners(box: Box) -> list[ListenerAnswer]:
    """Return what the API tells of all listeners."""
    idle = [
        _idle_listener(name, reason)
        for name, reason in box.idle_listeners.items()
        if name not in box.listeners
    ]
    made = [_with_problem(box, name) for name in box.listeners]
    return [*made, *idle]


def all_databases(box: Box) -> list[DatabaseAnswer]:
    """Return what the API tells of all databases, those that could not be opened included."""
    found: list[DatabaseAnswer] = []
    for database in tuple(box.databases.values()):  # a reload may come between the answers
        try:
            found.append(describe_database(database))
        except EdgeSyncError as error:
            found.append(_closed_database(database.name, str(error)))
    found.extend(_closed_database(*each) for each in box.closed_databases.items())
    return found


def all_connections(box: Box) -> list[ConnectionAnswer]:
    """Return what the API tells of all clients."""
    return [
        _describe_connection(name, info)
        for name, listener in box.listeners.items()
        for info in listener.connections
    ]


def _with_problem(box: Box, name: str) -> ListenerAnswer:
    described = describe_listener(box, name)
    if described["state"] == "stopped":
        described["problem"] = box.idle_listeners.get(name, "it was stopped")
    return described


def _idle_listener(name: str, reason: str) -> ListenerAnswer:
    return {
        "name": name,
        "database": "",
        "collections": [],
        "state": "stopped",
        "problem": reason,
        "urls": [],
        "interface": None,
        "port": 0,
        "tls": False,
        "fingerprint": None,
        "identity": None,
        "expires_at": None,
        "authentication": "",
        "read_only": False,
        "delta_sync": False,
        "announced_as": [],
        "connections": 0,
        "active": 0,
        "totals": NO_TRAFFIC,
    }


def _closed_database(name: str, reason: str) -> DatabaseAnswer:
    return {
        "name": name,
        "folder": "",
        "open": False,
        "problem": reason,
        "versions_ahead_s": 0,
        "bytes": 0,
        "collections": [],
    }


def _describe_connection(listener: str, info: ConnectionInfo) -> ConnectionAnswer:
    return {
        "id": info.id,
        "listener": listener,
        "peer": info.peer_address,
        "user": info.user,
        "client": info.client,
        "protocol": info.protocol_version,
        "collections": list(info.collections),
        "since": info.since.isoformat(timespec="seconds"),
        "active": info.is_active,
        "revisions_in": info.revisions_in,
        "revisions_out": info.revisions_out,
        "bytes_in": info.bytes_in,
        "bytes_out": info.bytes_out,
    }


def _describe_peer(peer: Discovered) -> PeerAnswer:
    return {
        "name": peer.name,
        "urls": list(peer.urls),
        "fingerprint": peer.fingerprint.hex(":").upper() if peer.fingerprint else None,
        "authentication": peer.authentication,
    }


def _database_of(listener: URLEndpointListener) -> Database:
    config = listener.config
    return config.database if config.database is not None else config.collections[0].database


def _authentication(listener: URLEndpointListener) -> str:
    match listener.config.authenticator:
        case None:
            return "none"
        case ListenerPasswordAuthenticator():
            return "password"
        case ListenerCertificateAuthenticator():
            return "certificate"


def _file_bytes(database: Database) -> int:
    """Return the size of the SQLite file with its journal."""
    total = 0
    with suppress(OSError):  # a card that fails is told of, and this is the place to tell it
        for entry in os.scandir(database.folder):
            if entry.is_file():
                total += entry.stat().st_size
    return total


def disk(box: Box) -> DiskAnswer:
    """Return how full the file system with the state is."""
    found = os.statvfs(box.state_folder)
    return {
        "free_bytes": found.f_bavail * found.f_frsize,
        "total_bytes": found.f_blocks * found.f_frsize,
        "read_only": bool(found.f_flag & os.ST_RDONLY),
    }


def descriptors() -> DescriptorsAnswer:
    """Return how many file descriptors the service has open, and may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"used": len(os.listdir("/proc/self/fd")), "limit": limit}


def _key_store_state(box: Box) -> KeyStoreState:
    return "locked" if box.is_locked() else "none" if box.key_store() is None else "open"


def _problems(listeners: list[ListenerAnswer], databases: list[DatabaseAnswer]) -> Iterator[str]:
    for database in databases:
        if database["problem"]:
            what = "fails" if database["open"] else "is not open"
            yield f'database "{database["name"]}" {what}: {database["problem"]}'
    for listener in listeners:
        if listener["problem"]:
            yield what_is_wrong(listener)


# --- the resources --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Status:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        box = self.box
        listeners, databases = all_listeners(box), all_databases(box)
        status: StatusAnswer = {
            "version": edgesync.__version__,
            "pid": os.getpid(),
            "started_at": box.started_at.isoformat(timespec="seconds"),
            "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "config": box.config,
            "config_problems": list(box.config_problems()),
            "state_folder": str(box.state_folder),
            "socket": str(box.socket),
            "key_store": _key_store_state(box),
            "disk": disk(box),
            "descriptors": descriptors(),
            "listeners": listeners,
            "databases": databases,
            "mdns_problems": dict(box.mdns_problems()),
            "problems": [*box.config_problems(), *_problems(listeners, databases)],
        }
        answer(response, status)


@dataclass(frozen=True, slots=True)
class _Listeners:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        answer(response, all_listeners(self.box))


@dataclass(frozen=True, slots=True)
class _Listener:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        for listener in all_listeners(self.box):
            if listener["name"] == name:
                answer(response, listener)
                return
        self.box.listener(name)


@dataclass(frozen=True, slots=True)
class _Restart:
    box: Box

    def on_post(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        self.box.restart_listener(name)
        answer(response, describe_listener(self.box, name))


@dataclass(frozen=True, slots=True)
class _Connections:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        answer(response, all_connections(self.box))


@dataclass(frozen=True, slots=True)
class _Connection:
    box: Box

    def on_delete(
        self, _request: falcon.Request, response: falcon.Response, connection_id: str
    ) -> None:
        for name, listener in self.box.listeners.items():
            for info in listener.connections:
                if info.id == connection_id:
                    described = _describe_connection(name, info)
                    listener.close_connection(info)
                    answer(response, described)
                    return
        known = [connection["id"] for connection in all_connections(self.box)]
        raise UnknownNameError("connection", connection_id, known)


class _Interfaces:
    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        answer(
            response,
            [
                {"name": each.name, "up": each.is_up, "addresses": list(each.addresses)}
                for each in interfaces()
            ],
        )


@dataclass(frozen=True, slots=True)
class _Peers:
    limits: Limits

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        from edgesync.net.mdns import browse  # noqa: PLC0415 - 6 MB that few boxes need

        wait_ms = number(request, "timeout", DISCOVERY_MS, maximum=MAX_DISCOVERY_MS)
        answer(response, [_describe_peer(each) for each in browse(wait_ms / 1000, self.limits)])


@dataclass(frozen=True, slots=True)
class _Events:
    box: Box

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = JSON_LINES
        follow = flag(request, "follow", default=True)
        recent = number(request, "recent", 0 if follow else 2**31)
        response.stream = self.box.events.lines(recent, follow=follow)


@dataclass(frozen=True, slots=True)
class _Log:
    box: Box

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = JSON_LINES
        follow = flag(request, "follow")
        response.stream = self.box.log.lines(number(request, "lines", 100), follow=follow)
