"""Names and passwords of clients: read from a request, checked, and not too often."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

import gevent
from gevent.lock import BoundedSemaphore

from edgesync.limits import Limits

_log = logging.getLogger(__name__)

_MAX_ADDRESSES: Final = 4096
_MAX_KNOWN: Final = 1024
_NETWORK_BYTES: Final = 8
_QUIET_S: Final = 60.0  # between two warnings about an address


class Credentials(NamedTuple):
    """A name and a password, as a client claims them."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return f"Credentials(user={self.user!r})"


class Verdict(Enum):
    """What came of a check."""

    RIGHT = auto()
    WRONG = auto()
    NOT_NOW = auto()  # nobody has looked at it


def parse_basic(authorization: str) -> Credentials | None:
    """Read an `Authorization` header; None if it is no HTTP Basic one.

    The text is UTF-8, or Latin-1 as old Java clients send it.

    Spec: tls-and-auth.md §3.
    """
    scheme, _, encoded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        text = decoded.decode("latin-1")
    user, colon, password = text.partition(":")
    return Credentials(user, password) if colon else None


class PasswordChecks:
    """Have passwords checked, in threads, and not too often for one address.

    An address may fail `Limits.max_password_failures` times, and once more for
    each `password_failure_forgiven_s` that passes. Beyond that nothing from it
    is looked at, right or wrong: a guess tells nothing, and costs no time and
    memory. But who came in before with the very same name and password is
    checked all the same, so that phones that are known do not suffer from
    another one behind their router.

    A check counts as failed until it has turned out right, so that many at a
    time are no way around. The last 64 bits of an IPv6 address do not count, as
    whoever has one has all of them; those of its own link do.

    Why not by user: then anybody could lock out Ann, and nobody be kept from
    trying one password for all the users there may be.
    """

    def __init__(self, authenticate: Callable[[Credentials], bool], limits: Limits) -> None:
        """Store what is given.

        Args:
            authenticate: Called in a thread of gevent's pool; must not raise.
            limits: How often, and how many at a time.
        """
        self._authenticate = authenticate
        self._limits = limits
        # They would take all threads of the pool, on which others wait, too.
        self._turns = BoundedSemaphore(limits.max_password_checks)
        self._failures: OrderedDict[bytes, _Failures] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def check(self, address: str, credentials: Credentials | None) -> Verdict:
        """Return whether a client may come in; waits, but for its own check only.

        Args:
            address: The client's.
            credentials: None if it named nobody: that is wrong, and no guess.
        """
        if credentials is None:
            return Verdict.WRONG
        digest = self._digest(credentials)
        failures = self._failures_of(address)
        if digest not in self._known and failures.count + 1 > self._limits.max_password_failures:
            failures.warn(address)
            return Verdict.NOT_NOW
        failures.count += 1
        with self._turns:
            is_right = gevent.get_hub().threadpool.apply(self._authenticate, (credentials,))
        if not is_right:
            self._known.pop(digest, None)
            return Verdict.WRONG
        failures.count = max(0.0, failures.count - 1)
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return Verdict.RIGHT

    def _failures_of(self, address: str) -> _Failures:
        key = _network(address)
        failures = self._failures.pop(key, None) or _Failures()
        self._failures[key] = failures  # the last now
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)
        failures.forgive(self._limits.password_failure_forgiven_s)
        return failures

    def _digest(self, credentials: Credentials) -> bytes:
        """Return what credentials are remembered by; without this process's secret it is noise."""
        text = "\0".join(credentials).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._secret, digest_size=16).digest()


class _Failures:
    """Those of one address that are not forgiven yet."""

    __slots__ = ("_forgiven_at", "_warned_at", "count")

    def __init__(self) -> None:
        self.count = 0.0
        self._forgiven_at = time.monotonic()
        self._warned_at = -_QUIET_S

    def forgive(self, each_s: float) -> None:
        now = time.monotonic()
        self.count = max(0.0, self.count - (now - self._forgiven_at) / each_s)
        self._forgiven_at = now

    def warn(self, address: str) -> None:
        if self._forgiven_at - self._warned_at >= _QUIET_S:
            self._warned_at = self._forgiven_at
            _log.warning("%s: too many wrong passwords; more of them are not looked at", address)


def _network(address: str) -> bytes:
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and not parsed.is_link_local:
        return parsed.packed[:_NETWORK_BYTES]
    return parsed.packed
