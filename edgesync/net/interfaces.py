"""Network interfaces and their addresses: what to bind, what to show, when to look again.

The only module that imports netifaces. What is so is always read from the
system anew; the kernel's reports (`InterfaceChanges`) only say when, so that
a lost one costs some seconds and never a wrong state.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import gevent
import netifaces
from gevent.socket import wait_read

from edgesync.errors import ListenerError, UnknownInterfaceError

ANY_IPV6: Final = "::"
ANY_IPV4: Final = "0.0.0.0"  # noqa: S104 - a listener without an interface serves them all

_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_RUNNING: Final = 0x40
_IFF_MULTICAST: Final = 0x1000
_UNUSABLE_IPV6: Final = 0x48  # tentative, or its check for duplicates failed
_IF_INET6: Final = Path("/proc/thread-self/net/if_inet6")
_SYS_CLASS_NET: Final = Path("/sys/class/net")

_RTMGRP_LINK_AND_ADDRESSES: Final = 0x111  # links, IPv4 and IPv6 addresses
_POLL_S: Final = 4.0  # finds within 5 s what the kernel did not report; costs 0.2 ms
_SETTLE_S: Final = 0.1  # one change comes as a burst of reports


class Interface(NamedTuple):
    """One interface, its addresses in the order in which clients should try them."""

    name: str
    is_up: bool
    addresses: tuple[str, ...]  # link-local IPv6 ones with their zone: fe80::1%eth0
    has_link: bool = True  # a cable, or an access point
    link_changes: int = 0  # how often the link came or went since boot
    has_multicast: bool = False  # neighbours can be asked for by mDNS


def interfaces() -> tuple[Interface, ...]:
    """Return all interfaces that have an address, by primary address.

    IPv6 addresses that are still checked for duplicates do not count yet.

    Spec: tls-and-auth.md §5.2.
    """
    unusable = _unusable_ipv6()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        found = [
            _interface(asking, name, tuple(addresses))
            for name in netifaces.interfaces()
            if (addresses := sorted(_addresses_of(name, unusable), key=_preference))
        ]
    return tuple(sorted(found, key=lambda each: _preference(each.addresses[0])))


def addresses_to_bind(
    network_interface: str | None, bound: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the addresses a listener binds to.

    Args:
        network_interface: None for all, an interface's name for its primary
            address, or an address, which is returned as it is.
        bound: What the listener is bound to. It stays with that while its
            interface has it, unless it was a makeshift: a link-local address
            before the router gave one, or IPv6 before IPv4.

    Raises:
        UnknownInterfaceError: It is no address, and no interface of that name
            has one.

    Spec: tls-and-auth.md §5.
    """
    if network_interface is None:
        return bound or ((ANY_IPV6,) if _has_ipv6() else (ANY_IPV4,))
    with suppress(ValueError):
        return (str(ip_address(network_interface)),)
    for interface in interfaces():
        if interface.name == network_interface:
            best = interface.addresses[0]
            stays = [
                each for each in bound if each in interface.addresses and _kind(each) == _kind(best)
            ]
            return tuple(stays[:1] or [best])
    raise UnknownInterfaceError(network_interface, known_names())


def what_is_missing(network_interface: str | None) -> str:
    """Return what a listener on an interface or address has to wait for; "" if all is there."""
    if network_interface is None:
        return ""
    try:
        return _what_address_lacks(str(ip_address(network_interface)))
    except ValueError:
        return _what_name_lacks(network_interface)


def _what_name_lacks(name: str) -> str:
    for interface in interfaces():
        if interface.name == name:
            return "" if interface.is_up else f'the interface "{name}", which is down'
    if name in netifaces.interfaces():
        return f'an address of the interface "{name}"'
    return f'the interface "{name}", which is not there'


def _what_address_lacks(address: str) -> str:
    for interface in interfaces():
        if address in interface.addresses:
            down = f'the interface "{interface.name}" of {address}, which is down'
            return "" if interface.is_up else down
    # 127.0.0.2 and routed prefixes are local without being listed.
    return "" if _can_bind(address) else f"the address {address}, which no interface has"


def url_hosts(bound: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts for URLs that reach a listener, the best one first.

    IPv6 addresses come in brackets. Link-local ones are left out: clients
    could not use them without a zone of their own.

    Spec: tls-and-auth.md §5.2.
    """
    if ANY_IPV6 not in bound and ANY_IPV4 not in bound:
        return tuple(_bracketed(address) for address in bound)
    everywhere = [
        address
        for interface in interfaces()
        if interface.is_up
        for address in interface.addresses
        if not _is_link_local_ipv6(address)
        and (ANY_IPV6 in bound or isinstance(ip_address(address), IPv4Address))
    ]
    return tuple(_bracketed(address) for address in dict.fromkeys(everywhere))


def known_names() -> tuple[str, ...]:
    """Return what a person could have meant: interfaces and their addresses."""
    return tuple(f"{each.name} ({', '.join(each.addresses)})" for each in interfaces())


class InterfaceChanges:
    """Wait for interfaces and addresses to come, go or change.

    A context manager that holds a socket to the kernel.
    """

    def __init__(self) -> None:
        """Listen to the kernel.

        Raises:
            ListenerError: The system does not let us.
        """
        try:
            self._kernel = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            self._kernel.bind((0, _RTMGRP_LINK_AND_ADDRESSES))
        except OSError as error:
            raise ListenerError(
                f"network interfaces cannot be watched: {error.strerror}",
                hint="allow edgesyncd the address family AF_NETLINK",
            ) from error

    def wait(self, timeout_s: float = _POLL_S) -> None:
        """Return when something may have changed, or when it is time to look anyway."""
        with suppress(TimeoutError):
            wait_read(self._kernel.fileno(), timeout=timeout_s)
            gevent.sleep(_SETTLE_S)
        self._forget_reports()

    def _forget_reports(self) -> None:
        while True:
            try:
                self._kernel.recv(65536)
            except OSError as error:
                # Reports that did not fit were lost, which is a report as well.
                if error.errno != errno.ENOBUFS:
                    return

    def close(self) -> None:
        """Listen no longer."""
        self._kernel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _interface(asking: socket.socket, name: str, addresses: tuple[str, ...]) -> Interface:
    flags = _flags(asking, name)
    return Interface(
        name,
        bool(flags & _IFF_UP),
        addresses,
        bool(flags & _IFF_RUNNING),
        _link_changes(name),
        bool(flags & _IFF_MULTICAST) and not flags & _IFF_LOOPBACK,
    )


def _addresses_of(name: str, unusable: frozenset[str]) -> Iterator[str]:
    try:
        families = netifaces.ifaddresses(name)
    except ValueError:
        return  # it went away since it was listed
    for family in (netifaces.AF_INET, netifaces.AF_INET6):
        for entry in families.get(family, ()):
            with suppress(ValueError):
                address = str(ip_address(entry["addr"]))
                if f"{address.partition('%')[0]}%{name}" not in unusable:
                    yield address


def _unusable_ipv6() -> frozenset[str]:
    """Return IPv6 addresses, with their interface as zone, that cannot be bound yet."""
    try:
        lines = [line.split() for line in _IF_INET6.read_text(encoding="ascii").splitlines()]
    except OSError:
        return frozenset()  # no IPv6
    return frozenset(
        f"{IPv6Address(int(address, 16))}%{name}"
        for address, _, _, _, flags, name in lines
        if int(flags, 16) & _UNUSABLE_IPV6
    )


def _kind(address: str) -> tuple[int, int]:
    """Sort IPv4 before IPv6; routable, then link-local, then loopback."""
    parsed = ip_address(address)
    return parsed.version, 2 if parsed.is_loopback else 1 if parsed.is_link_local else 0


def _preference(address: str) -> tuple[int, int, bytes]:
    """Sort by kind; within it by number, so that the order is always the same."""
    return *_kind(address), ip_address(address).packed


def _is_link_local_ipv6(address: str) -> bool:
    parsed = ip_address(address)
    return isinstance(parsed, IPv6Address) and parsed.is_link_local


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _flags(asking: socket.socket, name: str) -> int:
    request = struct.pack("40s", name.encode())
    try:
        answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, request)
    except OSError:
        return 0  # it went away since it was listed
    flags: int = struct.unpack_from("16xH", answer)[0]
    return flags


def _link_changes(name: str) -> int:
    try:
        return int((_SYS_CLASS_NET / name / "carrier_changes").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # no sysfs: a quick change of cables goes unnoticed


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((ANY_IPV6, 0))
    except OSError:
        return False
    return True
