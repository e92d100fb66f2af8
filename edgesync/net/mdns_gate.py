"""What is let in of what strangers send over mDNS, before zeroconf looks at it.

Anybody in the network can send anything to a responder, and a responder has
to remember what it hears. Releases of zeroconf before 0.150, that of Debian 13
among them, remember without bound: records with a life of their sender's
choice, truncated questions, and each new complaint about a broken packet. So
a gate stands before it: only what can concern us passes, no more of that than
a network has use for, and what zeroconf keeps is dropped when it grows.

Knows the header of a DNS message and nothing else of it; knows no zeroconf.

Sources: RFC 6762 (§7.2 truncated questions, §17 size, §18 header); zeroconf's
advisories of 2026: chained names, truncated questions, complaints, records.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Final

from edgesync.limits import Limits

_log = logging.getLogger(__name__)

# Whatever names a thing of ours has this in full at least once: compressed names point to it.
_CONCERNS_US: Final = re.compile(rb"edgesync|_services", re.IGNORECASE)
_FLAGS: Final = 2  # where they are in the header
_TRUNCATED: Final = 0x02
_HEADER_BYTES: Final = 12
_WARN_AGAIN_S: Final = 600.0

Address = tuple[str, int] | tuple[str, int, int, int]


class Allowance:
    """So much in a second, and that of some seconds at once."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._counted_at_s = 0.0

    def take(self, amount: float, now_s: float) -> bool:
        """Take it if it is left. `now_s` is monotonic."""
        self._left = min(self._burst, self._left + (now_s - self._counted_at_s) * self._per_s)
        self._counted_at_s = now_s
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Gate(asyncio.DatagramProtocol):
    """Takes the place of a responder's protocol and hands on to it what may pass.

    All gates of a responder share an allowance. Runs in the responder's thread,
    and never raises there.
    """

    def __init__(
        self,
        behind: asyncio.DatagramProtocol,
        allowance: Allowance,
        forget: Callable[[], None],
        limits: Limits,
        now_s: Callable[[], float],
        interface: str,
    ) -> None:
        self._behind = behind
        self._allowance = allowance
        self._forget = forget
        self._passed_bytes = 0
        self._limits = limits
        self._now_s = now_s
        self._interface = interface
        self._warned_at_s = float("-inf")

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Hand on a packet, or drop it."""
        if not _HEADER_BYTES <= len(data) <= self._limits.max_mdns_packet_bytes:
            return
        if not _CONCERNS_US.search(data):
            return
        if not self._allowance.take(len(data), self._now_s()):
            self._warn()
            return
        self._passed_bytes += len(data)
        if self._passed_bytes > self._limits.max_mdns_remembered_bytes:
            self._passed_bytes = len(data)
            self._forget()
        try:
            self._behind.datagram_received(_as_whole(data), addr)
        except Exception as error:  # noqa: BLE001 - the parser's, of a packet made for it
            _log.debug("%s: a broken mDNS packet: %r", addr[0], error)

    def error_received(self, exc: Exception) -> None:
        """Hand on."""
        self._behind.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on."""
        self._behind.connection_lost(exc)

    def _warn(self) -> None:
        now_s = self._now_s()
        if now_s - self._warned_at_s > _WARN_AGAIN_S:
            self._warned_at_s = now_s
            _log.warning("too much mDNS traffic on %s; some is not looked at", self._interface)


def _as_whole(data: bytes) -> bytes:
    """Return a question that is answered at once.

    A truncated one would be kept until the rest of its known answers has come;
    without these it gets an answer that it may have already, which is harmless.
    """
    flags = data[_FLAGS]
    if not flags & _TRUNCATED:
        return data
    return b"%b%c%b" % (data[:_FLAGS], flags & ~_TRUNCATED, data[_FLAGS + 1 :])
