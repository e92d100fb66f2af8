"""Certificates as LiteCore makes them, and PEM as people bring it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from edgesync.errors import IdentityError
from edgesync.identity.certificate import (
    Certificate,
    KeyType,
    PrivateKey,
    fingerprint,
    make_self_signed,
    read_pem,
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
    with pytest.raises(IdentityError, match="cannot be a common name"):
        make_self_signed(name, valid_for=YEAR, now=NOW)


def test_certificate_that_is_never_valid_is_refused() -> None:
    with pytest.raises(IdentityError, match="never be valid"):
        make_self_signed("kitchen", valid_for=timedelta(), now=NOW)


def test_fingerprint_is_sha_256() -> None:
    certificate, _ = make()
    assert (
        fingerprint(certificate) == hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    )


# --- PEM ----------------------------------------------------------------------------


def key_pem(
    key: PrivateKey | ed25519.Ed25519PrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def pem(*certificates: Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def issue(subject: str, issuer: str, issuer_key: PrivateKey) -> tuple[Certificate, PrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(f"CN={subject}"))
        .issuer_name(x509.Name.from_rfc4514_string(f"CN={issuer}"))
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + YEAR)
        .public_key(key.public_key())
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate, key


@pytest.mark.parametrize("key_type", KeyType)
def test_key_and_certificate_are_read(key_type: KeyType) -> None:
    certificate, key = make(key_type)
    chain, read = read_pem(key_pem(key), pem(certificate))
    assert chain == (certificate,)
    assert read.private_numbers() == key.private_numbers()


def test_chain_is_put_in_order_and_strangers_are_left_out() -> None:
    root, root_key = make_self_signed("root", valid_for=YEAR, now=NOW, key_type=KeyType.P_256)
    middle, middle_key = issue("middle", "root", root_key)
    leaf, leaf_key = issue("leaf", "middle", middle_key)
    stranger, _ = make()
    impostor, _ = issue("middle", "root", root_key)  # the same name, another key
    chain, _ = read_pem(key_pem(leaf_key), pem(root, stranger, impostor, leaf, middle))
    assert chain == (leaf, middle, root)


def test_chain_without_the_keys_certificate_is_refused() -> None:
    with pytest.raises(IdentityError, match="none of the certificates belongs"):
        read_pem(key_pem(make()[1]), pem(make()[0]))


@pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_unreadable_pem_is_refused(data: bytes) -> None:
    certificate, key = make()
    with pytest.raises(IdentityError, match="chain cannot be read"):
        read_pem(key_pem(key), data)
    with pytest.raises(IdentityError, match="key cannot be read"):
        read_pem(data, pem(certificate))


def test_encrypted_key_is_refused_with_the_way_out() -> None:
    certificate, key = make()
    with pytest.raises(IdentityError, match="is encrypted") as raised:
        read_pem(key_pem(key, BestAvailableEncryption(b"secret")), pem(certificate))
    assert raised.value.hint == "decrypt it first"


def test_key_that_clients_do_not_know_is_refused() -> None:
    with pytest.raises(IdentityError, match="neither an RSA nor an elliptic curve key"):
        read_pem(key_pem(ed25519.Ed25519PrivateKey.generate()), pem(make()[0]))
