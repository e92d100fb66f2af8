"""Announce listeners on their networks and find those of others: DNS-SD over mDNS.

The only module that imports zeroconf. Its calls wait up to seconds, so they
run in threads of a pool; in the hub there is a greenlet for each interface,
which hands over what shall be announced there and gets back what went wrong.

Each interface has a responder of its own, bound to that device. One for all
would announce a listener on networks where it does not listen, and tell each
network the addresses of the others. When the interface gets or loses an
address, the responder is replaced by one that keeps its names. When its cable
was elsewhere, it starts anew: names must be probed for in a network that may
be another one, and what was heard in the old one is stale.

A name is probed for before it is used, and watched afterwards: two boxes that
start in the same second, or two networks that are joined, see each other only
then. The one with the lower host name and port gives way and takes the next
name, "field on box (2)". Our own host, seen through a second interface in the
same network, is no conflict; it is recognised by its host name, which is
derived from its addresses and therefore never names another set of them.

What strangers send passes a gate first, `mdns_gate`, as releases of zeroconf
before 0.150 keep it without bound.

Sources: RFC 6762 (§8 probing and announcing, §9 conflicts, §10.1 goodbyes),
RFC 6763 (§4 names, §6 TXT).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Final, NamedTuple, cast

import gevent
import zeroconf
from gevent.event import Event
from gevent.threadpool import ThreadPool
from zeroconf import DNSService, ServiceInfo, Zeroconf  # type: ignore[attr-defined]
from zeroconf._protocol import incoming

from edgesync.errors import DiscoveryError
from edgesync.limits import Limits
from edgesync.net.announcements import (
    Advertisement,
    Discovered,
    Place,
    Service,
    Wanted,
    discovered,
    instance_name,
    place_of,
    plan,
)
from edgesync.net.interfaces import interfaces
from edgesync.net.mdns_gate import Allowance, Gate

__all__ = ["Advertisement", "Advertiser", "Discovered", "browse"]

_log = logging.getLogger(__name__)

# It warns, with tracebacks, of what is usual while an address goes away; what fails is told here.
logging.getLogger("zeroconf").setLevel(logging.ERROR)

SERVICE_TYPE: Final = "_edgesync._tcp.local."
_MAX_INTERFACE_BYTES: Final = 16  # IFNAMSIZ
_MAX_NAMES_TRIED: Final = 20  # then somebody claims every name there is
_MAX_THREADS: Final = 8  # interfaces that change at once; others wait
_IDLE_THREAD_S: Final = 10
_CALL_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 4.0
_RESOLVE_TIMEOUT_MS: Final = 1000
_PAUSE_OF_WINNER_S: Final = 5.0  # two that both insist must not fill the network


# --- announcing -----------------------------------------------------------------


class Advertiser:
    """Announce listeners, each on the interfaces where it listens.

    No call but `stop` waits; what was asked for is done in the background.
    """

    def __init__(self, host: str, limits: Limits) -> None:
        """Announce nothing yet.

        Args:
            host: The name of this machine, for people.
            limits: Those of mDNS count.
        """
        self._host = host
        self._limits = limits
        self._pool = ThreadPool(_MAX_THREADS, idle_task_timeout=_IDLE_THREAD_S)
        self._links: dict[str, _Link] = {}

    def update(self, advertisements: Iterable[Advertisement]) -> None:
        """Announce these, on the interfaces that there are now, and withdraw all others.

        To be called again whenever interfaces or listeners may have changed;
        without a change it costs a look at the interfaces.
        """
        wanted = plan(advertisements, interfaces(), self._host)
        self._links = {name: link for name, link in self._links.items() if not link.has_ended}
        for name in wanted.keys() - self._links.keys():
            self._links[name] = _Link(name, self._pool, self._limits)
        for name, link in self._links.items():
            link.want(wanted.get(name))

    def stop(self) -> None:
        """Withdraw everything with a goodbye; returns when it was sent."""
        self.update(())
        gevent.joinall([link.greenlet for link in self._links.values()], _STOP_TIMEOUT_S)
        self._links.clear()

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """The names in use, of each listener that is announced.

        There is more than one only where another box has the name in one of
        several networks.
        """
        found: dict[str, dict[str, None]] = {}
        for link in self._links.values():
            for listener, name in link.names.items():
                found.setdefault(listener, {})[name] = None
        return {listener: tuple(names) for listener, names in found.items()}

    @property
    def problems(self) -> Mapping[str, str]:
        """Why nothing is announced, of each interface where that is so; it is tried again."""
        return {name: link.problem for name, link in self._links.items() if link.problem}


class _Link:
    """One interface, in the hub: hands over what is wanted, to a thread, one call at a time."""

    def __init__(self, interface: str, pool: ThreadPool, limits: Limits) -> None:
        self._interface = interface
        self._pool = pool
        self._wanted: Wanted | None = None
        self._wake = Event()
        wake_from_thread = partial(gevent.get_hub().loop.run_callback_threadsafe, self._wake.set)
        self._responder = _Responder(wake_from_thread, limits)
        self.problem = ""
        self.names: Mapping[str, str] = {}
        self.greenlet = gevent.spawn(self._run)

    @property
    def has_ended(self) -> bool:
        """Whether nothing was wanted any more, and that is done."""
        return self.greenlet.dead

    def want(self, wanted: Wanted | None) -> None:
        if wanted != self._wanted or wanted is None or self.problem:
            self._wanted = wanted
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            wanted = self._wanted
            self._tell(self._pool.apply(self._responder.announce, (wanted,)))
            if wanted is None and self._wanted is None:
                return

    def _tell(self, problem: str) -> None:
        """Log what a technician would look for; a failure only if it lasts."""
        if problem and problem == self.problem:
            _log.error("nothing is announced on %s: %s", self._interface, problem)
        self.problem = problem
        names = self._responder.names()
        for name in names.values():
            if name not in self.names.values():
                _log.info('announced on %s as "%s"', self._interface, name)
        self.names = names


class _Announced(NamedTuple):
    service: Service
    number: int  # of the name: 1 is the one we would like
    info: ServiceInfo


class _Responder:
    """The announcements on one interface, in a thread; its calls wait, and come one at a time."""

    def __init__(self, on_conflict: Callable[[], object], limits: Limits) -> None:
        self._on_conflict = on_conflict
        self._limits = limits
        self._zeroconf: Zeroconf | None = None
        self._place: Place | None = None
        self._kept_numbers: dict[str, int] = {}  # of names, from the responder before
        # These are touched in zeroconf's own thread only, but for `names`.
        self._announced: dict[str, _Announced] = {}  # by listener
        self._own_servers: frozenset[str] = frozenset()
        self._lost: set[str] = set()  # listeners whose name is another's
        self._contested: set[str] = set()  # listeners whose name another one claims
        self._insisted_at_s = float("-inf")

    def names(self) -> dict[str, str]:
        """Return the names in use, by listener."""
        announced = dict(self._announced)
        return {
            listener: each.info.name.removesuffix(f".{SERVICE_TYPE}")
            for listener, each in announced.items()
        }

    def announce(self, wanted: Wanted | None) -> str:
        """Announce what is wanted and withdraw the rest; return what went wrong, or ""."""
        # A value and no exception, because the pool prints those.
        try:
            if wanted is None:
                self._close()
            elif self._place is not None and self._place != wanted.place:
                self._kept_numbers = self._make_way(self._place, wanted)
                self._close()
            if wanted is not None:
                if self._zeroconf is None:
                    self._open(wanted.place)
                self._call(self._make_so(wanted))
        except (OSError, RuntimeError, zeroconf.Error, TimeoutError) as error:
            self._kept_numbers = {}
            with suppress(OSError, RuntimeError, zeroconf.Error, TimeoutError):
                self._close()
            return str(error) or type(error).__name__
        return ""

    def _open(self, place: Place) -> None:
        self._zeroconf = _zeroconf_on([place])
        self._place = place
        if not self._zeroconf.engine.senders:
            raise OSError(f"no address of {place.interface} can be used")
        for each in chain(self._zeroconf.engine.readers, self._zeroconf.engine.senders):
            _keep_to_interface(each.transport.get_extra_info("socket"), place.interface)
        _guard(self._zeroconf, place.interface, self._limits)
        self._zeroconf.add_listener(_ServiceRecords(self._note_claim), None)

    def _make_way(self, place: Place, wanted: Wanted) -> dict[str, int]:
        """Give the names to the next responder, if it will be in the same network.

        Without goodbyes for these: nobody shall see them go.
        """
        if place.link_changes != wanted.place.link_changes:
            return {}
        wanted_listeners = {service.listener for service in wanted.services}
        kept = {name: each for name, each in self._announced.items() if name in wanted_listeners}
        self._call(self._forget([each.info for each in kept.values()]))
        return {name: each.number for name, each in kept.items()}

    def _close(self) -> None:
        """Say goodbye and let go."""
        closing, self._zeroconf, self._place = self._zeroconf, None, None
        self._announced = {}
        self._lost.clear()
        self._contested.clear()
        if closing is not None:
            closing.close()

    def _call(self, work: Coroutine[object, object, None]) -> None:
        """Run in zeroconf's thread, and wait."""
        assert self._zeroconf is not None
        assert self._zeroconf.loop is not None
        running: Future[None] = asyncio.run_coroutine_threadsafe(work, self._zeroconf.loop)
        try:
            running.result(_CALL_TIMEOUT_S)
        finally:
            running.cancel()

    # The rest runs in zeroconf's thread.

    async def _forget(self, infos: list[ServiceInfo]) -> None:
        assert self._zeroconf is not None
        self._zeroconf.registry.async_remove(infos)

    async def _make_so(self, wanted: Wanted) -> None:
        self._own_servers = wanted.own_servers
        wanted_listeners = {service.listener for service in wanted.services}
        gone = [self._announced.pop(each) for each in self._announced.keys() - wanted_listeners]
        await asyncio.gather(
            *(self._withdraw(each) for each in gone),
            *(self._announce(service) for service in wanted.services),
        )

    async def _withdraw(self, announced: _Announced) -> None:
        assert self._zeroconf is not None
        await (await self._zeroconf.async_unregister_service(announced.info))

    async def _announce(self, service: Service) -> None:
        assert self._zeroconf is not None
        known = self._announced.get(service.listener)
        is_contested = service.listener in self._contested
        self._contested.discard(service.listener)
        if known is None:
            kept_number = self._kept_numbers.pop(service.listener, None)
            await self._register(service, kept_number or 1, is_ours=kept_number is not None)
        elif service.listener in self._lost:
            self._lost.discard(service.listener)
            # No goodbye: it would take the name from the one who keeps it.
            self._zeroconf.registry.async_remove(known.info)
            del self._announced[service.listener]
            await self._register(service, known.number + 1, is_ours=False)
        elif known.service != service or is_contested:
            info = _info(service, known.number)
            self._announced[service.listener] = _Announced(service, known.number, info)
            await (await self._zeroconf.async_update_service(info))

    async def _register(self, service: Service, number: int, *, is_ours: bool) -> None:
        """Probe for a name, unless it is ours already, then announce it."""
        assert self._zeroconf is not None
        for _ in range(_MAX_NAMES_TRIED):
            info = _info(service, number)
            try:
                sent = await self._zeroconf.async_register_service(
                    info, cooperating_responders=is_ours
                )
            except zeroconf.NonUniqueNameException:
                is_ours = await self._is_ours(info.name)
                number += not is_ours
                continue
            self._announced[service.listener] = _Announced(service, number, info)
            await sent
            return
        raise OSError(f'others have the name "{service.label}" and {_MAX_NAMES_TRIED} more')

    async def _is_ours(self, name: str) -> bool:
        """Tell whether the one who has a name is this host, through another interface."""
        assert self._zeroconf is not None
        found = ServiceInfo(SERVICE_TYPE, name)
        await found.async_request(self._zeroconf, _RESOLVE_TIMEOUT_MS)
        return found.server is not None and found.server.lower() in self._own_servers

    def _note_claim(self, record: DNSService) -> None:
        """Look whether somebody else uses a name of ours, and decide who keeps it."""
        claimed_by = (record.server.lower(), record.port)
        if record.ttl == 0 or claimed_by[0] in self._own_servers:
            return
        for listener, each in self._announced.items():
            if each.info.key != record.name.lower():
                continue
            if claimed_by > (each.service.server, each.service.port):
                self._lost.add(listener)
            elif time.monotonic() - self._insisted_at_s > _PAUSE_OF_WINNER_S:
                self._insisted_at_s = time.monotonic()
                self._contested.add(listener)
            else:
                continue
            self._on_conflict()


class _ServiceRecords(zeroconf.RecordUpdateListener):
    """Give the SRV records that come in to a function."""

    def __init__(self, note: Callable[[DNSService], None]) -> None:
        super().__init__()
        self._note = note

    def async_update_records(
        self, zc: Zeroconf, now: float, records: list[zeroconf.RecordUpdate]
    ) -> None:
        for each in records:
            if isinstance(each.new, DNSService):
                self._note(each.new)

    def async_update_records_complete(self) -> None:
        pass


def _info(service: Service, number: int) -> ServiceInfo:
    return ServiceInfo(
        SERVICE_TYPE,
        f"{instance_name(service.label, number)}.{SERVICE_TYPE}",
        port=service.port,
        properties=dict(service.text),
        server=service.server,
        parsed_addresses=list(service.addresses),
    )


def _zeroconf_on(places: Iterable[Place]) -> Zeroconf:
    speaking: list[str | int] = []
    for place in places:
        if place.ipv4 is not None:
            speaking.append(place.ipv4)
        if place.ipv6 is not None:
            # Link-local addresses may be those of several interfaces.
            address, _, zone = place.ipv6.partition("%")
            speaking.append(socket.if_nametoindex(zone) if zone else address)
    return Zeroconf(interfaces=speaking)


def _guard(responder: Zeroconf, interface: str, limits: Limits) -> None:
    """Put a gate before each of its sockets."""
    allowance = Allowance(limits.max_mdns_bytes_per_s, limits.max_mdns_burst_bytes)
    forget = partial(_forget, responder)
    for each in responder.engine.readers:
        # It has the methods and not the base.
        behind = cast(asyncio.DatagramProtocol, each.transport.get_protocol())
        each.transport.set_protocol(
            Gate(behind, allowance, forget, limits, time.monotonic, interface)
        )


def _forget(responder: Zeroconf) -> None:
    """Drop what it heard; in its thread."""
    cache = responder.cache
    cache.async_remove_records([each for kept in cache.cache.values() for each in kept])
    # Complaints about broken packets, each with its exception; bounded from 0.149.6 on.
    incoming._seen_logs.clear()


def _keep_to_interface(sending: socket.socket, interface: str) -> None:
    """Let a socket hear and speak in one network: it must not answer others."""
    option, name = socket.SO_BINDTODEVICE, interface.encode()
    # A link-local address binds, too, and to bind again takes a privilege.
    if sending.getsockopt(socket.SOL_SOCKET, option, _MAX_INTERFACE_BYTES).strip(b"\0") != name:
        sending.setsockopt(socket.SOL_SOCKET, option, name)


# --- finding ----------------------------------------------------------------------


def browse(timeout_s: float, limits: Limits | None = None) -> tuple[Discovered, ...]:
    """Return the listeners that are announced around here, our own, too, by name.

    Args:
        timeout_s: How long to wait for answers; most come within a second.
            Only the calling greenlet waits, at most a second longer.
        limits: Those of mDNS count.

    Raises:
        DiscoveryError: mDNS does not work on this machine.
    """
    places = [place_of(each) for each in interfaces() if each.is_up and each.has_multicast]
    if not places:
        return ()
    pool = gevent.get_hub().threadpool
    found = pool.apply(_browse, (places, timeout_s, limits or Limits()))
    if isinstance(found, str):
        raise DiscoveryError(found)
    usable = [listener for info in found if (listener := _discovered(info)) is not None]
    return tuple(sorted(usable, key=lambda each: each.name))


def _discovered(info: ServiceInfo) -> Discovered | None:
    name = info.name.removesuffix(f".{SERVICE_TYPE}")
    return discovered(
        name, tuple(info.parsed_scoped_addresses()), info.port, info.decoded_properties
    )


def _browse(places: list[Place], timeout_s: float, limits: Limits) -> list[ServiceInfo] | str:
    """Return what is announced, or what went wrong; waits, in a thread."""
    try:
        asking = _zeroconf_on(places)
    except (OSError, RuntimeError, zeroconf.Error) as error:
        return str(error) or type(error).__name__
    try:
        _guard(asking, ", ".join(each.interface for each in places), limits)
        return _found(asking, timeout_s, limits.max_discovered)
    except (OSError, RuntimeError, zeroconf.Error, TimeoutError) as error:
        return str(error) or type(error).__name__
    finally:
        asking.close()


def _found(asking: Zeroconf, timeout_s: float, most: int) -> list[ServiceInfo]:
    names: dict[str, None] = {}

    def note(name: str, state_change: zeroconf.ServiceStateChange, **_: object) -> None:
        if state_change is zeroconf.ServiceStateChange.Removed:
            names.pop(name, None)
        elif len(names) < most:
            names[name] = None

    # Answers by multicast: those to us alone might reach the responder, which shares our port.
    browser = zeroconf.ServiceBrowser(
        asking, SERVICE_TYPE, handlers=[note], question_type=zeroconf.DNSQuestionType.QM
    )
    time.sleep(timeout_s)
    browser.cancel()
    infos = [ServiceInfo(SERVICE_TYPE, name) for name in list(names)]

    async def resolve() -> None:
        await asyncio.gather(*(each.async_request(asking, _RESOLVE_TIMEOUT_MS) for each in infos))

    assert asking.loop is not None
    asyncio.run_coroutine_threadsafe(resolve(), asking.loop).result(_CALL_TIMEOUT_S)
    return infos
