"""URLEndpointListener: serve collections of a database to Couchbase Lite clients."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

import edgesync
from edgesync.authenticator import (
    ListenerCertificateAuthenticator,
    ListenerPasswordAuthenticator,
)
from edgesync.database import Collection, Database
from edgesync.errors import ConfigurationError, ListenerError
from edgesync.limits import Limits
from edgesync.net.acceptor import Acceptor
from edgesync.net.handshake import HandshakeRules, Peer
from edgesync.net.interfaces import addresses_to_bind, url_hosts, what_is_missing
from edgesync.net.session import TRY_AGAIN, Session
from edgesync.net.tls import ServerTLS
from edgesync.net.websocket import PeerSocket
from edgesync.replication.replicator import Replicator, ReplicatorSettings
from edgesync.tls_identity import KeyStore, ServedIdentity, TLSIdentity

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
    """None: an anonymous self-signed one, of the key store, or made at start."""
    authenticator: ListenerPasswordAuthenticator | ListenerCertificateAuthenticator | None = None
    """None: everybody may come in. By certificate needs TLS, of which it then speaks 1.2 only."""
    enable_delta_sync: bool = False
    """Whether changes travel as deltas."""
    read_only: bool = False
    """Whether clients may only pull."""
    prove_blobs: bool = False
    """Whether a client must prove that it has the blobs it refers to, also those that are
    stored already: else knowing a digest is enough to get a blob. Spec: replication.md §3.9."""
    key_store: KeyStore | None = None
    """Keeps the anonymous identity. From it, an identity with a label is taken anew
    whenever it is renewed there; who is connected notices nothing."""
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


@dataclass(frozen=True, slots=True)
class ListenerTotals:
    """What a listener has done since it was made; never falls."""

    connections: int = 0
    revisions_in: int = 0
    revisions_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class State(Enum):
    """The life of a listener."""

    STOPPED = auto()
    STARTING = auto()
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
        # Kept: clients that have pinned it come back after a restart of the listener.
        self._served_identity = (
            None
            if config.disable_tls
            else ServedIdentity(config.tls_identity, config.key_store, self._take_identity)
        )
        self._connections: dict[str, _Connected] = {}
        self._totals_of_the_gone = ListenerTotals()
        self._forget_close: Callable[[], None] | None = None
        self._waiting_for: str | None = None
        self._change_listeners: list[Callable[[ConnectionStatus], None]] = []

    # --- life ----------------------------------------------------------------------

    def start(self, *, wait: bool = False) -> None:
        """Bind and serve; harmless if it runs already.

        Args:
            wait: If the interface or address is not there, start all the same,
                and bind when `follow_interface` finds it.

        Raises:
            PortInUseError: Another program has the port.
            UnknownInterfaceError: The machine has no such interface or address,
                and it shall not be waited for.
            ListenerError: The database is closed.
            KeyStoreError: The key store does not give the identity.
            IdentityError: The identity cannot be used.
        """
        if self._state is not State.STOPPED:
            return
        if not self._database.is_open:
            raise ListenerError(f'database "{self._database.name}" is closed')
        self._state = State.STARTING
        try:
            self._start(wait=wait)
        finally:
            if self._acceptor is None:
                self._state = State.STOPPED

    def _start(self, *, wait: bool) -> None:
        config = self._config
        missing = what_is_missing(config.network_interface) if wait else ""
        addresses = () if missing else addresses_to_bind(config.network_interface)
        identity = None if self._served_identity is None else self._served_identity.find()
        acceptor = Acceptor(
            [(address, config.port) for address in addresses],
            self._rules(),
            None if identity is None else self._tls(identity),
            self._serve,
            config.limits,
            config.port,
        )
        acceptor.start()
        self._waiting_for = missing or None
        if config.enable_delta_sync:
            self._database.keep_bodies()
        self._acceptor, self._identity, self._state = acceptor, identity, State.RUNNING
        if self._served_identity is not None:
            self._served_identity.follow()
        self._forget_close = self._database.on_close(self.stop)

    def stop(self, *, for_good: bool = True) -> None:
        """Stop accepting and close all connections.

        Args:
            for_good: Whether clients are told so, with 1001, and do not come back;
                else they try again by themselves, in 2 seconds and later.

        Spec: blip.md §1.5.
        """
        if self._state is not State.RUNNING or self._acceptor is None:
            return
        self._state = State.STOPPING
        if self._forget_close is not None:
            self._forget_close()
        if self._served_identity is not None:
            self._served_identity.leave()
        code = GOING_AWAY if for_good else TRY_AGAIN
        for connected in list(self._connections.values()):
            connected.session.close(code, "the listener was stopped")
        self._acceptor.stop(self._config.limits.close_timeout_s)
        self._connections.clear()
        self._acceptor, self._identity, self._state = None, None, State.STOPPED

    def follow_interface(self) -> None:
        """Bind to the address that the interface has now, or wait until it has one.

        For whoever sees that interfaces have changed; the service does it by
        itself. The port and all connections stay. Harmless at any time.
        """
        if self._state is State.RUNNING and self._acceptor is not None:
            self._waiting_for = self._rebind(self._acceptor) or None

    def _rebind(self, acceptor: Acceptor) -> str:
        """Return what stands in the way, "" if nothing does."""
        interface = self._config.network_interface
        missing = what_is_missing(interface)
        try:
            acceptor.rebind(() if missing else addresses_to_bind(interface, acceptor.bound))
        except ListenerError as error:  # the port of the new address is taken, or it is gone again
            acceptor.rebind(())
            return str(error)
        return missing

    def _rules(self) -> HandshakeRules:
        authenticator = self._config.authenticator
        authenticate = None
        if isinstance(authenticator, ListenerPasswordAuthenticator):
            authenticate = authenticator.authenticate
        return HandshakeRules(
            database=self._database.name,
            subprotocols=tuple(f"{SUBPROTOCOL}{version}" for version in PROTOCOLS),
            authenticate=authenticate,
            product=f"edgesync/{edgesync.__version__}",
        )

    def _tls(self, identity: TLSIdentity) -> ServerTLS:
        authenticator = self._config.authenticator
        if isinstance(authenticator, ListenerCertificateAuthenticator):
            return identity.server_tls(authenticator.refusal)
        return identity.server_tls()

    def _take_identity(self, identity: TLSIdentity) -> None:
        """Show another identity to the clients that come from now on."""
        if self._state is State.RUNNING and self._acceptor is not None:
            self._acceptor.tls = self._tls(identity)
            self._identity = identity
            log.info("the certificate is another one: it expires at %s", identity.expiration)

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
        hosts = url_hosts(self.addresses)
        return tuple(f"{scheme}://{host}:{self.port}/{self._database.name}" for host in hosts)

    @property
    def addresses(self) -> tuple[str, ...]:
        """What it is bound to; "::" and "0.0.0.0" are all; empty when stopped or waiting."""
        return self._acceptor.bound if self._acceptor is not None else ()

    @property
    def waiting_for(self) -> str | None:
        """What the interface lacks before clients can connect; None if nothing, or stopped."""
        return self._waiting_for if self._state is State.RUNNING else None

    @property
    def protocol_versions(self) -> tuple[int, ...]:
        """The versions of the replication protocol that it speaks, newest first."""
        return PROTOCOLS

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

    @property
    def totals(self) -> ListenerTotals:
        """All that it has served, what is connected now included."""
        totals = self._totals_of_the_gone
        for connected in self._connections.values():
            totals = _plus(totals, connected.info())
        return totals

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
        entropy = os.urandom if self._config.prove_blobs else None
        replicator = Replicator(settings, limits, time.monotonic(), entropy)
        session = Session(websocket, name, replicator, self._database.connect, limits)
        connected = _Connected(peer, version, session)
        self._connections[peer.correlation_id] = connected
        log.info("%s: connected: %s, %s", name, peer.subprotocol, peer.user_agent)
        self._tell_change_listeners()
        try:
            session.run()
        finally:
            self._connections.pop(peer.correlation_id, None)
            self._totals_of_the_gone = _plus(self._totals_of_the_gone, connected.info())
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


def _plus(totals: ListenerTotals, info: ConnectionInfo) -> ListenerTotals:
    return ListenerTotals(
        totals.connections + 1,
        totals.revisions_in + info.revisions_in,
        totals.revisions_out + info.revisions_out,
        totals.bytes_in + info.bytes_in,
        totals.bytes_out + info.bytes_out,
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
    if config.disable_tls and isinstance(config.authenticator, ListenerCertificateAuthenticator):
        raise ConfigurationError(
            "clients cannot show certificates without TLS",
            hint="remove disable_tls, or choose another authenticator",
        )
    if not 0 <= config.port <= 65535:  # what TCP has
        raise ConfigurationError(f"port {config.port} is not in 0 to 65535")
    return database, tuple(collection.path for collection in collections)
