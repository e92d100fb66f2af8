"""The files of a key store: what opens them, and what does not."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.errors import KeyStoreDamagedError, KeyStoreError, WrongUnlockKeyError
from edgesync.identity.envelope import (
    WRAPPED_BYTES,
    Role,
    Unlock,
    check_unlock,
    seal,
    unseal,
    unwrap,
    wrap,
)

DATA_KEY: Final = bytes(range(32))
KEY: Final = b"k" * 32
SALT: Final = b"s" * 16
NONCE: Final = b"n" * 12
WRAPPED: Final = wrap(DATA_KEY, KEY, salt=SALT, nonce=NONCE)
BY_PASSPHRASE: Final = wrap(DATA_KEY, "correct horse", salt=SALT, nonce=NONCE)
SEALED: Final = seal(DATA_KEY, Role.IDENTITY, "a.identity", [b"key", b"cert"], nonce=NONCE)


def resummed(wrapped: bytes) -> bytes:
    return wrapped[:-32] + hashlib.sha256(wrapped[:-32]).digest()


def test_layout_is_as_documented() -> None:
    assert len(WRAPPED) == WRAPPED_BYTES == 122
    assert WRAPPED[:14] == b"edgesync" + bytes((1, 1, 0, 0, 0, 0))
    assert BY_PASSPHRASE[:14] == b"edgesync" + bytes((1, 1, 1, 16, 8, 2))
    assert WRAPPED[14:42] == SALT + NONCE
    assert SEALED[:22] == b"edgesync" + bytes((1, 2)) + NONCE
    assert len(SEALED) == 22 + 4 + 3 + 4 + 4 + 16


def test_files_of_this_version_stay_readable() -> None:
    assert hashlib.sha256(WRAPPED).hexdigest() == (
        "6af9acea67e75448311448472f468529f4a0505ef4ce8e38879431b00bac9584"
    )
    assert hashlib.sha256(SEALED).hexdigest() == (
        "797bb964cef18d31d1f851b86d6c28d3b6e088fb5c354f8f10e167b8c547c53d"
    )


@pytest.mark.parametrize(("wrapped", "unlock"), [(WRAPPED, KEY), (BY_PASSPHRASE, "correct horse")])
def test_the_unlock_key_brings_the_data_key(wrapped: bytes, unlock: Unlock) -> None:
    assert unwrap(wrapped, unlock, "unlock") == DATA_KEY


def test_a_passphrase_may_be_typed_in_either_form_of_unicode() -> None:
    wrapped = wrap(DATA_KEY, "p\u00e4ssphrase", salt=SALT, nonce=NONCE)
    assert unwrap(wrapped, "pa\u0308ssphrase", "unlock") == DATA_KEY


@pytest.mark.parametrize(
    ("wrapped", "unlock", "why"),
    [
        (WRAPPED, b"x" * 32, "locked with another key"),
        (WRAPPED, "correct horse", "unlocked by a key"),
        (BY_PASSPHRASE, "Correct horse", "locked with another passphrase"),
        (BY_PASSPHRASE, KEY, "unlocked by a passphrase"),
    ],
)
def test_a_wrong_key_is_not_taken_for_damage(wrapped: bytes, unlock: Unlock, why: str) -> None:
    with pytest.raises(WrongUnlockKeyError, match=why):
        unwrap(wrapped, unlock, "unlock")


@pytest.mark.parametrize("wrapped", [WRAPPED, BY_PASSPHRASE])
def test_any_flipped_bit_of_the_wrapped_key_is_damage(wrapped: bytes) -> None:
    for bit in range(len(wrapped) * 8):
        damaged = flipped(wrapped, bit)
        for unlock in (KEY, b"x" * 32, "correct horse"):
            with pytest.raises(KeyStoreDamagedError, match='"unlock"'):
                unwrap(damaged, unlock, "unlock")


def test_any_flipped_bit_of_a_sealed_file_is_damage() -> None:
    for bit in range(len(SEALED) * 8):
        with pytest.raises(KeyStoreDamagedError, match=r'"a\.identity"'):
            unseal(DATA_KEY, Role.IDENTITY, "a.identity", flipped(SEALED, bit))


def test_any_cut_is_damage() -> None:
    for size in range(len(WRAPPED)):
        with pytest.raises(KeyStoreDamagedError):
            unwrap(WRAPPED[:size], KEY, "unlock")
    for size in range(len(SEALED)):
        with pytest.raises(KeyStoreDamagedError):
            unseal(DATA_KEY, Role.IDENTITY, "a.identity", SEALED[:size])


def test_anything_appended_is_damage() -> None:
    for wrapped in (WRAPPED + b"x", resummed(WRAPPED[:-32] + b"x" + bytes(32))):
        with pytest.raises(KeyStoreDamagedError):
            unwrap(wrapped, KEY, "unlock")
    with pytest.raises(KeyStoreDamagedError):
        unseal(DATA_KEY, Role.IDENTITY, "a.identity", SEALED + b"x")


def test_a_changed_header_does_not_open_even_with_a_right_sum() -> None:
    easier = bytearray(BY_PASSPHRASE)
    easier[11] = 10
    with pytest.raises(WrongUnlockKeyError):
        unwrap(resummed(bytes(easier)), "correct horse", "unlock")


@pytest.mark.parametrize(("at", "value"), [(11, 30), (12, 255), (13, 255), (11, 0), (10, 2)])
def test_a_file_cannot_ask_for_more_work_than_we_ever_do(at: int, value: int) -> None:
    greedy = bytearray(BY_PASSPHRASE)
    greedy[at] = value
    with pytest.raises(KeyStoreDamagedError, match="not written by edgesync"):
        unwrap(resummed(bytes(greedy)), "correct horse", "unlock")


def test_a_newer_format_is_called_by_its_name() -> None:
    newer = bytearray(WRAPPED)
    newer[8] = 2
    with pytest.raises(KeyStoreError, match="format 2") as raised:
        unwrap(resummed(bytes(newer)), KEY, "unlock")
    assert not isinstance(raised.value, KeyStoreDamagedError)


def test_a_file_passes_for_no_other() -> None:
    with pytest.raises(KeyStoreDamagedError):
        unseal(DATA_KEY, Role.IDENTITY, "b.identity", SEALED)
    with pytest.raises(KeyStoreDamagedError):
        unseal(DATA_KEY, Role.USERS, "a.identity", SEALED)
    with pytest.raises(KeyStoreDamagedError):
        unseal(KEY, Role.IDENTITY, "a.identity", SEALED)


@pytest.mark.parametrize("unlock", [b"", b"k" * 31, b"k" * 33, "", "7 chars"])
def test_an_unlock_key_that_protects_nothing_is_refused(unlock: Unlock) -> None:
    with pytest.raises(KeyStoreError):
        check_unlock(unlock)


@given(st.lists(st.binary(max_size=50), max_size=5), st.binary(min_size=12, max_size=12))
def test_unsealing_undoes_sealing(parts: list[bytes], nonce: bytes) -> None:
    sealed = seal(DATA_KEY, Role.USERS, "users", parts, nonce=nonce)
    assert unseal(DATA_KEY, Role.USERS, "users", sealed) == parts


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
