"""Whether a client's chain of certificates ends at one that we trust."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgesync.errors import ConfigurationError
from edgesync.identity.certificate import (
    Certificate,
    is_issued_by,
    may_issue,
    path_length_of,
    readable_name_of,
)

MAX_CHAIN: Final = 10
"""Certificates that a client may send, or that may lead to an anchor; public chains have 2 to 4."""

_RSA_BITS: Final = range(2048, 4096 + 1)  # below: weak; above: a stranger makes us compute
_MAX_RSA_EXPONENT_BITS: Final = 32  # as above
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
CANNOT_BE_READ: Final = (
    ValueError,
    TypeError,
    KeyError,  # cryptography 43: a name has a text of a type that it does not know
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What comes of a certificate that is malformed, whenever a part of it is looked at."""
_UNDERSTOOD: Final = frozenset(
    kind.oid
    for kind in (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    )
)
# What is not applied must not be there, be it critical, as RFC 5280 wants, or not.
_LIMITING: Final = frozenset(
    kind.oid
    for kind in (
        x509.NameConstraints,
        x509.PolicyConstraints,
        x509.InhibitAnyPolicy,
    )
)
_FOR_CLIENTS: Final = frozenset(
    (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
)


class TrustAnchors:
    """The certificates that a listener trusts: roots, intermediates or leaves.

    A chain is good if its leaf is an anchor, or is issued by one, or by a
    certificate of the chain for which the same is true. Every certificate on
    the way, the anchor too, must be valid now and have a good key and signature;
    those that issue must be authorities, with room in their path length, that
    are not limited to other purposes or to some names.

    The names in a refusal are a stranger's, made safe to log.

    Why not OpenSSL's verifier: it wants an anchor that is a leaf to be an
    authority, unless told otherwise by flags that also change the rest, and
    refuses clients for the Netscape extension that LiteCore writes. Why not
    `cryptography.x509.verification`: it knows the Web's rules only, by which
    no certificate of LiteCore's is valid.

    Spec: tls-and-auth.md §3, §4.7.
    """

    def __init__(self, anchors: Sequence[Certificate]) -> None:
        """Take the anchors.

        Raises:
            ConfigurationError: There is none; nobody could come in.
        """
        if not anchors:
            raise ConfigurationError("a list of trusted certificates needs at least one")
        self.certificates = tuple(anchors)

    def refusal(self, chain: Sequence[Certificate], now: datetime) -> str | None:
        """Return why a client with this chain may not come in, for the log; None if it may.

        That the client has the leaf's key is for TLS to make sure.

        Args:
            chain: As the client sent it, leaf first, the rest in any order.
            now: With its time zone.
        """
        if not chain:
            return "it sent no certificate"
        if len(chain) > MAX_CHAIN:
            return f"it sent more than {MAX_CHAIN} certificates"
        try:
            return self._refusal(chain, now)
        except CANNOT_BE_READ as error:  # names, keys and extensions are parsed when asked for
            return f"a certificate is malformed: {type(error).__name__}"

    def _refusal(self, chain: Sequence[Certificate], now: datetime) -> str | None:
        if fault := _fault_of_leaf(chain[0]) or _fault(chain[0], now):
            return fault
        # Breadth first, each certificate once: a chain of look-alikes costs the square of its
        # length in signatures, not its factorial. A key is judged before it is computed with.
        level, seen = [chain[0]], {chain[0]}
        why = "its issuer is not trusted"
        for authorities_below in range(MAX_CHAIN):
            upper = []
            for lower in level:
                if lower in self.certificates:
                    return None
                for issuer in (*self.certificates, *chain[1:]):
                    if issuer in seen or lower.issuer != issuer.subject:
                        continue
                    if not _is_good_key(issuer) or not is_issued_by(lower, issuer):
                        continue
                    seen.add(issuer)
                    if fault := _fault_of_issuer(issuer, authorities_below) or _fault(issuer, now):
                        why = fault
                    else:
                        upper.append(issuer)
            level = upper
        return why


def _fault(certificate: Certificate, now: datetime) -> str | None:
    name = readable_name_of(certificate)
    if now < certificate.not_valid_before_utc:
        return f'"{name}" is not valid yet'
    if now > certificate.not_valid_after_utc:
        return f'"{name}" has expired'
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        return f'"{name}" is signed with an algorithm that is not trusted'
    if not _is_good_key(certificate):
        return f'the key of "{name}" is of a kind or size that is not trusted'
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            return f'"{name}" has a critical extension {extension.oid.dotted_string}'
    return None


def _is_good_key(certificate: Certificate) -> bool:
    match certificate.public_key():
        case rsa.RSAPublicKey() as key:
            exponent_bits = key.public_numbers().e.bit_length()
            return key.key_size in _RSA_BITS and exponent_bits <= _MAX_RSA_EXPONENT_BITS
        case ec.EllipticCurvePublicKey() as key:
            return isinstance(key.curve, _CURVES)
        case key:
            return isinstance(key, ed25519.Ed25519PublicKey)


def _fault_of_leaf(leaf: Certificate) -> str | None:
    usage = _key_usage(leaf)
    if not _may_vouch_for_clients(leaf) or (usage is not None and not usage.digital_signature):
        return f'"{readable_name_of(leaf)}" is not for clients'
    return None


def _fault_of_issuer(issuer: Certificate, authorities_below: int) -> str | None:
    name = readable_name_of(issuer)
    if not may_issue(issuer):
        return f'"{name}" is no certificate authority'
    length = path_length_of(issuer)
    if length is not None and authorities_below > length:
        return f'"{name}" may not issue certificates of other authorities'
    if not _may_vouch_for_clients(issuer):
        return f'"{name}" may not issue certificates for clients'
    if any(extension.oid in _LIMITING for extension in issuer.extensions):
        return f'"{name}" may issue certificates for some names or policies only'
    return None


def _may_vouch_for_clients(certificate: Certificate) -> bool:
    purposes = _purposes(certificate)
    return purposes is None or any(purpose in _FOR_CLIENTS for purpose in purposes)


def _purposes(certificate: Certificate) -> x509.ExtendedKeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _key_usage(certificate: Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
