"""What every test of the network gets: a watched hub, and servers that go away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pytest

from edgesync.limits import Limits
from edgesync.net.acceptor import Acceptor
from edgesync.net.handshake import HandshakeRules
from edgesync.net.tls import ServerTLS
from edgesync.tls_identity import TLSIdentity
from tests.hub_watch import HubWatch
from tests.net.echo import serve_echo

QUICK: Final = Limits(
    tls_handshake_timeout_s=0.3, request_timeout_s=0.3, close_timeout_s=0.3, send_timeout_s=0.3
)
RULES: Final = HandshakeRules(
    database="db",
    subprotocols=("BLIP_3+CBMobile_3", "BLIP_3+CBMobile_2"),
    authenticate=None,
    product="edgesync/1.2",
)

StartServer = Callable[..., Acceptor]


@pytest.fixture(autouse=True)
def _hub_is_never_blocked() -> Iterator[None]:
    """Fail a test in which gevent's monitor saw one greenlet run for 50 ms."""
    watch = HubWatch()
    watch.start()
    yield
    watch.stop()
    assert not watch.reports, watch.reports[0]


@pytest.fixture(scope="session")
def identity() -> TLSIdentity:
    """Return one identity for all, as a key takes time."""
    return TLSIdentity.anonymous()


@pytest.fixture
def tls(identity: TLSIdentity) -> ServerTLS:
    """Return what encrypts a server's connections."""
    return identity.server_tls()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Return a way to start servers on loopback, which stop after the test."""
    acceptors: list[Acceptor] = []

    def start(
        *,
        tls: ServerTLS | None = None,
        rules: HandshakeRules = RULES,
        limits: Limits = QUICK,
        **changes: object,
    ) -> Acceptor:
        serve = changes.pop("serve", serve_echo)
        acceptor = Acceptor(
            [("127.0.0.1", 0)],
            replace(rules, **changes),  # type: ignore[arg-type]  # their names are checked
            tls,
            serve,  # type: ignore[arg-type]
            limits,
        )
        acceptor.start()
        acceptors.append(acceptor)
        return acceptor

    yield start
    for acceptor in acceptors:
        acceptor.stop(0.0)
