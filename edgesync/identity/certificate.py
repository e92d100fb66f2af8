"""Make certificates and read them from PEM."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgesync.errors import IdentityError

Certificate = x509.Certificate
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_NETSCAPE_CERT_TYPE: Final = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
_DER_TLS_SERVER: Final = bytes.fromhex("03020640")  # a BIT STRING with bit 1 set
_BACKDATED: Final = timedelta(seconds=60)


class KeyType(Enum):
    """What key a new identity gets."""

    RSA_2048 = auto()  # what every client knows
    P_256 = auto()  # a third of the handshake's time, made in no time


def make_self_signed(
    common_name: str, *, valid_for: timedelta, now: datetime, key_type: KeyType = KeyType.RSA_2048
) -> tuple[Certificate, PrivateKey]:
    """Make a key and a self-signed server certificate for it.

    Args:
        common_name: 1 to 64 characters.
        valid_for: Counted from one minute before `now`.
        now: With its time zone.
        key_type: RSA unless all clients are known to take P-256.

    Raises:
        IdentityError: The common name cannot be one, or `valid_for` is not positive.

    Spec: tls-and-auth.md §4.3.
    """
    if valid_for <= timedelta():
        raise IdentityError(f'the certificate of "{common_name}" would never be valid')
    try:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise IdentityError(f'"{common_name}" cannot be a common name: {error}') from error
    key = _make_key(key_type)
    not_before = now.replace(microsecond=0) - _BACKDATED
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(not_before)
        .not_valid_after(not_before + valid_for)
        .public_key(key.public_key())
    )
    return _with_server_extensions(builder, key).sign(key, hashes.SHA256()), key


def fingerprint(certificate: Certificate) -> bytes:
    """Return the SHA-256 of the certificate, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def read_pem(key_pem: bytes, chain_pem: bytes) -> tuple[tuple[Certificate, ...], PrivateKey]:
    """Read a private key and its certificate chain.

    Returns:
        The chain, the key's own certificate first and each followed by its
        issuer as far as there is one; then the key.

    Raises:
        IdentityError: Something cannot be read, or no certificate is the key's.
    """
    key = _read_key(key_pem)
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise IdentityError(f"the certificate chain cannot be read: {error}") from error
    public_key = key.public_key()
    leaf = next((each for each in certificates if each.public_key() == public_key), None)
    if leaf is None:
        raise IdentityError(
            "none of the certificates belongs to the private key",
            hint="the chain must contain the certificate that was made for this key",
        )
    return _chain_from(leaf, certificates), key


def _read_key(key_pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise IdentityError("the private key is encrypted", hint="decrypt it first") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError("the private key cannot be read: it is no PEM key") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise IdentityError("the private key is neither an RSA nor an elliptic curve key")
    return key


def _chain_from(leaf: Certificate, certificates: list[Certificate]) -> tuple[Certificate, ...]:
    """Follow the issuers; a file may hold them in any order."""
    chain = [leaf]
    while (issuer := _issuer_of(chain[-1], certificates)) is not None and issuer not in chain:
        chain.append(issuer)
    return tuple(chain)


def _issuer_of(certificate: Certificate, certificates: list[Certificate]) -> Certificate | None:
    for candidate in certificates:
        if candidate.subject != certificate.issuer:
            continue
        try:
            certificate.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature):
            continue  # the same name, another key
        return candidate
    return None


def _make_key(key_type: KeyType) -> PrivateKey:
    if key_type is KeyType.P_256:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _with_server_extensions(
    builder: x509.CertificateBuilder, key: PrivateKey
) -> x509.CertificateBuilder:
    public_key = key.public_key()
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
    cert_type = x509.UnrecognizedExtension(_NETSCAPE_CERT_TYPE, _DER_TLS_SERVER)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=isinstance(key, rsa.RSAPrivateKey),
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(key_id, critical=False)
        .add_extension(issuer_key_id, critical=False)
        .add_extension(usage, critical=True)
        .add_extension(cert_type, critical=False)
    )
