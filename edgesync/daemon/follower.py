"""Keeps listeners where their interfaces are, and tells the networks of them.

One greenlet for all listeners: it looks when the kernel reports a change of an
interface, and every few seconds anyway. So a report that was lost, a renewed
certificate, or a port that another program has given back is found within 5 s.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import gevent

from edgesync import Limits, ListenerPasswordAuthenticator, URLEndpointListener
from edgesync.api.events import Events
from edgesync.net.interfaces import InterfaceChanges

if TYPE_CHECKING:
    from edgesync.net.mdns import Advertisement, Advertiser

log: Final = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 4.0


class Follower:
    """Follow the interfaces of all listeners."""

    def __init__(
        self,
        listeners: Mapping[str, URLEndpointListener],
        advertised: Callable[[], Collection[str]],
        events: Events,
        limits: Limits,
    ) -> None:
        """Do nothing yet, but load what takes its time, as nobody is connected now.

        Args:
            listeners: By name; may change while we run.
            advertised: Returns the names of those that are announced over mDNS.
            events: Are told which listeners serve and which wait.
            limits: Those of mDNS count.
        """
        self._listeners = listeners
        self._advertised = advertised
        self._events = events
        self._limits = limits
        self._told: dict[str, str] = {}
        self._advertiser = self._made_advertiser()
        self._following: tuple[InterfaceChanges, gevent.Greenlet[..., None]] | None = None

    def start(self) -> None:
        """Follow from now on, in the background.

        Raises:
            ListenerError: The system does not let us watch its interfaces.
        """
        changes = InterfaceChanges()
        self.follow()
        self._following = (changes, gevent.spawn(self._run, changes))

    def stop(self) -> None:
        """Say goodbye on the networks; the listeners stay as they are."""
        if self._following is not None:
            changes, greenlet = self._following
            greenlet.kill()
            changes.close()
        if self._advertiser is not None:
            self._advertiser.stop()

    def follow(self) -> None:
        """Look at all interfaces now; never waits."""
        for name, listener in self._listeners.items():
            listener.follow_interface()
            self._tell(name, listener)
        for name in self._told.keys() - self._listeners.keys():
            del self._told[name]
        if self._advertiser is None:  # a reload may be the first to want it
            self._advertiser = self._made_advertiser()
        if self._advertiser is not None:
            self._advertiser.update(self._advertisements())

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """The names under which listeners are announced over mDNS, by listener."""
        return self._advertiser.names if self._advertiser is not None else {}

    @property
    def problems(self) -> Mapping[str, str]:
        """Why nothing is announced over mDNS, by interface."""
        return self._advertiser.problems if self._advertiser is not None else {}

    def _run(self, changes: InterfaceChanges) -> None:
        while True:
            changes.wait(LOOK_AGAIN_S)
            try:
                self.follow()
            except Exception:  # the top of a greenlet, and the next look may do
                log.exception("the network interfaces could not be followed")

    def _tell(self, name: str, listener: URLEndpointListener) -> None:
        if (missing := listener.waiting_for) is not None:
            event, now = "listener_waiting", f'listener "{name}" waits for {missing}'
        elif urls := listener.urls:
            event, now = "listener_serving", f'listener "{name}" serves {" ".join(urls)}'
        else:
            event, now = "listener_stopped", f'listener "{name}" is stopped'
        if self._told.get(name) != now:
            self._told[name] = now
            self._events.tell(event, now, listener=name)

    def _made_advertiser(self) -> Advertiser | None:
        if not any(self._can_be_found(name) for name in self._advertised()):
            return None  # and 6 MB are saved
        from edgesync.net.mdns import Advertiser  # noqa: PLC0415

        return Advertiser(socket.gethostname().partition(".")[0] or "edgesync", self._limits)

    def _can_be_found(self, name: str) -> bool:
        """Tell whether a listener may ever be reached from other machines."""
        listener = self._listeners.get(name)
        interface = listener.config.network_interface if listener is not None else None
        try:
            return interface is None or not ip_address(interface).is_loopback
        except ValueError:
            return interface != "lo"

    def _advertisements(self) -> Iterator[Advertisement]:
        from edgesync.net.mdns import Advertisement  # noqa: PLC0415 - as above

        advertised = self._advertised()
        for name, listener in self._listeners.items():
            if name in advertised and listener.addresses:
                identity = listener.tls_identity
                yield Advertisement(
                    listener=name,
                    database=_database(listener),
                    port=listener.port,
                    addresses=listener.addresses,
                    fingerprint=identity.fingerprint if identity is not None else None,
                    authentication=_authentication(listener),
                    protocols=listener.protocol_versions,
                )


def _database(listener: URLEndpointListener) -> str:
    config = listener.config
    return (config.database or config.collections[0].database).name


def _authentication(listener: URLEndpointListener) -> str:
    authenticator = listener.config.authenticator
    if authenticator is None:
        return "none"
    is_password = isinstance(authenticator, ListenerPasswordAuthenticator)
    return "password" if is_password else "certificate"
