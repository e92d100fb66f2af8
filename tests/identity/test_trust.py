"""Whose certificates are trusted."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

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
AUTHORITY: Final = (x509.BasicConstraints(ca=True, path_length=None), True)
SERVERS_ONLY: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
# Object identifiers as they stand in a certificate.
ECDSA_SHA_256: Final = bytes.fromhex("06082a8648ce3d040302")
P_256: Final = bytes.fromhex("06082a8648ce3d030107")
STRANGE_4, STRANGE_5 = bytes.fromhex("06032a0304"), bytes.fromhex("06032a0305")


def built(
    common_name: str,
    issuer: Identity | None,
    *extensions: tuple[x509.ExtensionType, bool],
    key: PrivateKey | None = None,
    algorithm: hashes.SHA224 | hashes.SHA256 = SHA_256,
    name: x509.Name | None = None,
) -> Identity:
    """Return what `make_identity` does not make."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = name or x509.Name.from_rfc4514_string(f"CN={common_name}")
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


def loaded(der: bytes) -> Certificate | None:
    """Return a certificate as TLS would hand it over, None if it would not."""
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion, CryptographyDeprecationWarning):
        return None


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


@pytest.mark.parametrize(
    "limit",
    [
        x509.NameConstraints(None, [x509.DNSName("example.org")]),
        x509.PolicyConstraints(0, None),
        x509.InhibitAnyPolicy(0),
    ],
)
@pytest.mark.parametrize("is_critical", [True, False])
def test_authority_whose_limits_are_not_applied_vouches_for_nobody(
    limit: x509.ExtensionType, is_critical: bool
) -> None:
    middle = built("middle", ROOT, AUTHORITY, (limit, is_critical))
    assert refusal(built("x", middle).certs, ROOT_CERT) == (
        '"middle" may issue certificates for some names or policies only'
    )


def test_authority_for_servers_does_not_vouch_for_clients() -> None:
    middle = built("middle", ROOT, AUTHORITY, (SERVERS_ONLY, False))
    assert refusal(built("x", middle).certs, ROOT_CERT) == (
        '"middle" may not issue certificates for clients'
    )
    assert refusal(built("x", middle).certs, middle.certs[0]) is not None


def test_authority_that_may_not_sign_certificates_does_not_vouch() -> None:
    usage = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
    middle = built("middle", ROOT, AUTHORITY, (usage, True))
    assert refusal(built("x", middle).certs, ROOT_CERT) == ('"middle" is no certificate authority')


def test_leaf_that_may_not_sign_is_refused() -> None:
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    assert refusal(built("x", ROOT, (usage, True)).certs, ROOT_CERT) == '"x" is not for clients'


def test_every_authority_of_a_chain_must_be_good() -> None:
    """The two ends do not make up for what is between them."""
    old = make_identity(
        {"CN": "old"},
        usages=KeyUsages.CERTIFICATE_AUTHORITY,
        now=NOW - YEAR / 2,
        expires=NOW - timedelta(days=1),
        key_type=KeyType.P_256,
        issuer=make("old root", usages=KeyUsages.CERTIFICATE_AUTHORITY, now=NOW - YEAR / 2),
    )
    root = old.certs[1]
    assert refusal(built("x", old).certs, root) == '"old" has expired'


def test_path_length_counts_from_the_leaf_whatever_the_order_of_the_chain() -> None:
    short = built("short", None, (x509.BasicConstraints(ca=True, path_length=1), True))
    first = built("first", short, AUTHORITY)
    second = built("second", first, AUTHORITY)
    assert refusal(built("x", first).certs, short.certs[0]) is None
    chain = built("x", second).certs
    for order in ((0, 1, 2, 3), (0, 3, 2, 1), (0, 2, 1, 3)):
        shuffled = tuple(chain[place] for place in order)
        assert "of other authorities" in str(refusal(shuffled, short.certs[0]))


def test_altered_certificate_is_refused() -> None:
    """But for the signature's own bits, of which some may be written in two ways."""
    der = bytearray(LEAF_CERT.public_bytes(Encoding.DER))
    for place in range(len(der)):
        changed = der.copy()
        changed[place] ^= 1
        altered = loaded(bytes(changed))
        if altered is None or altered.tbs_certificate_bytes == LEAF_CERT.tbs_certificate_bytes:
            continue
        try:
            assert refusal((altered, *LEAF.certs[1:]), ROOT_CERT) is not None, place
        except CryptographyDeprecationWarning:
            assert place in range(14, 35)  # the serial number


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


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        rsa.generate_private_key(public_exponent=65537, key_size=4104),
        ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["1024 bits", "4104 bits", "192 bits", "another curve"],
)
def test_keys_that_are_weak_or_strange_are_refused(key: PrivateKey) -> None:
    why = 'the key of "x" is of a kind or size that is not trusted'
    assert refusal(built("x", ROOT, key=key).certs, ROOT_CERT) == why
    assert refusal(built("x", None, key=key).certs, built("x", None, key=key).certs[0]) == why


def test_authority_with_a_weak_key_vouches_for_nobody() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    middle = built("middle", ROOT, AUTHORITY, key=weak)
    assert refusal(built("x", middle).certs, ROOT_CERT) is not None


def test_names_in_a_refusal_are_safe_to_log() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a\n\x1b[2Jb")])
    why = str(refusal(built("x", None, name=name).certs, ROOT_CERT))
    assert why == "its issuer is not trusted"
    why = str(TrustAnchors([ROOT_CERT]).refusal(built("x", None, name=name).certs, NOW - YEAR))
    assert why == '"a??[2Jb" is not valid yet'


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        (ECDSA_SHA_256, ECDSA_SHA_256[:-1] + b"\x7f"),
        (P_256, P_256[:-1] + b"\x7f"),
        (STRANGE_4, STRANGE_5),
    ],
    ids=["the algorithm", "the curve", "an extension twice"],
)
def test_certificate_that_cannot_be_read_is_refused(known: bytes, unknown: bytes) -> None:
    strange = [x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{n}"), b"") for n in (4, 5)]
    good = built("x", ROOT, *((each, False) for each in strange))
    assert refusal(good.certs, ROOT_CERT) is None
    bad = loaded(good.certs[0].public_bytes(Encoding.DER).replace(known, unknown))
    assert bad is not None
    assert bad != good.certs[0]
    assert refusal((bad, *good.certs[1:]), ROOT_CERT) is not None
    assert refusal((LEAF_CERT, bad, *LEAF.certs[1:]), ROOT_CERT) is None  # it is not needed


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
