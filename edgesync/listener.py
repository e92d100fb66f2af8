"""URLEndpointListener: serve collections of a database to Couchbase Lite clients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

import edgesync
from edgesync.authenticator import ListenerPasswordAuthenticator
from edgesync.database import Collection, Database
from edgesync.errors import ConfigurationError, ListenerError
from edgesync.limits import Limits
from edgesync.net.acceptor import Acceptor
from edgesync.net.handshake import HandshakeRules, Peer
from edgesync.net.interfaces import addresses_to_bind, url_hosts
from edgesync.net.session import Session
from edgesync.net.websocket import PeerSocket
from edgesync.replication.replicator import Replicator, ReplicatorSettings
from edgesync.tls_identity import TLSIdentity

log: Final = logging.getLogger(__name__)

SUBPROTOCOL: Final = "BLIP_3+CBMobile_"
PROTOCOLS: Final = (4, 3, 2)
GOING_AWAY: Final = 1001


@dataclass(frozen=True, slots=True, kw_only=True)
class URLEndpointListenerConfiguration:
    """What a listener serves, and to whom. Spec: tls-and-auth.md §5."""

    collections: Sequence[Collection] = ()
    """At least one, all of one open database; or give `database`."""
    database: Database | None = None
    """In place of `collections`: its default collection."""
    port: int = 0
    """0 to 65535; 0 picks a free one, and clients then start over after a restart."""
    network_interface: str | None = None
    """A name or an address of this machine; None: all."""
    disable_tls: bool = False
    """Plain `ws://`."""
    tls_identity: TLSIdentity | None = None
    """None: an anonymous self-signed one, made at start."""
    authenticator: ListenerPasswordAuthenticator | None = None
    """None: everybody may come in."""
    enable_delta_sync: bool = False
    """Whether changes travel as deltas."""
    read_only: bool = False
    """Whether clients may only pull."""
    limits: Limits = field(default_factory=Limits)
    """What a peer may cost."""


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """How many clients there are. Spec: tls-and-auth.md §5.1."""

    connection_count: int
    """Connections that are past the upgrade and open."""
    active_connection_count: int
    """Those of them that are not just waiting for changes."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connected client."""

    id: str
    """Also sent to the client as X-Correlation-Id."""
    peer_address: str
    """IP address and port."""
    user: str | None
    """By password, or the subject of the client's certificate."""
    client: str
    """What the client says it is."""
    protocol_version: int
    collections: tuple[str, ...]
    since: datetime
    """UTC, by this machine's clock."""
    is_active: bool
    revisions_in: int
    revisions_out: int
    bytes_in: int
    bytes_out: int


class State(Enum):
    """The life of a listener."""

    STOPPED = auto()
    RUNNING = auto()
    STOPPING = auto()


class URLEndpointListener:
    """Serve collections of one database on one port.

    Any number of listeners may serve a database. A stopped one may be started
    again. Closing the database stops its listeners.
    """

    def __init__(self, config: URLEndpointListenerConfiguration) -> None:
        """Check the configuration.

        Raises:
            ConfigurationError: It is impossible.
        """
        self._database, self._collections = _checked(config)
        self._config = config
        self._state = State.STOPPED
        self._acceptor: Acceptor | None = None
        self._identity: TLSIdentity | None = None
        self._connections: dict[str, _Connected] = {}
        self._forget_close: Callable[[], None] | None = None
        self._change_listeners: list[Callable[[ConnectionStatus], None]] = []

    # --- life ----------------------------------------------------------------------

    def start(self) -> None:
        """Bind and serve; harmless if it runs already.

        Raises:
            PortInUseError: Another program has the port.
            UnknownInterfaceError: The machine has no such interface or address.
            ListenerError: The database is closed.
        """
        if self._state is not State.STOPPED:
            return
        if not self._database.is_open:
            raise ListenerError(f'database "{self._database.name}" is closed')
        config = self._config
        addresses = addresses_to_bind(config.network_interface)
        identity = None
        if not config.disable_tls:
            identity = config.tls_identity or TLSIdentity.anonymous()
        acceptor = Acceptor(
            [(address, config.port) for address in addresses],
            self._rules(),
            identity.server_tls() if identity is not None else None,
            self._serve,
            config.limits,
        )
        acceptor.start()
        if config.enable_delta_sync:
            self._database.keep_bodies()
        self._acceptor, self._identity, self._state = acceptor, identity, State.RUNNING
        self._forget_close = self._database.on_close(self.stop)

    def stop(self) -> None:
        """Stop accepting and close all connections, with 1001; clients do not come back."""
        if self._state is not State.RUNNING or self._acceptor is None:
            return
        self._state = State.STOPPING
        if self._forget_close is not None:
            self._forget_close()
        for connected in list(self._connections.values()):
            connected.session.close(GOING_AWAY, "the listener was stopped")
        self._acceptor.stop(self._config.limits.close_timeout_s)
        self._connections.clear()
        self._acceptor, self._identity, self._state = None, None, State.STOPPED

    def _rules(self) -> HandshakeRules:
        authenticator = self._config.authenticator
        return HandshakeRules(
            database=self._database.name,
            subprotocols=tuple(f"{SUBPROTOCOL}{version}" for version in PROTOCOLS),
            authenticate=authenticator.authenticate if authenticator is not None else None,
            product=f"edgesync/{edgesync.__version__}",
        )

    # --- what it tells --------------------------------------------------------------

    @property
    def config(self) -> URLEndpointListenerConfiguration:
        """The configuration it was made with."""
        return self._config

    @property
    def port(self) -> int:
        """The real port while it runs, else 0."""
        return self._acceptor.port if self._acceptor is not None else 0

    @property
    def urls(self) -> tuple[str, ...]:
        """What clients may connect to; empty when stopped. Spec: tls-and-auth.md §5.2."""
        if self._acceptor is None:
            return ()
        scheme = "ws" if self._config.disable_tls else "wss"
        hosts = url_hosts(addresses_to_bind(self._config.network_interface))
        return tuple(f"{scheme}://{host}:{self.port}/{self._database.name}" for host in hosts)

    @property
    def tls_identity(self) -> TLSIdentity | None:
        """The identity in use; None when stopped or without TLS."""
        return self._identity

    @property
    def status(self) -> ConnectionStatus:
        """How many clients there are now."""
        active = sum(c.session.replicator.is_active for c in self._connections.values())
        return ConnectionStatus(len(self._connections), active)

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """The clients that are connected now, oldest first."""
        return tuple(connected.info() for connected in self._connections.values())

    def close_connection(self, info: ConnectionInfo) -> None:
        """Close a client's connection, with 1001; nothing happens if it is gone."""
        connected = self._connections.get(info.id)
        if connected is not None:
            connected.session.close(GOING_AWAY, "closed by the operator")

    def add_change_listener(
        self, listener: Callable[[ConnectionStatus], None]
    ) -> Callable[[], None]:
        """Have a function called when clients come and go; returns the way to end it.

        It runs in the greenlet of the client's connection.
        """
        self._change_listeners.append(listener)

        def forget() -> None:
            if listener in self._change_listeners:
                self._change_listeners.remove(listener)

        return forget

    # --- serving ----------------------------------------------------------------------

    def _serve(self, websocket: PeerSocket, peer: Peer) -> None:
        """Serve one client; runs in its own greenlet until it is gone."""
        version = int(peer.subprotocol.removeprefix(SUBPROTOCOL))
        settings = ReplicatorSettings(
            collections=frozenset(self._collections),
            protocol=version,
            deltas=self._config.enable_delta_sync,
            read_only=self._config.read_only,
        )
        limits = self._config.limits
        name = f"{peer.address}:{peer.port}"
        replicator = Replicator(settings, limits, time.monotonic())
        session = Session(websocket, name, replicator, self._database.connect, limits)
        self._connections[peer.correlation_id] = _Connected(peer, version, session)
        log.info("%s: connected: %s, %s", name, peer.subprotocol, peer.user_agent)
        self._tell_change_listeners()
        try:
            session.run()
        finally:
            self._connections.pop(peer.correlation_id, None)
            log.info(
                "%s: gone: %d revisions in, %d out",
                name,
                replicator.revisions_in,
                replicator.revisions_out,
            )
            self._tell_change_listeners()

    def _tell_change_listeners(self) -> None:
        for listener in list(self._change_listeners):
            try:
                listener(self.status)
            except Exception:  # the application's own code
                log.exception("a change listener failed")


@dataclass(frozen=True, slots=True)
class _Connected:
    peer: Peer
    version: int
    session: Session
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def info(self) -> ConnectionInfo:
        peer, session = self.peer, self.session
        replicator = session.replicator
        return ConnectionInfo(
            id=peer.correlation_id,
            peer_address=f"{peer.address}:{peer.port}",
            user=peer.user or peer.certificate_subject,
            client=peer.user_agent,
            protocol_version=self.version,
            collections=replicator.collections,
            since=self.since,
            is_active=replicator.is_active,
            revisions_in=replicator.revisions_in,
            revisions_out=replicator.revisions_out,
            bytes_in=session.bytes_in,
            bytes_out=session.bytes_out,
        )


def _checked(config: URLEndpointListenerConfiguration) -> tuple[Database, tuple[str, ...]]:
    """Return the database and the paths of the collections."""
    collections = list(config.collections)
    if config.database is not None:
        if collections:
            raise ConfigurationError("give either collections or a database, not both")
        collections = [config.database.default_collection]
    if not collections:
        raise ConfigurationError(
            "the given collections must not be empty",
            hint="pass collections=[database.default_collection]",
        )
    database = collections[0].database
    if any(collection.database is not database for collection in collections):
        raise ConfigurationError("all collections of a listener belong to one database")
    if not 0 <= config.port <= 65535:  # what TCP has
        raise ConfigurationError(f"port {config.port} is not in 0 to 65535")
    return database, tuple(collection.path for collection in collections)
