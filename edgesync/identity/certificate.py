"""Make certificates: self-signed, issued by another, renewed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, Flag, auto
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgesync.errors import IdentityError, IdentityExpiredError
from edgesync.identity.attributes import Attributes, other_names_of, subject_of

Certificate = x509.Certificate
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

ONE_YEAR: Final = timedelta(seconds=31_536_000)
_NETSCAPE_CERT_TYPE: Final = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
_BACKDATED: Final = timedelta(seconds=60)
_MAX_READABLE: Final = 200  # characters of a name in a log
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class KeyType(Enum):
    """What key a new identity gets."""

    RSA_2048 = auto()  # what every client knows
    P_256 = auto()  # a third of the handshake's time, made in no time


class KeyUsages(Flag):
    """What an identity is for; they may be combined. Spec: tls-and-auth.md §4.3."""

    CLIENT_AUTH = 0x80  # the values are the bits of the Netscape extension
    SERVER_AUTH = 0x40
    CERTIFICATE_AUTHORITY = 0x04  # it may issue others


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and the certificates that vouch for it, the key's own first."""

    certs: tuple[Certificate, ...]
    private_key: PrivateKey = field(repr=False, compare=False)


def make_key(key_type: KeyType) -> PrivateKey:
    """Make a private key; RSA takes a twentieth of a second, on a small board a second."""
    if key_type is KeyType.P_256:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def make_identity(
    attributes: Attributes,
    *,
    usages: KeyUsages,
    now: datetime,
    expires: datetime | None = None,
    key_type: KeyType = KeyType.RSA_2048,
    issuer: Identity | None = None,
) -> Identity:
    """Make a key and a certificate for it.

    Args:
        attributes: Who the owner is; a common name at least.
        usages: What it is for; at least one.
        now: With its time zone; the certificate is valid from a minute before.
        expires: The end of its validity; by default after a year, or with its
            issuer if that ends earlier.
        key_type: RSA unless all clients are known to take P-256.
        issuer: Who signs it, an authority; without one it signs itself.

    Raises:
        IdentityError: An attribute, the usages or the time cannot be, or the
            issuer may not issue this certificate.
        IdentityExpiredError: The issuer has expired.

    Spec: tls-and-auth.md §4.3, §4.5.
    """
    if not usages:
        raise IdentityError("an identity must be for servers, clients or an authority")
    subject = subject_of(attributes)
    other_names = other_names_of(attributes)
    not_before = now.replace(microsecond=0) - _BACKDATED
    not_after = _end_of(attributes, not_before + ONE_YEAR, expires, now, issuer)
    if issuer is not None:
        _check_issuer(issuer.certs[0], usages, not_after, now)
    key = make_key(key_type)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certs[0].subject)
        # 1 is LiteCore's; an authority must not use a number twice.
        .serial_number(1 if issuer is None else x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .public_key(key.public_key())
    )
    builder = _with_extensions(builder, key, usages, issuer)
    if other_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(other_names), critical=False)
    return _sign(builder, key, issuer)


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
    identity = make_identity(
        {"CN": common_name},
        usages=KeyUsages.SERVER_AUTH,
        now=now,
        expires=now.replace(microsecond=0) - _BACKDATED + valid_for,
        key_type=key_type,
    )
    return identity.certs[0], identity.private_key


def renew(
    identity: Identity, *, now: datetime, expires: datetime | None, issuer: Identity | None
) -> Identity:
    """Make a new certificate for the same key, owner and usages.

    Args:
        identity: The one to renew.
        now: With its time zone.
        expires: As for `make_identity`.
        issuer: Who issued the old one; not asked for if it signed itself.

    Raises:
        IdentityError: The issuer is needed and is not this one, or may not.
        IdentityExpiredError: The issuer has expired.
    """
    old = identity.certs[0]
    name = common_name_of(old)
    if is_self_signed(old):
        issuer = None
    elif issuer is None or not is_issued_by(old, issuer.certs[0]):
        raise IdentityError(
            f'the certificate of "{name}" was issued by "{old.issuer.rfc4514_string()}", '
            "whose key is not here",
            hint="have it renewed there and import it, or import the issuer's identity",
        )
    not_before = now.replace(microsecond=0) - _BACKDATED
    not_after = _end_of({"CN": name}, not_before + ONE_YEAR, expires, now, issuer)
    if issuer is not None:
        usages = KeyUsages.CERTIFICATE_AUTHORITY if may_issue(old) else KeyUsages.SERVER_AUTH
        _check_issuer(issuer.certs[0], usages, not_after, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        # An authority may be named by its number in certificates that it issued.
        .serial_number(old.serial_number if issuer is None else x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .public_key(old.public_key())
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return _sign(builder, identity.private_key, issuer)


def fingerprint(certificate: Certificate) -> bytes:
    """Return the SHA-256 of the certificate, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def common_name_of(certificate: Certificate) -> str:
    """Return the subject's common name, or all of its name if it has none."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def readable_name_of(certificate: Certificate) -> str:
    """Return the common name, or else the subject, fit for a log whoever wrote it.

    What is not printable becomes a question mark, what is long is cut.

    Raises:
        ValueError: The subject is malformed.
    """
    return _readable(common_name_of(certificate))


def readable_subject_of(certificate: Certificate) -> str:
    """Return the subject as RFC 4514 writes it, made fit for a log; "?" if it is malformed."""
    try:
        return _readable(certificate.subject.rfc4514_string())
    except (ValueError, KeyError):  # KeyError: cryptography 43 and a text of an unknown type
        return "?"


def _readable(text: str) -> str:
    text = "".join(each if each.isprintable() else "?" for each in text)
    return text if len(text) <= _MAX_READABLE else f"{text[:_MAX_READABLE]}..."


def is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Return whether the names match and the signature is by the issuer's key."""
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False  # the same name, another key, or one that signs nothing
    return True


def is_self_signed(certificate: Certificate) -> bool:
    """Return whether the certificate is signed by its own key. Spec: tls-and-auth.md §4.6."""
    return is_issued_by(certificate, certificate)


def may_issue(certificate: Certificate) -> bool:
    """Return whether the certificate is one of an authority.

    Raises:
        ValueError: An extension is malformed.
    """
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    return (
        constraints is not None and constraints.ca and (usage is None or bool(usage.key_cert_sign))
    )


def path_length_of(certificate: Certificate) -> int | None:
    """Return how many authorities may stand between it and a leaf; None: any number."""
    constraints = _extension(certificate, x509.BasicConstraints)
    return None if constraints is None else constraints.path_length


def _extension(certificate: Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _end_of(
    attributes: Attributes,
    by_default: datetime,
    expires: datetime | None,
    now: datetime,
    issuer: Identity | None,
) -> datetime:
    if expires is None:
        return (
            by_default if issuer is None else min(by_default, issuer.certs[0].not_valid_after_utc)
        )
    if expires.tzinfo is None:
        raise IdentityError("the expiration has no time zone")
    if expires <= now.replace(microsecond=0) - _BACKDATED:
        raise IdentityError(f'the certificate of "{attributes["CN"]!s}" would never be valid')
    return expires.replace(microsecond=0)


def _check_issuer(
    issuer: Certificate, usages: KeyUsages, not_after: datetime, now: datetime
) -> None:
    name = common_name_of(issuer)
    if not may_issue(issuer):
        raise IdentityError(
            f'"{name}" may not issue certificates: it is no certificate authority',
            hint="make one with the usage CERTIFICATE_AUTHORITY, or import one",
        )
    if issuer.not_valid_after_utc <= now:
        raise IdentityExpiredError(name, issuer.not_valid_after_utc.date())
    if usages & KeyUsages.CERTIFICATE_AUTHORITY and path_length_of(issuer) == 0:
        raise IdentityError(f'"{name}" may not issue certificates of other authorities')
    if not_after > issuer.not_valid_after_utc:
        raise IdentityError(
            f'the certificate would outlive that of its issuer "{name}"',
            hint=f"let it expire by {issuer.not_valid_after_utc.isoformat()}",
        )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey, issuer: Identity | None) -> Identity:
    if issuer is None:
        return Identity((builder.sign(key, hashes.SHA256()),), key)
    return Identity((builder.sign(issuer.private_key, hashes.SHA256()), *issuer.certs), key)


def _with_extensions(
    builder: x509.CertificateBuilder, key: PrivateKey, usages: KeyUsages, issuer: Identity | None
) -> x509.CertificateBuilder:
    is_authority = KeyUsages.CERTIFICATE_AUTHORITY in usages
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        builder.add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=None), critical=is_authority
        )
        .add_extension(key_id, critical=False)
        .add_extension(_issuer_key_id(key_id, issuer), critical=False)
        .add_extension(_key_usage(key, usages), critical=True)
        .add_extension(_netscape_cert_type(usages), critical=False)
    )
    if issuer is not None and (purposes := _purposes(usages)):
        # LiteCore writes none; who verifies a chain, as Apple's systems do, insists on them.
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder


def _issuer_key_id(
    own: x509.SubjectKeyIdentifier, issuer: Identity | None
) -> x509.AuthorityKeyIdentifier:
    if issuer is None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    key_id = _extension(issuer.certs[0], x509.SubjectKeyIdentifier)
    if key_id is None:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private_key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def _key_usage(key: PrivateKey, usages: KeyUsages) -> x509.KeyUsage:
    is_authority = KeyUsages.CERTIFICATE_AUTHORITY in usages
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=isinstance(key, rsa.RSAPrivateKey) and KeyUsages.SERVER_AUTH in usages,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _netscape_cert_type(usages: KeyUsages) -> x509.UnrecognizedExtension:
    bits = usages.value
    unused = (bits & -bits).bit_length() - 1  # DER drops a BIT STRING's last zeros
    return x509.UnrecognizedExtension(_NETSCAPE_CERT_TYPE, bytes((0x03, 0x02, unused, bits)))


def _purposes(usages: KeyUsages) -> list[x509.ObjectIdentifier]:
    purposes = []
    if KeyUsages.SERVER_AUTH in usages:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    if KeyUsages.CLIENT_AUTH in usages:
        purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    return purposes
