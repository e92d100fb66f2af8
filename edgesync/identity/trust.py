"""Whether a client's chain of certificates ends at one that we trust."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgesync.errors import ConfigurationError
from edgesync.identity.certificate import (
    Certificate,
    common_name_of,
    is_issued_by,
    may_issue,
    path_length_of,
)

_MAX_CHAIN: Final = 10  # what is sent, and what leads to an anchor; public chains have 2 to 4
_MIN_RSA_BITS: Final = 2048
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNDERSTOOD: Final = frozenset(
    kind.oid
    for kind in (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    )
)


class TrustAnchors:
    """The certificates that a listener trusts: roots, intermediates or leaves.

    A chain is good if its leaf is an anchor, or is issued by one, or by a
    certificate of the chain for which the same is true. Every certificate on
    the way, the anchor too, must be valid now; those that issue must be
    authorities, with room in their path length.

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
        if len(chain) > _MAX_CHAIN:
            return f"it sent more than {_MAX_CHAIN} certificates"
        try:
            return self._refusal(chain, now)
        except ValueError as error:  # extensions are parsed when they are asked for
            return f"a certificate is malformed: {error}"

    def _refusal(self, chain: Sequence[Certificate], now: datetime) -> str | None:
        if fault := _fault_of_leaf(chain[0]) or _fault(chain[0], now):
            return fault
        # Breadth first, each certificate once: a chain of look-alikes costs the square of its
        # length in signatures, not its factorial.
        level, seen = [chain[0]], {chain[0]}
        why = "its issuer is not trusted"
        for authorities_below in range(_MAX_CHAIN):
            upper = []
            for lower in level:
                if lower in self.certificates:
                    return None
                for issuer in (*self.certificates, *chain[1:]):
                    if issuer in seen or not is_issued_by(lower, issuer):
                        continue
                    seen.add(issuer)
                    if fault := _fault_of_issuer(issuer, authorities_below) or _fault(issuer, now):
                        why = fault
                        continue
                    upper.append(issuer)
            level = upper
        return why


def _fault(certificate: Certificate, now: datetime) -> str | None:
    name = common_name_of(certificate)
    if now < certificate.not_valid_before_utc:
        return f'"{name}" is not valid yet'
    if now > certificate.not_valid_after_utc:
        return f'"{name}" has expired'
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        return f'"{name}" is signed with an algorithm that is not trusted'
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return f'the key of "{name}" is too short'
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            return f'"{name}" has a critical extension {extension.oid.dotted_string}'
    return None


def _fault_of_leaf(leaf: Certificate) -> str | None:
    purposes = _purposes(leaf)
    usage = _key_usage(leaf)
    may_be_client = purposes is None or bool(
        {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        & set(purposes)
    )
    if not may_be_client or (usage is not None and not usage.digital_signature):
        return f'"{common_name_of(leaf)}" is not for clients'
    return None


def _fault_of_issuer(issuer: Certificate, authorities_below: int) -> str | None:
    if not may_issue(issuer):
        return f'"{common_name_of(issuer)}" is no certificate authority'
    length = path_length_of(issuer)
    if length is not None and authorities_below > length:
        return f'"{common_name_of(issuer)}" may not issue certificates of other authorities'
    return None


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
