"""The identity that a listener shows to its clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from gevent import get_hub

from edgesync.identity.certificate import (
    Certificate,
    PrivateKey,
    fingerprint,
    make_self_signed,
    read_pem,
)
from edgesync.net.tls import ServerTLS

ANONYMOUS_COMMON_NAME: Final = "edgesync anonymous"
_ONE_YEAR: Final = timedelta(seconds=31_536_000)


@dataclass(frozen=True, slots=True)
class TLSIdentity:
    """A private key and the chain of certificates that vouch for it.

    Spec: tls-and-auth.md §4.2, §4.5.
    """

    label: str | None
    """The name it is stored under; None for one that is not stored."""
    certs: tuple[Certificate, ...]
    """The chain, leaf first."""
    private_key: PrivateKey = field(repr=False)
    """The leaf's key."""

    @property
    def expiration(self) -> datetime:
        """The end of the leaf's validity, in UTC."""
        return self.certs[0].not_valid_after_utc

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the leaf, by which people and clients know it."""
        return fingerprint(self.certs[0])

    def server_tls(self) -> ServerTLS:
        """Make what encrypts a listener's connections.

        Raises:
            IdentityError: OpenSSL does not take the key or the chain.
        """
        return ServerTLS(self.certs, self.private_key)

    @classmethod
    def from_pem(cls, key_pem: bytes, chain_pem: bytes) -> TLSIdentity:
        """Make an identity that is not stored from an unencrypted key and its chain.

        Raises:
            IdentityError: Something cannot be read, or no certificate is the key's.
        """
        certs, private_key = read_pem(key_pem, chain_pem)
        return cls(label=None, certs=certs, private_key=private_key)

    @classmethod
    def anonymous(cls) -> TLSIdentity:
        """Make a self-signed identity that lives as long as the process.

        Waits for the key in a thread, so that only the caller waits.

        Spec: tls-and-auth.md §4.2.
        """
        certificate, private_key = get_hub().threadpool.apply(_make_anonymous)
        return cls(label=None, certs=(certificate,), private_key=private_key)


def _make_anonymous() -> tuple[Certificate, PrivateKey]:
    return make_self_signed(ANONYMOUS_COMMON_NAME, valid_for=_ONE_YEAR, now=datetime.now(UTC))
