"""Keys and chains as files carry them: PEM and PKCS#12 from people, DER for the key store."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PBES,
    load_pkcs12,
    serialize_key_and_certificates,
)

from edgesync.errors import IdentityError
from edgesync.identity.certificate import Certificate, Identity, PrivateKey, is_issued_by
from edgesync.identity.trust import CANNOT_BE_READ
from edgesync.limits import Limits

_PEM_KEY: Final = re.compile(
    # Up to the next mark and no further: else each of many beginnings would search for an end.
    rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----((?:(?!-----).)*)-----END \1-----",
    re.DOTALL,
)
_SCRYPT_OID: Final = bytes.fromhex("06092b06010401da47040b")
_MAX_ROUNDS: Final = 2_000_000  # all iteration counts of a file; usual are 2,000 to 600,000 each
_MAX_DER_DEPTH: Final = 20
_MAX_CERTIFICATES: Final = 100  # in a file; each may be compared with each of a chain
_MIN_RSA_BITS: Final = 2048  # OpenSSL takes no less
_MAX_RSA_BITS: Final = 8192  # a handshake costs the cube
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def read_identity(data: bytes, password: str | None, limits: Limits) -> Identity:
    """Read a private key and its chain from PKCS#12 or PEM.

    Args:
        data: The file; PEM holds the key and the certificates, in any order.
        password: What it is encrypted with; None if it is not.
        limits: For its size and the length of the chain.

    Returns:
        The chain, the key's own certificate first and each followed by its
        issuer as far as there is one. Other certificates are left out.

    Raises:
        IdentityError: It is too large, unreadable or incomplete, the password
            is wrong, or the key is one that clients do not take.

    Spec: tls-and-auth.md §4.5.
    """
    if len(data) > limits.max_identity_bytes:
        raise IdentityError(f"the file has more than {limits.max_identity_bytes} bytes")
    secret = None if password is None else password.encode("utf-8", "surrogatepass")
    if b"-----BEGIN " in data:
        identity = _read_pem(data, data, secret, limits.max_chain_certificates)
    else:
        identity = _read_pkcs12(data, secret, limits.max_chain_certificates)
    if len(identity.certs) > limits.max_chain_certificates:
        raise IdentityError(f"the chain has more than {limits.max_chain_certificates} certificates")
    return identity


def read_pem(key_pem: bytes, chain_pem: bytes) -> Identity:
    """Read an unencrypted private key and its certificate chain, as `read_identity` does.

    Raises:
        IdentityError: Something cannot be read, or no certificate is the key's.
    """
    return _read_pem(key_pem, chain_pem, None, _MAX_CERTIFICATES)


def read_certificates(pem: bytes, limits: Limits) -> tuple[Certificate, ...]:
    """Read all certificates of a PEM file; what else it holds is passed over.

    Raises:
        IdentityError: It is too large, or holds none, or one that cannot be read.
    """
    if len(pem) > limits.max_identity_bytes:
        raise IdentityError(f"the file has more than {limits.max_identity_bytes} bytes")
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except CANNOT_BE_READ as error:
        raise IdentityError(f"the certificates cannot be read: {error}") from error


def to_pem(certificates: Sequence[Certificate]) -> bytes:
    """Write certificates as PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def to_pkcs12(label: str, identity: Identity, password: str) -> bytes:
    """Write an identity as PKCS#12, encrypted with AES-256 and authenticated.

    The password should be long: for the sum over the file, `cryptography`
    stretches it 2048 times only.

    Raises:
        IdentityError: The password is empty.
    """
    if not password:
        raise IdentityError("a private key is only exported with a password")
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode("utf-8", "surrogatepass"))
    )
    leaf, *others = identity.certs
    return serialize_key_and_certificates(
        label.encode(), identity.private_key, leaf, others, encryption
    )


def to_der(identity: Identity) -> list[bytes]:
    """Write the private key (PKCS#8, in the clear), then the chain."""
    key = identity.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [key, *(certificate.public_bytes(Encoding.DER) for certificate in identity.certs)]


def from_der(parts: Sequence[bytes]) -> Identity:
    """Read what `to_der` wrote, and only that: the key is not examined again.

    Raises:
        ValueError: It is something else.
    """
    # Examining an RSA key takes as long as making one, with the interpreter held.
    key = load_der_private_key(parts[0], None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("the private key has a type that is never stored")
    return Identity(tuple(map(x509.load_der_x509_certificate, parts[1:])), key)


def _read_pem(key_pem: bytes, chain_pem: bytes, password: bytes | None, max_chain: int) -> Identity:
    key = _read_pem_key(key_pem, password)
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
    except CANNOT_BE_READ as error:
        raise IdentityError(f"the certificate chain cannot be read: {error}") from error
    return _identity(key, certificates, max_chain)


def _read_pem_key(pem: bytes, password: bytes | None) -> object:
    found = _PEM_KEY.search(pem)
    if found is None:
        raise IdentityError("the private key cannot be read: there is no PEM key")
    is_encrypted = found[1].startswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in found[2]
    if is_encrypted and not password:
        raise IdentityError("the private key is encrypted", hint="give its password")
    try:
        if found[1].startswith(b"ENCRYPTED"):
            _check_rounds(b64decode(found[2]))
        elif not is_encrypted:
            with suppress(ValueError):  # OpenSSL says better what is wrong
                sum(_rounds_in(b64decode(found[2]), 0))
        return load_pem_private_key(found[0], password if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "its password is wrong, or it is no key" if is_encrypted else "it is no PEM key"
        raise IdentityError(f"the private key cannot be read: {reason}") from error


def _read_pkcs12(data: bytes, password: bytes | None, max_chain: int) -> Identity:
    _check_rounds(data)
    try:
        content = load_pkcs12(data, password)
    except CANNOT_BE_READ as error:
        raise IdentityError(
            "the PKCS#12 file cannot be read: its password is wrong, or its encryption too old",
            hint="if the password is right, export it again with AES-256",
        ) from error
    if content.key is None:
        raise IdentityError("the PKCS#12 file has no private key")
    own = [] if content.cert is None else [content.cert.certificate]
    others = [each.certificate for each in content.additional_certs]
    return _identity(content.key, own + others, max_chain)


def _identity(key: object, certificates: list[Certificate], max_chain: int) -> Identity:
    if len(certificates) > _MAX_CERTIFICATES:
        raise IdentityError(f"the file has more than {_MAX_CERTIFICATES} certificates")
    if isinstance(key, rsa.RSAPrivateKey):
        if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            raise IdentityError(
                f"the RSA key has {key.key_size} bits; from {_MIN_RSA_BITS} to {_MAX_RSA_BITS} work"
            )
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the private key is neither an RSA nor an elliptic curve key")
    elif not isinstance(key.curve, _CURVES):
        raise IdentityError(f"clients do not know the elliptic curve {key.curve.name}")
    try:
        leaf = _certificate_of(key, certificates)
        chain = None if leaf is None else _chain_from(leaf, certificates, max_chain)
    except CANNOT_BE_READ as error:
        raise IdentityError(f"a certificate cannot be read: {error}") from error
    if chain is None:
        raise IdentityError(
            "none of the certificates belongs to the private key",
            hint="the chain must contain the certificate that was made for this key",
        )
    return Identity(chain, key)


def _certificate_of(key: PrivateKey, certificates: list[Certificate]) -> Certificate | None:
    public_key = key.public_key()
    return next((each for each in certificates if each.public_key() == public_key), None)


def _chain_from(
    leaf: Certificate, certificates: list[Certificate], max_chain: int
) -> tuple[Certificate, ...]:
    """Follow the issuers, to one more than the limit; a file may hold them in any order."""
    chain = [leaf]
    while len(chain) <= max_chain:
        issuers = (each for each in certificates if is_issued_by(chain[-1], each))
        issuer = next(issuers, None)
        if issuer is None or issuer in chain:
            break
        chain.append(issuer)
    return tuple(chain)


# --- how much work a file asks for ---------------------------------------------------
#
# Its password is stretched as many times as the file itself says, with the
# interpreter held: 2^31 rounds would stop the program for minutes. So the
# counts are read beforehand. Wherever they stand, in PBES2, PBMAC1 or the old
# schemes, a count is the INTEGER that follows the salt, an OCTET STRING. The
# same goes for an RSA key's size: whether its factors are primes is examined.


def _check_rounds(der: bytes) -> None:
    try:
        rounds = sum(_rounds_in(der, 0))
    except ValueError as error:
        raise IdentityError(
            f"the file is neither PEM nor PKCS#12 in DER: {error}",
            hint="convert it with openssl pkcs12",
        ) from error
    if rounds > _MAX_ROUNDS or _SCRYPT_OID in der:
        raise IdentityError(
            "the file's password is stretched too often to be read here",
            hint=f"export it again with at most {_MAX_ROUNDS} iterations",
        )


def _rounds_in(der: bytes, depth: int) -> Iterator[int]:
    if depth > _MAX_DER_DEPTH:
        raise ValueError("it is nested too deeply")
    previous = 0
    for tag, content in _elements(der):
        if tag & 0x20:  # constructed
            yield from _rounds_in(content, depth + 1)
        elif tag == 0x04:
            yield from _rounds_in_octets(content, depth + 1)
        elif tag == 0x02 and len(content) > _MAX_RSA_BITS // 8 + 1:
            raise IdentityError(f"the file has a number of more than {_MAX_RSA_BITS} bits")
        elif tag == 0x02 and previous == 0x04:
            yield int.from_bytes(content)
        previous = tag


def _rounds_in_octets(octets: bytes, depth: int) -> Iterator[int]:
    """Look inside if it is DER that is wrapped once more; a salt or a ciphertext is not."""
    try:
        yield from _rounds_in(octets, depth)
    except ValueError:
        return


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(der):
        tag, length, start = der[at], *_length_at(der, at + 1)
        at = start + length
        if at > len(der):
            raise ValueError("it is cut off")
        yield tag, der[start:at]


def _length_at(der: bytes, at: int) -> tuple[int, int]:
    if at >= len(der):
        raise ValueError("it is cut off")
    first = der[at]
    if first < 0x80:
        return first, at + 1
    size = first & 0x7F
    if not 1 <= size <= 4:
        raise ValueError("a length is not DER")
    return int.from_bytes(der[at + 1 : at + 1 + size]), at + 1 + size
