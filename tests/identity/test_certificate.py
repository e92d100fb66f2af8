"""Certificates as LiteCore makes them, issued and renewed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgesync.errors import IdentityError, IdentityExpiredError
from edgesync.identity.attributes import Attributes
from edgesync.identity.certificate import (
    Certificate,
    Identity,
    KeyType,
    KeyUsages,
    PrivateKey,
    fingerprint,
    make_identity,
    make_self_signed,
    renew,
)

NOW: Final = datetime(2026, 5, 4, 3, 2, 1, 999_999, tzinfo=UTC)
YEAR: Final = timedelta(days=365)


def make(key_type: KeyType = KeyType.P_256) -> tuple[Certificate, PrivateKey]:
    return make_self_signed("kitchen", valid_for=YEAR, now=NOW, key_type=key_type)


def test_fields_are_those_of_litecore() -> None:
    certificate, _ = make()
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == 1
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=kitchen"
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_validity_begins_a_minute_ago_and_has_whole_seconds() -> None:
    certificate, _ = make()
    assert certificate.not_valid_before_utc == datetime(2026, 5, 4, 3, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2027, 5, 4, 3, 1, 1, tzinfo=UTC)


def test_signature_verifies_with_its_own_key() -> None:
    certificate, _ = make()
    certificate.verify_directly_issued_by(certificate)


def test_default_key_is_rsa_2048() -> None:
    certificate, key = make_self_signed("kitchen", valid_for=YEAR, now=NOW)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment


def test_p_256_is_not_for_key_encipherment() -> None:
    certificate, key = make()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_encipherment


def test_extensions_are_those_of_litecore() -> None:
    extensions = make()[0].extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (False, None)
    subject = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == subject.digest
    netscape = extensions.get_extension_for_oid(x509.ObjectIdentifier("2.16.840.1.113730.1.1"))
    assert isinstance(netscape.value, x509.UnrecognizedExtension)
    assert netscape.value.value == bytes.fromhex("03020640")
    assert len(extensions) == 5


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_impossible_common_name_is_refused(name: str) -> None:
    with pytest.raises(IdentityError, match="common name"):
        make_self_signed(name, valid_for=YEAR, now=NOW)


def test_certificate_that_is_never_valid_is_refused() -> None:
    with pytest.raises(IdentityError, match="never be valid"):
        make_self_signed("kitchen", valid_for=timedelta(), now=NOW)


def test_fingerprint_is_sha_256() -> None:
    certificate, _ = make()
    assert (
        fingerprint(certificate) == hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    )


# --- attributes and usages --------------------------------------------------------


def identity(
    attributes: Attributes | None = None,
    usages: KeyUsages = KeyUsages.SERVER_AUTH,
    *,
    expires: datetime | None = None,
    issuer: Identity | None = None,
    now: datetime = NOW,
) -> Identity:
    return make_identity(
        attributes or {"CN": "kitchen"},
        usages=usages,
        now=now,
        expires=expires,
        key_type=KeyType.P_256,
        issuer=issuer,
    )


def authority(name: str = "workshop", **options: datetime) -> Identity:
    return identity({"CN": name}, KeyUsages.CERTIFICATE_AUTHORITY, **options)  # type: ignore[arg-type]


def netscape_type(certificate: Certificate) -> bytes:
    found = certificate.extensions.get_extension_for_oid(
        x509.ObjectIdentifier("2.16.840.1.113730.1.1")
    ).value
    assert isinstance(found, x509.UnrecognizedExtension)
    return found.value


def test_every_attribute_of_the_subject_is_written() -> None:
    attributes = {
        "CN": "kitchen",
        "pseudonym": "k",
        "GN": "Ann",
        "SN": "Smith",
        "O": "Org",
        "OU": "Unit",
        "postalAddress": "1 Road",
        "L": "Town",
        "postalCode": "12345",
        "ST": "State",
        "C": "DE",
    }
    subject = identity(attributes).certs[0].subject
    assert [attribute.value for attribute in subject] == list(attributes.values())


def test_other_names_are_written_one_or_many_and_not_critical() -> None:
    certificate = identity(
        {
            "CN": "kitchen",
            "rfc822Name": "ann@example.org",
            "dNSName": ["kitchen.local", "k.example.org"],
            "uniformResourceIdentifier": "urn:kitchen",
            "iPAddress": [bytes((10, 0, 1, 1)), "fd00::1"],
            "registeredID": "1.2.3.4",
        }
    ).certs[0]
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not found.critical
    assert [str(name.value) for name in found.value] == [
        "ann@example.org",
        "kitchen.local",
        "k.example.org",
        "urn:kitchen",
        "10.0.1.1",
        "fd00::1",
        "<ObjectIdentifier(oid=1.2.3.4, name=Unknown OID)>",
    ]


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({}, "need a common name"),
        ({"O": "Org"}, "need a common name"),
        ({"CN": b"kitchen"}, "not text"),
        ({"CN": "k", "C": "Germany"}, '"C"'),
        ({"CN": "k", "commonName": "k"}, 'no certificate attribute "commonName"'),
        ({"CN": "k", "iPAddress": b"123"}, "iPAddress"),
        ({"CN": "k", "iPAddress": "1.1.1.256"}, "iPAddress"),
        ({"CN": "k", "dNSName": "k\u00fcche.local"}, "dNSName"),
        ({"CN": "k", "dNSName": ""}, "dNSName"),
        ({"CN": "k", "rfc822Name": b"a@b"}, "rfc822Name"),
        ({"CN": "k", "registeredID": "one"}, "registeredID"),
    ],
)
def test_impossible_attributes_are_refused_by_name(attributes: Attributes, why: str) -> None:
    with pytest.raises(IdentityError, match=why):
        make_identity(attributes, usages=KeyUsages.SERVER_AUTH, now=NOW, key_type=KeyType.P_256)


@pytest.mark.parametrize(
    ("usages", "der"),
    [
        (KeyUsages.SERVER_AUTH, "03020640"),
        (KeyUsages.CLIENT_AUTH, "03020780"),
        (KeyUsages.SERVER_AUTH | KeyUsages.CLIENT_AUTH, "030206c0"),
        (KeyUsages.CERTIFICATE_AUTHORITY, "03020204"),
    ],
)
def test_usages_are_written_as_the_netscape_type(usages: KeyUsages, der: str) -> None:
    assert netscape_type(identity(usages=usages).certs[0]) == bytes.fromhex(der)


def test_an_identity_for_nothing_is_refused() -> None:
    with pytest.raises(IdentityError, match="must be for"):
        identity(usages=KeyUsages(0))


def test_an_authority_may_sign_certificates() -> None:
    extensions = authority().certs[0].extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_given_expiration_is_kept_to_the_second() -> None:
    certificate = identity(expires=NOW + YEAR).certs[0]
    assert certificate.not_valid_after_utc == (NOW + YEAR).replace(microsecond=0)


@pytest.mark.parametrize(
    ("expires", "why"),
    [
        (NOW - timedelta(minutes=2), "never be valid"),
        (datetime(2027, 1, 1), "no time zone"),
    ],
)
def test_impossible_expirations_are_refused(expires: datetime, why: str) -> None:
    with pytest.raises(IdentityError, match=why):
        identity(expires=expires)


# --- issued by an authority ---------------------------------------------------------


def test_issued_certificate_comes_with_its_issuers() -> None:
    root = authority("root")
    middle = make_identity(
        {"CN": "middle"},
        usages=KeyUsages.CERTIFICATE_AUTHORITY,
        now=NOW,
        key_type=KeyType.RSA_2048,
        issuer=root,
    )
    leaf = identity(issuer=middle)
    assert leaf.certs[1:] == middle.certs == (middle.certs[0], root.certs[0])
    leaf.certs[0].verify_directly_issued_by(middle.certs[0])
    authority_key = leaf.certs[0].extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    subject_key = middle.certs[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert authority_key.value.key_identifier == subject_key.value.digest


def test_issued_certificates_have_serial_numbers_and_purposes_of_their_own() -> None:
    root = authority()
    first, second = identity(issuer=root).certs[0], identity(issuer=root).certs[0]
    assert first.serial_number != second.serial_number
    purposes = first.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_by_default_an_issued_certificate_ends_with_its_issuer() -> None:
    root = authority(expires=NOW + timedelta(days=30))
    assert identity(issuer=root).certs[0].not_valid_after_utc == root.certs[0].not_valid_after_utc
    with pytest.raises(IdentityError, match="outlive"):
        identity(issuer=root, expires=NOW + timedelta(days=31))


def test_who_is_no_authority_may_not_issue() -> None:
    with pytest.raises(IdentityError, match='"kitchen" may not issue'):
        identity(issuer=identity())


def test_an_expired_authority_may_not_issue() -> None:
    with pytest.raises(IdentityExpiredError, match='"workshop" expired on 2027-05-04'):
        identity(issuer=authority(), now=NOW + 2 * YEAR, expires=NOW + 3 * YEAR)


# --- renewal ------------------------------------------------------------------------


def test_renewal_keeps_key_owner_usages_and_other_names() -> None:
    old = identity({"CN": "kitchen", "dNSName": "kitchen.local"}, KeyUsages.CLIENT_AUTH)
    later = NOW + timedelta(days=300)
    new = renew(old, now=later, expires=None, issuer=None)
    assert new.private_key is old.private_key
    assert new.certs[0].subject == old.certs[0].subject
    assert list(new.certs[0].extensions) == list(old.certs[0].extensions)
    assert new.certs[0].not_valid_after_utc > later + timedelta(days=364)
    new.certs[0].verify_directly_issued_by(new.certs[0])


def test_what_was_issued_is_renewed_by_its_issuer_only() -> None:
    root, stranger = authority(), authority()
    old = identity(issuer=root)
    new = renew(old, now=NOW, expires=NOW + timedelta(days=9), issuer=root)
    new.certs[0].verify_directly_issued_by(root.certs[0])
    assert new.certs[1:] == root.certs
    assert new.certs[0].serial_number != old.certs[0].serial_number
    for issuer in (None, stranger):
        with pytest.raises(IdentityError, match="whose key is not here"):
            renew(old, now=NOW, expires=None, issuer=issuer)


def test_certificates_of_a_renewed_authority_stay_good() -> None:
    root = authority()
    leaf = identity(issuer=root)
    renewed = renew(root, now=NOW + timedelta(days=9), expires=None, issuer=None)
    leaf.certs[0].verify_directly_issued_by(renewed.certs[0])
