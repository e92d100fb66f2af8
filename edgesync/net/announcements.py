"""What is announced of a listener, and what is read from the announcements of others.

The records of DNS-SD as values: names, TXT, and which listener is announced
where. Knows no zeroconf and no socket.

Sources: RFC 6763 (§4 names, §6 TXT).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Final, NamedTuple

from edgesync.net.interfaces import ANY_IPV4, ANY_IPV6, Interface

AUTHENTICATIONS: Final = ("none", "password", "certificate")

_VERSIONS: Final = tuple("123456789")
_MAX_LABEL_BYTES: Final = 63  # RFC 6763 §4.1.1


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What clients are told of a listener before they connect."""

    listener: str
    """Its name on this machine."""
    database: str
    port: int
    addresses: tuple[str, ...]
    """What it is bound to; "::" and "0.0.0.0" are all."""
    fingerprint: bytes | None
    """SHA-256 of its certificate; None without TLS."""
    authentication: str
    """One of `AUTHENTICATIONS`."""
    protocols: tuple[int, ...]
    """Versions of the replication protocol."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A listener that somebody announces; nothing of it is proved."""

    name: str
    """Of the instance: "field on kitchen"."""
    addresses: tuple[str, ...]
    """IPv4 first; link-local IPv6 ones with their zone here."""
    port: int
    database: str
    fingerprint: bytes | None
    """SHA-256 of its certificate; None without TLS, or if it does not say."""
    is_tls: bool
    authentication: str
    """One of `AUTHENTICATIONS`; empty if it does not say."""
    protocols: tuple[int, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """What to connect to, the best one first."""
        scheme = "wss" if self.is_tls else "ws"
        hosts = [f"[{each}]" if ":" in each else each for each in self.addresses]
        return tuple(f"{scheme}://{host}:{self.port}/{self.database}" for host in hosts)


class Place(NamedTuple):
    """Where a responder speaks. With another place, it is another responder."""

    interface: str
    ipv4: str | None
    ipv6: str | None
    link_changes: int


class Service(NamedTuple):
    """What is announced of a listener on one interface."""

    listener: str
    label: str  # the name, unless somebody has it
    port: int
    addresses: tuple[str, ...]
    text: tuple[tuple[str, str], ...]

    @property
    def server(self) -> str:
        """The host name of these addresses; others have others, so no two hosts disagree."""
        return f"edgesync-{sha256(','.join(self.addresses).encode()).hexdigest()[:16]}.local."


class Wanted(NamedTuple):
    """What one interface shall announce."""

    place: Place
    services: tuple[Service, ...]
    own_servers: frozenset[str]  # on all interfaces


def plan(
    advertisements: Iterable[Advertisement], found: Sequence[Interface], host: str
) -> dict[str, Wanted]:
    """Return what to announce on which interface.

    Left out are interfaces that are down, without link, or have no multicast,
    as loopback, and a listener where it has no address.
    """
    advertisements = list(advertisements)
    services = {
        interface: tuple(
            Service(each.listener, _label(each.listener, host), each.port, reachable, text(each))
            for each in advertisements
            if (reachable := _addresses_on(interface, each.addresses))
        )
        for interface in found
        if interface.is_up and interface.has_link and interface.has_multicast
    }
    own_servers = frozenset(each.server for each in chain.from_iterable(services.values()))
    return {
        interface.name: Wanted(place_of(interface), announced, own_servers)
        for interface, announced in services.items()
        if announced
    }


def text(advertisement: Advertisement) -> tuple[tuple[str, str], ...]:
    """Return what the TXT record says, in the order in which it says it."""
    pairs = [
        ("txtvers", "1"),
        ("path", f"/{advertisement.database}"),
        ("tls", "0" if advertisement.fingerprint is None else "1"),
        ("auth", advertisement.authentication),
        ("cbmobile", ",".join(str(version) for version in sorted(advertisement.protocols))),
    ]
    if advertisement.fingerprint is not None:
        pairs.append(
            ("fp", base64.urlsafe_b64encode(advertisement.fingerprint).decode().strip("="))
        )
    return tuple(pairs)


def instance_name(label: str, number: int) -> str:
    """Return the name to try as the number-th, counted from 1, no longer than DNS allows."""
    suffix = f" ({number})" if number > 1 else ""
    return label.encode()[: _MAX_LABEL_BYTES - len(suffix)].decode(errors="ignore") + suffix


def _label(listener: str, host: str) -> str:
    """Return a name without what separates labels or hides in a terminal."""
    name = f"{listener} on {host}".replace(".", "-")
    return "".join(character if character.isprintable() else "-" for character in name)


def _addresses_on(interface: Interface, bound: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of an interface's addresses that a listener answers on, as records have them."""
    if ANY_IPV6 in bound:
        candidates = interface.addresses
    elif ANY_IPV4 in bound:
        candidates = tuple(each for each in interface.addresses if ":" not in each)
    else:
        candidates = tuple(each for each in interface.addresses if each in bound)
    # Many clients try one address only; one that needs a zone is the last resort.
    zoneless = [each for each in candidates if "%" not in each]
    return tuple(each.partition("%")[0] for each in zoneless or candidates)


def place_of(interface: Interface) -> Place:
    """Return where a responder for an interface speaks: once in each family."""
    ipv4 = [each for each in interface.addresses if ":" not in each]
    ipv6 = [each for each in interface.addresses if ":" in each]
    return Place(
        interface.name,
        ipv4[0] if ipv4 else None,
        ipv6[0] if ipv6 else None,
        interface.link_changes,
    )


def discovered(
    name: str, addresses: tuple[str, ...], port: int | None, said: Mapping[str, str | None]
) -> Discovered | None:
    """Return what a stranger announces, as far as it makes sense; None if it cannot be used.

    Args:
        name: Of the instance, without type and domain.
        addresses: None if the name has no host.
        port: None if it has no SRV record.
        said: The TXT record.
    """
    path = said.get("path") or ""
    database = path.removeprefix("/")
    if not port or not addresses or database == path or not f"{name}{database}".isprintable():
        return None
    authentication = said.get("auth") or ""
    return Discovered(
        name=name,
        addresses=addresses,
        port=port,
        database=database,
        fingerprint=_fingerprint(said.get("fp") or ""),
        is_tls=said.get("tls") != "0",
        authentication=authentication if authentication in AUTHENTICATIONS else "",
        protocols=tuple(
            int(each) for each in (said.get("cbmobile") or "").split(",") if each in _VERSIONS
        ),
    )


def _fingerprint(encoded: str) -> bytes | None:
    try:
        digest = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (ValueError, binascii.Error):
        return None
    return digest if len(digest) == sha256().digest_size else None
