"""Whose certificates are trusted."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from edgesync.errors import ConfigurationError
from edgesync.identity.certificate import (
    Certificate,
    Identity,
    KeyType,
    KeyUsages,
    PrivateKey,
    make_identity,
)
from edgesync.identity.trust import TrustAnchors

NOW: Final = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
YEAR: Final = timedelta(days=365)
SHA_256: Final = hashes.SHA256()


def make(
    name: str,
    issuer: Identity | None = None,
    usages: KeyUsages = KeyUsages.CLIENT_AUTH,
    *,
    now: datetime = NOW,
) -> Identity:
    return make_identity(
        {"CN": name}, usages=usages, now=now, key_type=KeyType.P_256, issuer=issuer
    )


def make_authority(name: str, issuer: Identity | None = None) -> Identity:
    return make(name, issuer, KeyUsages.CERTIFICATE_AUTHORITY)


ROOT: Final = make_authority("root")
MIDDLE: Final = make_authority("middle", ROOT)
LEAF: Final = make("leaf", MIDDLE)
ALONE: Final = make("alone")
STRANGER: Final = make("stranger")
LEAF_CERT, MIDDLE_CERT, ROOT_CERT = LEAF.certs


def built(
    name: str,
    issuer: Identity | None,
    *extensions: tuple[x509.ExtensionType, bool],
    key: PrivateKey | None = None,
    algorithm: hashes.SHA224 | hashes.SHA256 = SHA_256,
) -> Identity:
    """Return what `make_identity` does not make."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name.from_rfc4514_string(f"CN={name}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certs[0].subject if issuer else subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + YEAR)
        .public_key(key.public_key())
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(issuer.private_key if issuer else key, algorithm)
    return Identity((certificate, *(issuer.certs if issuer else ())), key)


def refusal(chain: tuple[Certificate, ...], *anchors: Certificate) -> str | None:
    return TrustAnchors(anchors).refusal(chain, NOW)


@pytest.mark.parametrize(
    ("chain", "anchor"),
    [
        (LEAF.certs, ROOT_CERT),
        ((LEAF_CERT, MIDDLE_CERT), ROOT_CERT),
        ((LEAF_CERT, ROOT_CERT, MIDDLE_CERT), ROOT_CERT),
        ((LEAF_CERT,), MIDDLE_CERT),
        ((LEAF_CERT, MIDDLE_CERT), MIDDLE_CERT),
        ((LEAF_CERT,), LEAF_CERT),
        (ALONE.certs, ALONE.certs[0]),
    ],
)
def test_chain_that_ends_at_an_anchor_is_trusted(
    chain: tuple[Certificate, ...], anchor: Certificate
) -> None:
    assert refusal(chain, STRANGER.certs[0], anchor) is None


@pytest.mark.parametrize(
    ("chain", "anchor"),
    [
        ((LEAF_CERT,), ROOT_CERT),  # its intermediate is missing
        (LEAF.certs, ALONE.certs[0]),
        (STRANGER.certs, ALONE.certs[0]),
        (make("alone").certs, ALONE.certs[0]),  # the same name, another key
        (make("leaf", make_authority("middle")).certs, MIDDLE_CERT),
        ((*STRANGER.certs, LEAF_CERT, MIDDLE_CERT, ROOT_CERT), ROOT_CERT),  # others' chain
    ],
)
def test_chain_that_ends_elsewhere_is_not_trusted(
    chain: tuple[Certificate, ...], anchor: Certificate
) -> None:
    assert refusal(chain, anchor) == "its issuer is not trusted"


def test_client_without_certificate_is_not_trusted() -> None:
    assert refusal((), ROOT_CERT) == "it sent no certificate"


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (NOW - timedelta(seconds=61), '"leaf" is not valid yet'),
        (NOW + YEAR, '"leaf" has expired'),
    ],
)
def test_certificates_count_within_their_time_only(now: datetime, why: str) -> None:
    assert TrustAnchors([ROOT_CERT]).refusal(LEAF.certs, now) == why
    assert TrustAnchors([LEAF_CERT]).refusal(LEAF.certs, now) == why


def test_an_expired_anchor_trusts_nobody() -> None:
    old = make("old", usages=KeyUsages.CERTIFICATE_AUTHORITY, now=NOW - 2 * YEAR)
    fresh = built("fresh", old)
    assert refusal(fresh.certs, old.certs[0]) == '"old" has expired'


def test_who_is_no_authority_cannot_vouch_for_others() -> None:
    assert "no certificate authority" in str(refusal(built("x", LEAF).certs, ROOT_CERT))
    assert "no certificate authority" in str(refusal(built("x", ALONE).certs, ALONE.certs[0]))


def test_path_length_bounds_the_authorities_below() -> None:
    short = built("short", None, (x509.BasicConstraints(ca=True, path_length=0), True))
    assert refusal(built("x", short).certs, short.certs[0]) is None
    below = built("below", short, (x509.BasicConstraints(ca=True, path_length=None), True))
    assert "of other authorities" in str(refusal(built("x", below).certs, short.certs[0]))


def test_certificate_for_servers_only_is_refused() -> None:
    server = make("server", ROOT, KeyUsages.SERVER_AUTH)
    assert refusal(server.certs, ROOT_CERT) == '"server" is not for clients'


def test_self_signed_certificate_of_litecores_counts_whatever_its_netscape_type() -> None:
    server = make("server", usages=KeyUsages.SERVER_AUTH)
    assert refusal(server.certs, server.certs[0]) is None


def test_critical_extension_that_is_not_understood_is_refused() -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"")
    assert "critical extension 1.2.3" in str(
        refusal(built("x", ROOT, (strange, True)).certs, ROOT_CERT)
    )
    assert refusal(built("x", ROOT, (strange, False)).certs, ROOT_CERT) is None


def test_names_constrained_by_an_authority_are_refused_not_ignored() -> None:
    constraints = x509.NameConstraints([x509.DNSName("example.org")], None)
    limited = built(
        "limited",
        None,
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (constraints, True),
    )
    assert "critical extension" in str(refusal(built("x", limited).certs, limited.certs[0]))


def test_short_keys_are_refused() -> None:
    short = built("x", ROOT, key=rsa.generate_private_key(public_exponent=65537, key_size=1024))
    assert refusal(short.certs, ROOT_CERT) == 'the key of "x" is too short'


def test_signatures_with_other_hashes_are_refused() -> None:
    weak = built("x", ROOT, algorithm=hashes.SHA224())
    assert "algorithm that is not trusted" in str(refusal(weak.certs, ROOT_CERT))


def test_malformed_extension_is_refused() -> None:
    malformed = x509.UnrecognizedExtension(x509.OID_EXTENDED_KEY_USAGE, b"\x30\x05")
    assert "malformed" in str(refusal(built("x", ROOT, (malformed, False)).certs, ROOT_CERT))


def test_a_long_chain_is_refused() -> None:
    assert "more than 10 certificates" in str(refusal((LEAF_CERT,) * 11, ROOT_CERT))


def test_chain_of_look_alikes_costs_little() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    authority = (x509.BasicConstraints(ca=True, path_length=None), True)
    chain = tuple(built("twin", None, authority, key=key).certs[0] for _ in range(10))
    before = time.process_time()
    assert refusal(chain, ROOT_CERT) == "its issuer is not trusted"
    assert time.process_time() - before < 0.05


def test_a_list_without_certificates_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        TrustAnchors([])
