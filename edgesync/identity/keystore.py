"""The folder of a key store: one sealed file per identity, one for the users."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from edgesync.errors import (
    DuplicateLabelError,
    IdentityError,
    IdentityNotFoundError,
    KeyStoreDamagedError,
    KeyStoreError,
)
from edgesync.identity.certificate import Identity
from edgesync.identity.envelope import (
    KEY_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    Role,
    Unlock,
    check_unlock,
    seal,
    unseal,
    unwrap,
    wrap,
)
from edgesync.identity.key_files import from_der, to_der
from edgesync.limits import KIB, MIB

_UNLOCK: Final = "unlock"
_USERS: Final = "users"
_IDENTITY_SUFFIX: Final = ".identity"
_NEW: Final = ".new"
_MAX_LABEL_BYTES: Final = 80  # three characters each in a file name, which has at most 255
_MAX_USER_BYTES: Final = 256
_MAX_PASSWORD_BYTES: Final = KIB
_MAX_FILE_BYTES: Final = MIB


class KeyFolder:
    """The files of a key store, unlocked.

    Nothing is kept in memory but the data key: every question reads a file and
    every change has reached the card when its call returns. A change writes
    `.new`, syncs it, renames it over the old file and syncs the folder, so that
    at any moment there is the old file or the new one. Who changes holds a lock
    on the folder, against other threads and other processes.

    Calls block for a read or a write, no more; any thread may make them.
    """

    def __init__(self, folder: Path, data_key: bytes) -> None:
        self._folder = folder
        self._data_key = data_key

    @classmethod
    def open(cls, folder: Path, unlock: Unlock) -> KeyFolder:
        """Unlock a key store; make it if there is none.

        A passphrase takes 64 MiB and a third of a second, on a small board three.

        Raises:
            WrongUnlockKeyError: It was locked with another key.
            KeyStoreDamagedError: The file with its data key is not as it was written.
            KeyStoreError: The folder cannot be used, is open to other users of
                the machine, or the unlock key cannot be one.
        """
        check_unlock(unlock)
        with _disk(folder):
            _make_folder(folder)
            wrapped = _read(folder, _UNLOCK)
            if wrapped is None:
                with _locked(folder) as descriptor:
                    wrapped = _read(folder, _UNLOCK)  # another may have been faster
                    if wrapped is None:
                        return cls(folder, _make_data_key(folder, descriptor, unlock))
        return cls(folder, unwrap(wrapped, unlock, _UNLOCK))

    def change_unlock(self, new: Unlock) -> None:
        """Let another key unlock the store from now on; identities are not rewritten.

        Who kept the old key and a copy of the old file `unlock` can still open
        the store with both.

        Raises:
            KeyStoreError: The key cannot be one, or the file cannot be written.
        """
        check_unlock(new)
        wrapped = _wrapped(self._data_key, new)
        with self._changing() as descriptor:
            _write(descriptor, _UNLOCK, wrapped)

    def labels(self) -> tuple[str, ...]:
        """Return the labels of all identities, sorted."""
        with _disk(self._folder):
            names = os.listdir(self._folder)
        labels = {unquote(name.removesuffix(_IDENTITY_SUFFIX)) for name in names}
        # Other files may lie here; they are nobody's.
        return tuple(sorted(each for each in labels if _is_label(each) and _file_of(each) in names))

    def identity(self, label: str) -> Identity | None:
        """Return an identity; None if there is none of that label.

        Raises:
            KeyStoreDamagedError: Its file is not as it was written.
        """
        if not _is_label(label):
            return None
        name = _file_of(label)
        with _disk(self._folder):
            sealed = _read(self._folder, name)
        if sealed is None:
            return None
        try:
            return from_der(unseal(self._data_key, Role.IDENTITY, name, sealed))
        except KeyStoreDamagedError as error:
            error.hint = f'restore it from a backup, or delete the identity "{label}"'
            raise

    def add(self, label: str, identity: Identity) -> None:
        """Keep an identity under a new label.

        Raises:
            DuplicateLabelError: The label is taken.
            IdentityError: The label cannot be one.
            KeyStoreError: The file cannot be written.
        """
        self.check_new(label)  # before the lock, and before a key is sealed for nothing
        with self._changing() as descriptor:
            self.check_new(label)
            self._seal_identity(descriptor, label, identity)

    def replace(self, label: str, identity: Identity) -> None:
        """Keep an identity in place of the one of the same label.

        Raises:
            IdentityNotFoundError: There is none.
            KeyStoreError: The file cannot be written.
        """
        with self._changing() as descriptor:
            if not _exists(self._folder, _file_of(label)):
                raise IdentityNotFoundError(label)
            self._seal_identity(descriptor, label, identity)

    def delete(self, label: str) -> bool:
        """Remove an identity, damaged or not; return whether there was one."""
        if not _is_label(label):
            return False
        with self._changing() as descriptor:
            return _remove(descriptor, _file_of(label))

    def check_new(self, label: str) -> None:
        """Make sure that an identity could be added under the label.

        Raises:
            DuplicateLabelError: The label is taken.
            IdentityError: The label cannot be one.
        """
        if not _is_label(label):
            raise IdentityError(
                f'"{label}" cannot be a label',
                hint=f"a label has 1 to {_MAX_LABEL_BYTES} bytes of printable characters",
            )
        if _exists(self._folder, _file_of(label)):
            raise DuplicateLabelError(label)

    def verifiers(self) -> dict[str, str]:
        """Return the verifier of each user.

        Raises:
            KeyStoreDamagedError: The users' file is not as it was written.
        """
        with _disk(self._folder):
            sealed = _read(self._folder, _USERS)
        if sealed is None:
            return {}
        try:
            parts = unseal(self._data_key, Role.USERS, _USERS, sealed)
        except KeyStoreDamagedError as error:
            error.hint = "restore it from a backup, or remove the file and add the users again"
            raise
        texts = [part.decode() for part in parts]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def set_verifier(self, user: str, verifier: str) -> None:
        """Add a user or change their password.

        Raises:
            KeyStoreError: The file cannot be written.
            KeyStoreDamagedError: The users' file is not as it was written.
        """
        with self._changing() as descriptor:
            self._seal_users(descriptor, {**self.verifiers(), user: verifier})

    def remove_user(self, user: str) -> bool:
        """Remove a user; return whether there was one.

        Raises:
            KeyStoreError: The file cannot be written.
            KeyStoreDamagedError: The users' file is not as it was written.
        """
        with self._changing() as descriptor:
            verifiers = self.verifiers()
            if verifiers.pop(user, None) is None:
                return False
            self._seal_users(descriptor, verifiers)
            return True

    @contextmanager
    def _changing(self) -> Iterator[int]:
        with _disk(self._folder), _locked(self._folder) as descriptor:
            yield descriptor

    def _seal_identity(self, descriptor: int, label: str, identity: Identity) -> None:
        name, nonce = _file_of(label), secrets.token_bytes(NONCE_BYTES)
        sealed = seal(self._data_key, Role.IDENTITY, name, to_der(identity), nonce=nonce)
        _write(descriptor, name, sealed)

    def _seal_users(self, descriptor: int, verifiers: Mapping[str, str]) -> None:
        parts = [text.encode() for pair in sorted(verifiers.items()) for text in pair]
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = seal(self._data_key, Role.USERS, _USERS, parts, nonce=nonce)
        if len(sealed) > _MAX_FILE_BYTES:
            raise KeyStoreError("the key store has no room for more users")
        _write(descriptor, _USERS, sealed)


def check_user(user: str, password: str) -> None:
    """Refuse what no client could send as a name and a password.

    Raises:
        KeyStoreError: The name is empty, too long, or has a colon or a control
            character in it; the password is empty, too long, or has a zero in it.

    Spec: tls-and-auth.md §3.
    """
    size = len(user.encode("utf-8", "replace"))
    if not user.isprintable() or ":" in user or not 1 <= size <= _MAX_USER_BYTES:
        raise KeyStoreError(
            f"{user!r} cannot be a user's name",
            hint=f"a name has 1 to {_MAX_USER_BYTES} bytes, all printable, and no colon",
        )
    size = len(password.encode("utf-8", "surrogatepass"))
    if "\0" in password or not 1 <= size <= _MAX_PASSWORD_BYTES:
        raise KeyStoreError(f"a password has 1 to {_MAX_PASSWORD_BYTES} bytes, none of them zero")


def _is_label(label: str) -> bool:
    return label.isprintable() and 1 <= len(label.encode("utf-8", "replace")) <= _MAX_LABEL_BYTES


def _file_of(label: str) -> str:
    return quote(unicodedata.normalize("NFC", label), safe=" ") + _IDENTITY_SUFFIX


def _make_data_key(folder: Path, descriptor: int, unlock: Unlock) -> bytes:
    for name in os.listdir(folder):
        if name == _USERS or name.endswith(_IDENTITY_SUFFIX):
            raise KeyStoreDamagedError(_UNLOCK, "it is missing, and the others need it")
    data_key = secrets.token_bytes(KEY_BYTES)
    _write(descriptor, _UNLOCK, _wrapped(data_key, unlock))
    return data_key


def _wrapped(data_key: bytes, unlock: Unlock) -> bytes:
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    return wrap(data_key, unlock, salt=salt, nonce=nonce)


# --- the disk ------------------------------------------------------------------------


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise KeyStoreError(
            f'the key store "{folder}" cannot be used: {error.strerror}', hint=hint
        ) from error


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        _sync(folder.parent)
    if folder.stat().st_mode & 0o077:
        raise KeyStoreError(
            f'the folder "{folder}" of the key store is open to others', hint=f"chmod 700 {folder}"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _remove(descriptor, _NEW)  # a change that was cut off
        yield descriptor
    finally:
        os.close(descriptor)  # unlocks


def _read(folder: Path, name: str) -> bytes | None:
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(_MAX_FILE_BYTES)  # what is longer was not written here: its seal breaks


def _exists(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def _write(descriptor: int, name: str, content: bytes) -> None:
    """Write a file that is there whole or not at all, and still is after a power cut."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(_NEW, flags, 0o600, dir_fd=descriptor), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(_NEW, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except OSError:
        with suppress(OSError):
            _remove(descriptor, _NEW)
        raise
    os.fsync(descriptor)


def _remove(descriptor: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=descriptor)
    except FileNotFoundError:
        return False
    os.fsync(descriptor)
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
