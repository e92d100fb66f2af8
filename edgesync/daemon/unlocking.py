"""The service's key store, and how it comes by its unlock key."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgesync import KeyStore, Limits
from edgesync.daemon.config import KeyStoreConfig
from edgesync.errors import ConfigurationError, KeyStoreError

KEY_BYTES: Final = 32
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"  # systemd.exec(5)


class ServiceKeys:
    """The key store of a configuration: none, open, or waiting for its passphrase.

    The unlock key comes from where only this service can read it, or from a
    person; never from the configuration, an argument or the environment.

    Attributes:
        store: The key store once it is open; None: there is none, or it waits.
    """

    def __init__(
        self,
        config: KeyStoreConfig | None,
        folder: Path,
        environment: Mapping[str, str],
        limits: Limits,
    ) -> None:
        """Store what is given.

        Args:
            config: None: there is no key store.
            folder: The key store's; made if it is missing.
            environment: In which systemd tells where its credentials are.
            limits: On what is imported.
        """
        self._config = config
        self._folder = folder
        self._environment = environment
        self._limits = limits
        self.store: KeyStore | None = None

    def open(self) -> None:
        """Open the key store, if that takes nobody.

        Raises:
            ConfigurationError: The unlock key is not where it should be, or is none.
            KeyStoreError: The key store cannot be opened with it.
        """
        if self._config is not None and self._config.kind != "passphrase":
            unlock = unlock_key(self._config, self._environment)
            self.store = KeyStore.open(self._folder, unlock=unlock, limits=self._limits)

    def opened(self) -> KeyStore | None:
        """Return the key store; None if there is none.

        Raises:
            KeyStoreError: It waits for its passphrase.
        """
        if self.is_locked:
            raise KeyStoreError(
                "the key store is locked", hint='open it with "edgesync unlock" and its passphrase'
            )
        return self.store

    @property
    def is_locked(self) -> bool:
        """Whether the key store waits for its passphrase."""
        return self._config is not None and self.store is None

    def unlock(self, passphrase: str) -> None:
        """Open the key store with its passphrase; waits for seconds on a small board.

        The first one ever given becomes the key store's.

        Raises:
            WrongUnlockKeyError: It is not the one that it was locked with.
            KeyStoreError: The key store cannot be opened, or there is none.
        """
        if self._config is None:
            raise KeyStoreError("there is no key store")
        opened = KeyStore.open(self._folder, unlock=passphrase, limits=self._limits)
        if self.store is None:  # another one may have been faster
            self.store = opened


def unlock_key(config: KeyStoreConfig, environment: Mapping[str, str]) -> bytes:
    """Read the unlock key from systemd's credential, or from a file.

    Raises:
        ConfigurationError: It is not there, others may read it, or it is no key.
    """
    path = _path_of(config, environment)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the unlock key {path} cannot be read: {error.strerror}",
            hint=f"make one with: (umask 077; head -c {KEY_BYTES} /dev/urandom > {path})"
            if config.kind == "file"
            else "see LoadCredentialEncrypted= in systemd.exec(5)",
        ) from error
    if config.kind == "file" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"the unlock key {path} is open to other users", hint=f"chmod 600 {path}"
        )
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"the unlock key {path} does not have {KEY_BYTES} bytes",
            hint="put the right file back; a new one does not open an old key store",
        )
    return key


def _path_of(config: KeyStoreConfig, environment: Mapping[str, str]) -> Path:
    if config.kind == "file":
        return Path(config.name)
    if not (folder := environment.get(CREDENTIALS, "")):
        raise ConfigurationError(
            f'there is no credential "{config.name}": systemd has passed none',
            hint="start edgesyncd by its unit, or unlock with a file",
        )
    return Path(folder) / config.name
