"""Who may connect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from edgesync.identity.certificate import Certificate
from edgesync.identity.key_files import read_certificates
from edgesync.identity.trust import TrustAnchors
from edgesync.limits import Limits
from edgesync.net.passwords import Credentials

_log = logging.getLogger(__name__)


class ListenerPasswordAuthenticator:
    """Ask a function of the application for every name and password.

    The function runs in a thread, so that it may compute or wait as long as it
    likes and only its own connection waits with it. It must not touch objects
    that belong to the event loop. If it raises, that is logged and counts as no.

    Compare passwords with `hmac.compare_digest`, or leave them to a `KeyStore`.

    Spec: tls-and-auth.md §3.
    """

    def __init__(self, callback: Callable[[str, str], bool]) -> None:
        self._callback = callback

    def authenticate(self, credentials: Credentials) -> bool:
        """Return whether this client may connect."""
        try:
            return bool(self._callback(credentials.user, credentials.password))
        except Exception:  # noqa: BLE001 - the application's own code
            _log.exception("the password callback failed; the client is refused")
            return False


@dataclass(frozen=True, slots=True)
class ListenerCertificateAuthenticatorDelegate:
    """A function of the application that decides about clients' certificates, alone.

    Nothing else is checked but that the client has the leaf's key: not the
    dates, not the issuers. The function gets the chain, leaf first. It runs
    inside the handshake, where nothing may wait: it answers at once, from what
    is in memory. If it raises, that is logged and counts as no.

    Spec: tls-and-auth.md §3.
    """

    callback: Callable[[tuple[Certificate, ...]], bool]

    def __call__(self, chain: Sequence[Certificate]) -> bool:
        """Return whether a client with this chain may connect."""
        try:
            return bool(self.callback(tuple(chain)))
        except Exception:  # noqa: BLE001 - the application's own code
            _log.exception("the certificate callback failed; the client is refused")
            return False


class ListenerCertificateAuthenticator:
    """Let in whoever has a certificate that is trusted, and its key.

    Needs TLS. Trusted is what the delegate says, or whose chain ends at one of
    the listed certificates: roots, intermediates or self-signed leaves.

    Spec: tls-and-auth.md §3, §4.7.
    """

    def __init__(
        self, roots_or_delegate: Sequence[Certificate] | ListenerCertificateAuthenticatorDelegate
    ) -> None:
        """Take the certificates to trust, or who decides.

        Raises:
            ConfigurationError: The list is empty; nobody could connect.
        """
        self._judge: TrustAnchors | ListenerCertificateAuthenticatorDelegate
        if isinstance(roots_or_delegate, ListenerCertificateAuthenticatorDelegate):
            self._judge = roots_or_delegate
        else:
            self._judge = TrustAnchors(roots_or_delegate)

    @classmethod
    def from_pem(cls, *files: bytes) -> ListenerCertificateAuthenticator:
        """Trust all certificates of PEM files, given by their content.

        Raises:
            IdentityError: A file holds no certificate, or one that cannot be read.
            ConfigurationError: There is no file.
        """
        limits = Limits()
        return cls([each for file in files for each in read_certificates(file, limits)])

    def refusal(self, chain: Sequence[Certificate], now: datetime) -> str | None:
        """Return why a client may not connect, for the log; None if it may.

        Args:
            chain: As the client sent it, leaf first.
            now: With its time zone.
        """
        if not chain:
            return "it sent no certificate"
        if isinstance(self._judge, TrustAnchors):
            return self._judge.refusal(chain, now)
        return None if self._judge(chain) else "the application does not trust its certificate"
