"""Who may connect."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgesync.net.handshake import Credentials

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

    def authenticate(self, credentials: Credentials | None) -> bool:
        """Return whether this client may connect; without a password never."""
        if credentials is None:
            return False
        try:
            return bool(self._callback(credentials.user, credentials.password))
        except Exception:  # noqa: BLE001 - the application's own code
            _log.exception("the password callback failed; the client is refused")
            return False
