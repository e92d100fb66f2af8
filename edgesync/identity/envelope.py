"""The files of a key store, byte by byte: sealing and opening them.

Numbers are unsigned and big-endian. Every file begins with ten bytes:

    0   8   "edgesync"
    8   1   version of the format, 1
    9   1   role: 1 unlock, 2 identity, 3 users

The file `unlock` has 122 bytes. It holds the data key, wrapped:

    10   1   how the wrapping key is made: 0 from a key, 1 from a passphrase
    11   1   of scrypt the logarithm of N to base 2 (0 without a passphrase)
    12   1   of scrypt r (0)
    13   1   of scrypt p (0)
    14  16   salt
    30  12   nonce
    42  48   the data key, 32 bytes, sealed; the associated data are the bytes before
    90  32   SHA-256 of the bytes before

The wrapping key is HKDF-SHA256(key, salt, info "edgesync key store 1") or
scrypt(passphrase in UTF-8 and NFC, salt, N, r, p); both have 32 bytes. The sum
at the end needs no key: if it is right and the data key still does not open,
the unlock key is another one. It protects from accidents; from people protects
the seal, which covers all bytes before it.

The files of identities and users:

    10  12   nonce
    22   n   content, sealed
    22+n 16  tag; the associated data are the first ten bytes and the file's name

so that no file passes for another. The seal is ChaCha20-Poly1305 (RFC 8439),
fast on small boards, which lack AES instructions, with a random nonce: one
key is good for billions of writes.

The content is a list of strings of bytes, each after its length in 4 bytes. Of
an identity: the private key (PKCS#8), then the chain, leaf first (all DER). Of
the users: name and verifier in turn, both UTF-8.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from enum import IntEnum
from hashlib import scrypt, sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgesync.errors import KeyStoreDamagedError, KeyStoreError, WrongUnlockKeyError

Unlock = bytes | str
"""An unlock key of 32 bytes, or a passphrase."""

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SALT_BYTES: Final = 16
WRAPPED_BYTES: Final = 122
MIN_PASSPHRASE_CHARACTERS: Final = 8

_MAGIC: Final = b"edgesync"
_VERSION: Final = 1
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 10
_NONCE_AT: Final = 30
_SEAL_AT: Final = 42
_SUM_AT: Final = 90
_INFO: Final = b"edgesync key store 1"


class Role(IntEnum):
    """What a file is for."""

    UNLOCK = 1
    IDENTITY = 2
    USERS = 3


class _Stretch(NamedTuple):
    """How an unlock key becomes the wrapping key: bytes 10 to 13."""

    is_passphrase: int
    log2_n: int
    r: int
    p: int


_OF_KEY: Final = _Stretch(0, 0, 0, 0)
# 64 MiB for a third of a second, on a small board for three: once per start of the program.
_OF_PASSPHRASE: Final = _Stretch(1, 16, 8, 2)
_MAX_LOG2_N: Final = 17  # what a file may ask for: 128 MiB
_MAX_R: Final = 8
_MAX_P: Final = 4


def check_unlock(unlock: Unlock) -> None:
    """Refuse what would protect nothing.

    Raises:
        KeyStoreError: A key has not 32 bytes, or a passphrase is too short.
    """
    if isinstance(unlock, bytes) and len(unlock) != KEY_BYTES:
        raise KeyStoreError(
            f"an unlock key has {KEY_BYTES} bytes, not {len(unlock)}",
            hint=f"make one: head -c {KEY_BYTES} /dev/urandom",
        )
    if isinstance(unlock, str) and len(unlock) < MIN_PASSPHRASE_CHARACTERS:
        raise KeyStoreError(f"a passphrase has at least {MIN_PASSPHRASE_CHARACTERS} characters")


def wrap(data_key: bytes, unlock: Unlock, *, salt: bytes, nonce: bytes) -> bytes:
    """Return the content of the file `unlock`.

    Args:
        data_key: 32 bytes.
        unlock: Who has it can open the file.
        salt: 16 random bytes.
        nonce: 12 random bytes.
    """
    stretch = _OF_PASSPHRASE if isinstance(unlock, str) else _OF_KEY
    start = _head(Role.UNLOCK) + bytes(stretch) + salt + nonce
    wrapping = ChaCha20Poly1305(_wrapping_key(unlock, salt, stretch))
    wrapped = start + wrapping.encrypt(nonce, data_key, start)
    return wrapped + sha256(wrapped).digest()


def unwrap(wrapped: bytes, unlock: Unlock, name: str) -> bytes:
    """Return the data key.

    Args:
        wrapped: The content of the file.
        unlock: The unlock key or passphrase.
        name: The file's, for the error.

    Raises:
        KeyStoreDamagedError: The file is not as it was written.
        WrongUnlockKeyError: It is, and this is not its key.
        KeyStoreError: A newer edgesync wrote it.
    """
    stretch = _checked_stretch(wrapped, name)
    if bool(stretch.is_passphrase) != isinstance(unlock, str):
        wanted = "a passphrase" if stretch.is_passphrase else "a key"
        raise WrongUnlockKeyError(f"the key store is unlocked by {wanted}")
    salt, nonce = wrapped[14:_NONCE_AT], wrapped[_NONCE_AT:_SEAL_AT]
    wrapping = ChaCha20Poly1305(_wrapping_key(unlock, salt, stretch))
    try:
        return wrapping.decrypt(nonce, wrapped[_SEAL_AT:_SUM_AT], wrapped[:_SEAL_AT])
    except InvalidTag:
        what = "passphrase" if stretch.is_passphrase else "key"
        raise WrongUnlockKeyError(
            f"the key store was locked with another {what}",
            hint="its files are sound; unlock it with what it was locked with",
        ) from None


def seal(data_key: bytes, role: Role, name: str, parts: Sequence[bytes], *, nonce: bytes) -> bytes:
    """Return the content of a file with secrets.

    Args:
        data_key: 32 bytes.
        role: What the file is for.
        name: The file's.
        parts: What to keep.
        nonce: 12 random bytes, never used before.
    """
    content = b"".join(len(part).to_bytes(4) + part for part in parts)
    head = _head(role)
    return head + nonce + ChaCha20Poly1305(data_key).encrypt(nonce, content, head + name.encode())


def unseal(data_key: bytes, role: Role, name: str, sealed: bytes) -> list[bytes]:
    """Return what `seal` was given to keep.

    Raises:
        KeyStoreDamagedError: The file is not as it was written, or was written
            as another or for another key store.
    """
    head = _head(role)
    if sealed[:_HEAD_BYTES] != head:
        raise KeyStoreDamagedError(name, "its first bytes are wrong")
    nonce, content = sealed[_HEAD_BYTES:][:NONCE_BYTES], sealed[_HEAD_BYTES + NONCE_BYTES :]
    if len(content) < _TAG_BYTES:
        raise KeyStoreDamagedError(name, "it is cut off")
    try:
        opened = ChaCha20Poly1305(data_key).decrypt(nonce, content, head + name.encode())
    except InvalidTag:
        raise KeyStoreDamagedError(name, "its seal is broken") from None
    return _split(opened)


def normalised(text: str) -> bytes:
    """Return a password's bytes: the same letters are the same bytes, however typed."""
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def stretched(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    """Return 32 bytes that cost 128 * N * r bytes of memory to compute, however typed.

    By `hashlib`, as the version of `cryptography` that Debian 13 has holds the
    interpreter meanwhile.
    """
    n = 1 << log2_n
    memory = 128 * r * (n + p + 2)
    return scrypt(normalised(password), salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=KEY_BYTES)


def _head(role: Role) -> bytes:
    return _MAGIC + bytes((_VERSION, role))


def _checked_stretch(wrapped: bytes, name: str) -> _Stretch:
    """Tell damage from everything else, before any work is done for the file."""
    if len(wrapped) < _SUM_AT or sha256(wrapped[:-32]).digest() != wrapped[-32:]:
        raise KeyStoreDamagedError(name, "its sum is wrong")
    head = _head(Role.UNLOCK)
    if wrapped[:8] == _MAGIC and wrapped[8] > _VERSION and wrapped[9] == Role.UNLOCK:
        raise KeyStoreError(
            f"the key store has the format {wrapped[8]}", hint="a newer edgesync wrote it"
        )
    stretch = _Stretch(*wrapped[_HEAD_BYTES : _HEAD_BYTES + 4])
    is_known = stretch == _OF_KEY or (
        stretch.is_passphrase == 1
        and 1 <= stretch.log2_n <= _MAX_LOG2_N
        and 1 <= stretch.r <= _MAX_R
        and 1 <= stretch.p <= _MAX_P
    )
    if wrapped[:_HEAD_BYTES] != head or len(wrapped) != WRAPPED_BYTES or not is_known:
        raise KeyStoreDamagedError(name, "it was not written by edgesync")
    return stretch


def _wrapping_key(unlock: Unlock, salt: bytes, stretch: _Stretch) -> bytes:
    if isinstance(unlock, bytes):
        return HKDF(SHA256(), KEY_BYTES, salt, _INFO).derive(unlock)
    return stretched(unlock, salt, stretch.log2_n, stretch.r, stretch.p)


def _split(content: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(content):
        start = at + 4
        at = start + int.from_bytes(content[at:start])
        parts.append(content[start:at])
    return parts
