"""Keys and certificates: files that people import, the key store's own, clients' chains."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from edgesync.errors import IdentityError, KeyStoreError
from edgesync.identity.certificate import (
    readable_subject_of,
)
from edgesync.identity.envelope import Role, seal, unseal, unwrap, wrap
from edgesync.identity.key_files import (
    from_der,
    read_certificates,
    read_identity,
    to_der,
)
from edgesync.identity.trust import TrustAnchors
from edgesync.limits import Limits
from tests.fuzz.target import CORPUS, Target, pure

LIMITS: Final = Limits()
NOW: Final = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
"""When the certificates of the corpus were made; they are nobody's."""
PASSWORD: Final = "secret"
PBES2: Final = bytes.fromhex("06092a864886f70d01050d")
KEY: Final = bytes(range(32))


# --- files of people ---------------------------------------------------------------------


def identity_file(data: bytes) -> bool:
    """Import PKCS#12 or PEM; what was read must be what the key store would keep."""
    is_encrypted = PBES2 in data or b"ENCRYPTED" in data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cryptography, about odd certificates
        identity = read_identity(data, PASSWORD if is_encrypted else None, LIMITS)
        again = from_der(to_der(identity))
        assert again.certs == identity.certs
        assert again.private_key.public_key() == identity.certs[0].public_key()
    assert 1 <= len(identity.certs) <= LIMITS.max_chain_certificates
    return True


def certificates(data: bytes) -> bool:
    """Read a PEM file of roots."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_certificates(data, LIMITS)
    TrustAnchors(found).refusal(found[:1], NOW)
    return bool(found)


# --- clients' chains ----------------------------------------------------------------------


def split_chain(data: bytes) -> list[x509.Certificate]:
    found = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        found.append(x509.load_der_x509_certificate(data[at + 2 : at + 2 + size]))
        at += 2 + size
    return found


@cache
def trusted() -> list[x509.Certificate]:
    """Return a chain of the corpus: leaf, authority, root."""
    return split_chain((CORPUS / "client-chain" / "whole").read_bytes())


def client_chain(data: bytes) -> bool:
    """Judge a chain, each certificate behind two bytes with its length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = split_chain(data)
        except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
            return False  # as TLS would say
        refusal = TrustAnchors(trusted()[-1:]).refusal(found, NOW)
        names = [readable_subject_of(each) for each in found]
    assert all(name.isprintable() for name in names)
    if refusal is not None:
        assert refusal.isprintable()
        return False
    assert found[0] in trusted(), "a damaged certificate is trusted"
    return True


# --- the key store's files -------------------------------------------------------------------


@cache
def sealed() -> bytes:
    return seal(KEY, Role.USERS, "users", [b"ann", b"verifier"], nonce=bytes(12))


@cache
def wrapped() -> bytes:
    return wrap(KEY, KEY, salt=bytes(16), nonce=bytes(12))


def sealed_file(data: bytes) -> bool:
    """Open a sealed file: it is as it was written, or damaged."""
    parts = unseal(KEY, Role.USERS, "users", data)
    assert data == sealed(), "a damaged file opens"
    assert parts == [b"ann", b"verifier"]
    return True


def unlock_file(data: bytes) -> bool:
    """Open the file `unlock`, likewise."""
    assert unwrap(data, KEY, "unlock") == KEY
    assert data == wrapped(), "a damaged file opens"
    return True


PEM_TOKENS: Final = (b"-----BEGIN ", b"-----END ", b"PRIVATE KEY-----\n", b"CERTIFICATE-----\n",
                     b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", b"Proc-Type: 4,ENCRYPTED\n",
                     b"=", b"\n")  # fmt: skip
DER_TOKENS: Final = (b"\x30\x80", b"\x02\x01\x00", b"\x04\x00", b"\x30\x84\xff\xff\xff\xff",
                     b"\x02\x04\x7f\xff\xff\xff", b"\x05\x00", b"\x17\x0d", b"\x06\x03\x55\x04\x03",
                     b"\x0c", b"\x13", b"\x1e", b"\x01\x01\xff")  # fmt: skip

TARGETS: Final = (
    Target("PKCS12", pure(identity_file), (IdentityError,), tokens=DER_TOKENS, short=1000),
    Target("PEM identity", pure(identity_file), (IdentityError,), tokens=PEM_TOKENS, short=200),
    Target("PEM roots", pure(certificates), (IdentityError,), tokens=PEM_TOKENS),
    Target("client chain", pure(client_chain), tokens=DER_TOKENS, weight=2),
    Target("key store, sealed", pure(sealed_file), (KeyStoreError,), lambda: [sealed()]),
    Target("key store, unlock", pure(unlock_file), (KeyStoreError,), lambda: [wrapped()]),
)
