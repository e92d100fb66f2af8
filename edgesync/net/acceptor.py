"""The listening sockets, and a greenlet for each connection."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import gevent
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from gevent.socket import socket as GeventSocket
from greenlet import greenlet

from edgesync.errors import ListenerError, PortInUseError, UnknownInterfaceError
from edgesync.limits import Limits
from edgesync.net.handshake import Client, HandshakeRules, Peer, PeerHandler, Place
from edgesync.net.interfaces import ANY_IPV6, known_names
from edgesync.net.passwords import PasswordChecks
from edgesync.net.tls import ServerTLS, TLSSocket
from edgesync.net.transport import PlainSocket, Transport
from edgesync.net.websocket import PeerSocket

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_TRIES_FOR_A_COMMON_PORT: Final = 5
_KILL_TIMEOUT_S: Final = 1.0
_PAUSE_WITHOUT_DESCRIPTORS_S: Final = 0.5
_SPARE_DESCRIPTORS: Final = 32  # for the databases, their blobs and the local API
_QUIET_S: Final = 60.0  # between two warnings about a crowd
_MAPPED_IPV4: Final = "::ffff:"


class Acceptor:
    """Accept connections on a port of one or more addresses, and serve them.

    A connection is *pending* until the head of its request is read, then
    *admitted*. Above `Limits.max_pending_connections` the oldest pending one of
    the address that has most of them is dropped; above `Limits.max_connections`
    or `max_connections_per_address` nobody is admitted, and 503 says so. A
    connection that is refused is pending again until it has ended.

    The last file descriptors are not for connections: who gets one of them is told
    503, or nothing if there are hardly any, while the clients that are here, and the
    operator, still need some.

    An acceptor is started once; to serve again, make another one.

    Attributes:
        tls: Encrypts the connections from now on; None serves them plain. A
            renewed identity is put here, and those connected notice nothing.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        rules: HandshakeRules,
        tls: ServerTLS | None,
        serve: Callable[[PeerSocket, Peer], None],
        limits: Limits,
        port: int = 0,
    ) -> None:
        """Store what is given.

        Args:
            addresses: Numeric, with ports; "::" serves IPv4, too. All with port
                0 get the same free port. None at all: `rebind` gives them later.
            rules: Who may connect.
            tls: None for plain connections.
            serve: Called after the upgrade in the connection's own greenlet;
                returns when the session has ended.
            limits: Connections, sizes and times.
            port: For addresses that come later; 0: any free one.
        """
        self.tls = tls
        self._addresses = tuple(addresses)
        self._rules = rules
        authenticate = rules.authenticate
        self._passwords = None if authenticate is None else PasswordChecks(authenticate, limits)
        self._serve = serve
        self._limits = limits
        self._pool = Pool()
        self._servers: dict[str, _Server] = {}  # by address
        self._port = port  # kept while no address is bound
        self._pending: dict[greenlet, str] = {}  # its address, in order of arrival
        self._admitted: Counter[str] = Counter()  # by address
        self._warned_at = -_QUIET_S
        self._shortage = _Shortage()

    @property
    def port(self) -> int:
        """The port we listen on; 0 if we do not."""
        return self._port if self._servers else 0

    @property
    def bound(self) -> tuple[str, ...]:
        """The addresses we listen on."""
        return tuple(self._servers)

    @property
    def connection_count(self) -> int:
        """All TCP connections, those that are still in their handshake, too."""
        return len(self._pool)

    def start(self) -> None:
        """Bind all addresses and accept.

        Raises:
            PortInUseError: Another program listens there.
            UnknownInterfaceError: This machine has no such address.
            ListenerError: The system refuses for another reason.
        """
        if self._addresses:
            self._listen(self._addresses)

    def rebind(self, addresses: Sequence[str]) -> None:
        """Listen on other addresses from now on, on the same port.

        Connections stay, also those to an address that is given up: whether
        they still work is for them to find out, as an address that comes back
        revives them.

        Args:
            addresses: Numeric; those that are bound already are left alone.
                Without any, nobody can connect until the next call.

        Raises:
            ListenerError: As by `start`; then nothing has changed.
        """
        added = [(address, self._port) for address in addresses if address not in self._servers]
        if added:
            self._listen(tuple(added))
        for gone in self._servers.keys() - set(addresses):
            self._servers.pop(gone).close()

    def _listen(self, addresses: tuple[tuple[str, int], ...]) -> None:
        sockets = _bind(addresses)
        self._port = sockets[0].getsockname()[1]
        for (address, _), bound in zip(addresses, sockets, strict=True):
            self._servers[address] = _Server(bound, self._pool, self._handle, self._shortage)
            self._servers[address].start()

    def stop(self, timeout_s: float) -> None:
        """Stop accepting, then wait for the connections to end, and cut the rest.

        Sessions are not closed; who stops a listener has closed them before.

        Args:
            timeout_s: How long they may take.
        """
        self._port = 0
        while self._servers:
            self._servers.popitem()[1].close()
        for pending in tuple(self._pending):
            self._drop_pending(pending)
        self._pool.join(timeout_s)
        self._pool.kill(timeout=_KILL_TIMEOUT_S)

    def _handle(self, server: _Server, sock: GeventSocket, address: tuple[str, int]) -> None:
        """Serve one connection, from its first byte to its last, in its own greenlet."""
        host, port = address[0].removeprefix(_MAPPED_IPV4), address[1]
        this = gevent.getcurrent()
        spare = _spare_descriptors(sock.fileno())
        if spare < _SPARE_DESCRIPTORS // 2:
            self._shortage.tell("hardly any file descriptors are left")
            return
        self._make_room()
        self._pending[this] = host
        admitted: list[str] = []  # at most one
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = self._wrap(sock)
            is_tls = isinstance(transport, TLSSocket)
            chain = transport.client_chain if isinstance(transport, TLSSocket) else ()
            PeerHandler(
                transport,
                Client(host, port, is_tls, chain),
                server,
                rules=self._rules,
                limits=self._limits,
                passwords=self._passwords,
                place=Place(
                    partial(self._admit, this, host, spare, admitted),
                    partial(self._dismiss, this, admitted),
                ),
                serve=self._serve,
            ).handle()
        except OSError as error:
            _log.info("%s:%d: no request: %s", host, port, str(error) or type(error).__name__)
        except Exception:  # noqa: BLE001 - the top of a greenlet
            _log.exception("%s:%d: the connection failed on our side", host, port)
        finally:
            self._dismiss(this, admitted)
            self._pending.pop(this, None)

    def _wrap(self, sock: GeventSocket) -> Transport:
        if self.tls is None:
            return PlainSocket(sock, self._limits.send_timeout_s)
        late = TimeoutError("the TLS handshake took too long")
        with gevent.Timeout(self._limits.tls_handshake_timeout_s, late):
            return self.tls.wrap(sock, self._limits.send_timeout_s)

    def _admit(self, this: greenlet, address: str, spare: int, admitted: list[str]) -> str | None:
        """Count a connection among those that are served, or say why not."""
        if not self._port:
            return "The listener is stopping"
        if self._admitted.total() >= self._limits.max_connections:
            return "Too many clients are connected"
        if self._admitted[address] >= self._limits.max_connections_per_address:
            return "Too many clients are connected from this address"
        if spare < _SPARE_DESCRIPTORS:
            self._shortage.tell("too few file descriptors are left")
            return "Too few file descriptors are left"
        self._pending.pop(this, None)
        self._admitted[address] += 1
        admitted.append(address)
        return None

    def _dismiss(self, this: greenlet, admitted: list[str]) -> None:
        """Count a connection among the pending ones again: it was refused, and is to end."""
        for address in admitted:
            self._pending[this] = address
            self._admitted[address] -= 1
        admitted.clear()
        self._admitted += Counter()  # forgets addresses without connections

    def _make_room(self) -> None:
        while len(self._pending) >= self._limits.max_pending_connections:
            crowd = Counter(self._pending.values()).most_common(1)[0][0]
            if time.monotonic() - self._warned_at >= _QUIET_S:
                self._warned_at = time.monotonic()
                _log.warning("%s: too many connections in their handshake; some are dropped", crowd)
            self._drop_pending(next(p for p, address in self._pending.items() if address == crowd))

    def _drop_pending(self, pending: greenlet) -> None:
        del self._pending[pending]
        gevent.kill(pending)


class _Shortage:
    """Tells the operator that connections are refused for want of something, but seldom."""

    def __init__(self) -> None:
        self._told_at = -_QUIET_S

    def tell(self, reason: object) -> None:
        if time.monotonic() - self._told_at >= _QUIET_S:
            self._told_at = time.monotonic()
            _log.error("no further connections for the moment: %s", reason)


def _spare_descriptors(taken: int) -> int:
    """Return how many file descriptors are above one; the lowest is always given out first."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _SPARE_DESCRIPTORS if limit == resource.RLIM_INFINITY else limit - taken - 1


class _Server(WSGIServer):
    """pywsgi's server of one socket, as far as it accepts.

    Corrected: the handshake is ours, host names are not looked up, and a lack
    of file descriptors is a line in the log instead of a traceback.
    """

    application = None  # type: ignore[assignment]  # the handler never calls one

    def __init__(
        self,
        bound: socket.socket,
        pool: Pool,
        handle: Callable[[_Server, GeventSocket, tuple[str, int]], None],
        shortage: _Shortage,
    ) -> None:
        self._handle_connection = handle
        self._shortage = shortage
        super().__init__(
            bound,
            spawn=pool,
            log=None,
            error_log=_log,
            environ={"SERVER_NAME": bound.getsockname()[0]},
        )

    def handle(self, sock: GeventSocket, address: tuple[str, int]) -> None:  # type: ignore[override]
        self._handle_connection(self, sock, address)

    # pywsgi's may return None, too, whatever its stubs say.
    def do_read(self) -> tuple[GeventSocket, tuple[str, int]] | None:  # type: ignore[override]
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                return None  # that connection is gone already
            self._shortage.tell(error)
            self.stop_accepting()
            gevent.spawn_later(_PAUSE_WITHOUT_DESCRIPTORS_S, self._start_accepting_again)
            return None

    def _start_accepting_again(self) -> None:
        if self.started:
            self.start_accepting()


def _bind(addresses: tuple[tuple[str, int], ...]) -> list[socket.socket]:
    for _ in range(_TRIES_FOR_A_COMMON_PORT):
        try:
            return _bind_all(addresses)
        except PortInUseError:
            # The port that was free on the first address is in use on another.
            if len(addresses) == 1 or any(port for _, port in addresses):
                raise
    return _bind_all(addresses)


def _bind_all(addresses: tuple[tuple[str, int], ...]) -> list[socket.socket]:
    bound: list[socket.socket] = []
    try:
        for address, port in addresses:
            bound.append(_bind_one(address, port or (bound[0].getsockname()[1] if bound else 0)))
    except ListenerError:
        for each in bound:
            each.close()
        raise
    return bound


def _bind_one(address: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UnknownInterfaceError(address, known_names()) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != ANY_IPV6)
        listening.bind(where)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _binding_error(error, address, port) from error
    listening.setblocking(False)
    return listening


def _binding_error(error: OSError, address: str, port: int) -> ListenerError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(address, port)
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return UnknownInterfaceError(address, known_names())
    if error.errno == errno.EACCES:
        return ListenerError(
            f"port {port} on {address} needs privileges", hint="choose a port above 1023"
        )
    return ListenerError(f"cannot listen on {address} port {port}: {error.strerror}")
