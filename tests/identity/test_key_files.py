"""Keys and chains in files that people bring and take."""

from __future__ import annotations

import base64
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
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
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.errors import IdentityError
from edgesync.identity.certificate import (
    Certificate,
    Identity,
    KeyType,
    KeyUsages,
    PrivateKey,
    make_identity,
    make_self_signed,
)
from edgesync.identity.key_files import (
    read_certificates,
    read_identity,
    read_pem,
    to_pem,
    to_pkcs12,
)
from edgesync.limits import Limits

NOW: Final = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
YEAR: Final = timedelta(days=365)
LIMITS: Final = Limits()


def make(key_type: KeyType = KeyType.P_256) -> tuple[Certificate, PrivateKey]:
    return make_self_signed("kitchen", valid_for=YEAR, now=NOW, key_type=key_type)


def chained(length: int, key_type: KeyType = KeyType.P_256) -> Identity:
    """Return a leaf below `length` - 1 authorities."""
    issuer = None
    for depth in range(length - 1, -1, -1):
        usages = KeyUsages.CERTIFICATE_AUTHORITY if depth else KeyUsages.SERVER_AUTH
        issuer = make_identity(
            {"CN": f"level {depth}"},
            usages=usages,
            now=NOW,
            key_type=KeyType.P_256 if depth else key_type,
            issuer=issuer,
        )
    assert issuer is not None
    return issuer


CHAIN: Final = chained(3)


def same(one: Identity, other: Identity) -> bool:
    return (
        one.certs == other.certs
        and one.private_key.private_numbers() == other.private_key.private_numbers()
    )


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    ended = subprocess.run(
        ["openssl", *arguments], input=given, capture_output=True, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


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
    read = read_pem(key_pem(key), pem(certificate))
    assert read.certs == (certificate,)
    assert read.private_key.private_numbers() == key.private_numbers()


def test_chain_is_put_in_order_and_strangers_are_left_out() -> None:
    root, root_key = make_self_signed("root", valid_for=YEAR, now=NOW, key_type=KeyType.P_256)
    middle, middle_key = issue("middle", "root", root_key)
    leaf, leaf_key = issue("leaf", "middle", middle_key)
    stranger, _ = make()
    impostor, _ = issue("middle", "root", root_key)  # the same name, another key
    read = read_pem(key_pem(leaf_key), pem(root, stranger, impostor, leaf, middle))
    assert read.certs == (leaf, middle, root)


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
    assert raised.value.hint == "give its password"


def test_key_that_clients_do_not_know_is_refused() -> None:
    with pytest.raises(IdentityError, match="neither an RSA nor an elliptic curve key"):
        read_pem(key_pem(ed25519.Ed25519PrivateKey.generate()), pem(make()[0]))


def test_pem_file_holds_key_and_chain_in_any_order() -> None:
    leaf, middle, root = CHAIN.certs
    key = key_pem(CHAIN.private_key)
    assert same(read_identity(pem(root, leaf) + key + pem(middle), None, LIMITS), CHAIN)


def test_encrypted_pem_key_is_read_with_its_password() -> None:
    data = key_pem(CHAIN.private_key, BestAvailableEncryption(b"secret")) + pem(*CHAIN.certs)
    assert same(read_identity(data, "secret", LIMITS), CHAIN)
    with pytest.raises(IdentityError, match="password is wrong"):
        read_identity(data, "Secret", LIMITS)


def test_keys_of_openssl_are_read_in_each_of_its_forms(tmp_path: Path) -> None:
    certificate, key = make(KeyType.RSA_2048)
    plain = key_pem(key)
    for arguments in (
        ("rsa", "-traditional"),
        ("rsa", "-traditional", "-aes256", "-passout", "pass:secret"),
        ("pkcs8", "-topk8", "-passout", "pass:secret"),
    ):
        data = openssl(*arguments, given=plain) + pem(certificate)
        assert read_identity(data, "secret", LIMITS).certs == (certificate,)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=1024), "has 1024 bits"),
        (ec.generate_private_key(ec.SECP256K1()), "elliptic curve secp256k1"),
    ],
)
def test_keys_that_tls_does_not_take_are_refused(key: PrivateKey, why: str) -> None:
    with pytest.raises(IdentityError, match=why):
        read_pem(key_pem(key), pem(make()[0]))


def test_certificates_are_read_from_pem_and_written_to_it() -> None:
    assert read_certificates(to_pem(CHAIN.certs), LIMITS) == CHAIN.certs
    with pytest.raises(IdentityError, match="cannot be read"):
        read_certificates(b"none", LIMITS)


# --- PKCS#12 ------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", KeyType)
def test_what_is_exported_can_be_imported_with_its_chain(key_type: KeyType) -> None:
    identity = chained(2, key_type)
    data = to_pkcs12("kitchen", identity, "p\u00e4ss")
    assert same(read_identity(data, "p\u00e4ss", LIMITS), identity)


def test_openssl_reads_what_is_exported(tmp_path: Path) -> None:
    file = tmp_path / "kitchen.p12"
    file.write_bytes(to_pkcs12("kitchen", CHAIN, "secret"))
    said = openssl("pkcs12", "-in", str(file), "-passin", "pass:secret", "-nodes")
    assert b"friendlyName: kitchen" in said
    assert same(read_identity(said, None, LIMITS), CHAIN)


@pytest.mark.parametrize("password", ["secret", ""])
def test_what_openssl_exports_is_read_with_its_chain(tmp_path: Path, password: str) -> None:
    (tmp_path / "key.pem").write_bytes(key_pem(CHAIN.private_key))
    (tmp_path / "chain.pem").write_bytes(pem(*CHAIN.certs))
    data = openssl(
        *("pkcs12", "-export", "-in", str(tmp_path / "chain.pem")),
        *("-inkey", str(tmp_path / "key.pem"), "-passout", f"pass:{password}"),
    )
    assert same(read_identity(data, password, LIMITS), CHAIN)


def test_wrong_password_is_refused() -> None:
    data = to_pkcs12("kitchen", CHAIN, "secret")
    for password in ("Secret", "", None):
        with pytest.raises(IdentityError, match="password is wrong"):
            read_identity(data, password, LIMITS)


def test_private_keys_are_not_exported_without_a_password() -> None:
    with pytest.raises(IdentityError, match="only exported with a password"):
        to_pkcs12("kitchen", CHAIN, "")


def test_pkcs12_without_a_key_is_refused() -> None:
    data = pkcs12.serialize_key_and_certificates(
        b"roots", None, None, list(CHAIN.certs), BestAvailableEncryption(b"secret")
    )
    with pytest.raises(IdentityError, match="no private key"):
        read_identity(data, "secret", LIMITS)


def test_file_above_the_limit_is_refused_unread() -> None:
    data = to_pkcs12("kitchen", CHAIN, "secret")
    with pytest.raises(IdentityError, match="more than 100 bytes"):
        read_identity(data, "secret", Limits(max_identity_bytes=100))
    with pytest.raises(IdentityError, match="more than 100 bytes"):
        read_certificates(pem(*CHAIN.certs), Limits(max_identity_bytes=100))


def test_chain_above_the_limit_is_refused() -> None:
    data = key_pem(CHAIN.private_key) + pem(*CHAIN.certs)
    with pytest.raises(IdentityError, match="more than 2 certificates"):
        read_identity(data, None, Limits(max_chain_certificates=2))


def test_password_stretched_for_seconds_is_refused_at_once() -> None:
    # For the certificates and the key, a million and one each.
    encryption = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1_000_001).build(b"secret")
    data = pkcs12.serialize_key_and_certificates(
        b"", CHAIN.private_key, CHAIN.certs[0], None, encryption
    )
    before = time.process_time()
    with pytest.raises(IdentityError, match="stretched too often"):
        read_identity(data, "secret", LIMITS)
    assert time.process_time() - before < 0.1


def test_sum_stretched_for_minutes_is_refused() -> None:
    salt_and_rounds = tlv(0x04, b"salt1234") + bytes.fromhex("02047fffffff")
    with pytest.raises(IdentityError, match="stretched too often"):
        read_identity(tlv(0x30, tlv(0x30, salt_and_rounds)), "secret", LIMITS)


def tlv(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


def test_pem_key_stretched_for_minutes_is_refused_at_once() -> None:
    arguments = ("pkcs8", "-topk8", "-passout", "pass:secret")
    stretched = openssl(*arguments, "-iter", "2000001", given=key_pem(CHAIN.private_key))
    with pytest.raises(IdentityError, match="stretched too often"):
        read_identity(stretched + pem(*CHAIN.certs), "secret", LIMITS)
    scrypt = openssl(*arguments, "-scrypt", given=key_pem(CHAIN.private_key))
    with pytest.raises(IdentityError, match="stretched too often"):
        read_identity(scrypt + pem(*CHAIN.certs), "secret", LIMITS)


def test_many_beginnings_of_keys_are_refused_at_once() -> None:
    before = time.process_time()
    with pytest.raises(IdentityError, match="there is no PEM key"):
        read_identity(b"-----BEGIN PRIVATE KEY-----\n" * 9000, None, LIMITS)
    assert time.process_time() - before < 0.5


def test_number_that_would_be_examined_for_minutes_is_refused_at_once() -> None:
    number = b"\x02\x82\x10\x00" + b"\x7f" * 4096
    der = b"\x30\x82" + len(number).to_bytes(2, "big") + number
    key = b"-----BEGIN RSA PRIVATE KEY-----\n" + base64.encodebytes(der)
    with pytest.raises(IdentityError, match="a number of more than 8192 bits"):
        read_identity(key + b"-----END RSA PRIVATE KEY-----\n", None, LIMITS)
    with pytest.raises(IdentityError, match="a number of more than 8192 bits"):
        read_identity(der, None, LIMITS)


def test_file_of_more_certificates_than_any_chain_is_refused() -> None:
    with pytest.raises(IdentityError, match="more than 100 certificates"):
        read_identity(key_pem(CHAIN.private_key) + pem(*CHAIN.certs) * 34, None, LIMITS)


@given(data=st.binary(max_size=300))
@settings(max_examples=100)
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(IdentityError):
        read_identity(data, "secret", LIMITS)


EXPORTED: Final = to_pkcs12("kitchen", CHAIN, "secret")


@given(at=st.integers(0, len(EXPORTED) - 1))
@settings(max_examples=40)
def test_pkcs12_that_was_cut_is_refused(at: int) -> None:
    with pytest.raises(IdentityError):
        read_identity(EXPORTED[:at], "secret", LIMITS)


@given(at=st.integers(0, len(EXPORTED) - 1), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_damaged_pkcs12_is_refused_or_the_same(at: int, bit: int) -> None:
    damaged = bytearray(EXPORTED)
    damaged[at] ^= 1 << bit
    try:
        read = read_identity(bytes(damaged), "secret", LIMITS)
    except IdentityError:
        return
    assert same(read, CHAIN)
