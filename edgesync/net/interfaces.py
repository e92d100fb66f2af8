"""Network interfaces and their addresses: what to bind, what to show.

The only module that imports netifaces.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

import netifaces

from edgesync.errors import UnknownInterfaceError

ANY_IPV6: Final = "::"
ANY_IPV4: Final = "0.0.0.0"  # noqa: S104 - a listener without an interface serves them all
_IFF_UP: Final = 1
_SYS_CLASS_NET: Final = Path("/sys/class/net")


class Interface(NamedTuple):
    """One interface, its addresses in the order in which clients should try them."""

    name: str
    is_up: bool
    addresses: tuple[str, ...]  # link-local IPv6 ones with their zone: fe80::1%eth0


def interfaces() -> tuple[Interface, ...]:
    """Return all interfaces that have an address, by primary address.

    Spec: tls-and-auth.md §5.2.
    """
    found = [
        Interface(name, _is_up(name), tuple(addresses))
        for name in netifaces.interfaces()
        if (addresses := sorted(_addresses_of(name), key=_preference))
    ]
    return tuple(sorted(found, key=lambda each: _preference(each.addresses[0])))


def addresses_to_bind(network_interface: str | None) -> tuple[str, ...]:
    """Return the addresses a listener binds to.

    Args:
        network_interface: None for all, an interface's name for its primary
            address, or an address, which is returned as it is.

    Raises:
        UnknownInterfaceError: It is no address, and no interface of that name
            has one.

    Spec: tls-and-auth.md §5.
    """
    if network_interface is None:
        return (ANY_IPV6,) if _has_ipv6() else (ANY_IPV4,)
    with suppress(ValueError):
        return (str(ip_address(network_interface)),)
    for interface in interfaces():
        if interface.name == network_interface:
            return interface.addresses[:1]
    raise UnknownInterfaceError(network_interface, known_names())


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


def _addresses_of(name: str) -> Iterator[str]:
    try:
        families = netifaces.ifaddresses(name)
    except ValueError:
        return  # it went away since it was listed
    for family in (netifaces.AF_INET, netifaces.AF_INET6):
        for entry in families.get(family, ()):
            with suppress(ValueError):
                yield str(ip_address(entry["addr"]))


def _preference(address: str) -> tuple[int, int, bytes]:
    """Sort IPv4 before IPv6; routable, then link-local, then loopback."""
    parsed = ip_address(address)
    rank = 2 if parsed.is_loopback else 1 if parsed.is_link_local else 0
    return parsed.version, rank, parsed.packed


def _is_link_local_ipv6(address: str) -> bool:
    parsed = ip_address(address)
    return isinstance(parsed, IPv6Address) and parsed.is_link_local


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _is_up(name: str) -> bool:
    try:
        flags = int((_SYS_CLASS_NET / name / "flags").read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return True  # an alias, or no sysfs: better one URL too many
    return bool(flags & _IFF_UP)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((ANY_IPV6, 0))
    except OSError:
        return False
    return True
