"""Which certificates of clients an authenticator takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from edgesync import ListenerCertificateAuthenticator, ListenerCertificateAuthenticatorDelegate
from edgesync.errors import ConfigurationError, IdentityError
from edgesync.identity.certificate import Certificate, KeyType, KeyUsages, make_identity
from edgesync.identity.key_files import to_pem

NOW: Final = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
LATER: Final = NOW + timedelta(days=1000)
ROOT: Final = make_identity(
    {"CN": "root"}, usages=KeyUsages.CERTIFICATE_AUTHORITY, now=NOW, key_type=KeyType.P_256
)
ANN: Final = make_identity(
    {"CN": "ann"}, usages=KeyUsages.CLIENT_AUTH, now=NOW, key_type=KeyType.P_256, issuer=ROOT
)
BEN: Final = make_identity(
    {"CN": "ben"}, usages=KeyUsages.CLIENT_AUTH, now=NOW, key_type=KeyType.P_256
)


def test_listed_roots_decide() -> None:
    authenticator = ListenerCertificateAuthenticator(ROOT.certs)
    assert authenticator.refusal(ANN.certs, NOW) is None
    assert authenticator.refusal(BEN.certs, NOW) == "its issuer is not trusted"
    assert authenticator.refusal(ANN.certs, LATER) == '"ann" has expired'


def test_roots_come_from_pem_files() -> None:
    authenticator = ListenerCertificateAuthenticator.from_pem(to_pem(ROOT.certs), to_pem(BEN.certs))
    assert authenticator.refusal(ANN.certs, NOW) is None
    assert authenticator.refusal(BEN.certs, NOW) is None


def test_without_roots_there_is_no_authenticator() -> None:
    with pytest.raises(ConfigurationError):
        ListenerCertificateAuthenticator([])
    with pytest.raises(ConfigurationError):
        ListenerCertificateAuthenticator.from_pem()
    with pytest.raises(IdentityError):
        ListenerCertificateAuthenticator.from_pem(b"")


def test_a_list_that_is_changed_later_changes_nothing() -> None:
    roots = list(ROOT.certs)
    authenticator = ListenerCertificateAuthenticator(roots)
    roots.clear()
    assert authenticator.refusal(ANN.certs, NOW) is None


def test_delegate_decides_alone_and_sees_the_chain() -> None:
    seen: list[tuple[Certificate, ...]] = []

    def decide(chain: tuple[Certificate, ...]) -> bool:
        seen.append(chain)
        return len(seen) == 1

    delegate = ListenerCertificateAuthenticatorDelegate(decide)
    authenticator = ListenerCertificateAuthenticator(delegate)
    assert authenticator.refusal(list(ANN.certs), LATER) is None  # expired: not asked for
    assert "application does not trust" in str(authenticator.refusal(ANN.certs, NOW))
    assert seen == [ANN.certs, ANN.certs]


def test_delegate_is_not_asked_without_a_certificate() -> None:
    delegate = ListenerCertificateAuthenticatorDelegate(lambda _chain: True)
    assert ListenerCertificateAuthenticator(delegate).refusal([], NOW) == "it sent no certificate"


def test_failing_delegate_counts_as_no_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_chain: tuple[Certificate, ...]) -> bool:
        raise RuntimeError("no list of clients")

    delegate = ListenerCertificateAuthenticatorDelegate(fail)
    assert ListenerCertificateAuthenticator(delegate).refusal(ANN.certs, NOW) is not None
    assert "no list of clients" in caplog.text
