"""Databases and listeners, made as the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgesync import (
    Database,
    KeyStore,
    ListenerCertificateAuthenticator,
    ListenerPasswordAuthenticator,
    TLSIdentity,
    URLEndpointListener,
    URLEndpointListenerConfiguration,
)
from edgesync.daemon.config import DatabaseConfig, ListenerConfig, ServiceConfig
from edgesync.errors import (
    CollectionNotFoundError,
    ConfigurationError,
    IdentityError,
    InvalidNameError,
)


class Security(NamedTuple):
    """What a listener gets of the key store, and who may come in."""

    key_store: KeyStore | None
    identity: TLSIdentity | None  # None: the anonymous one
    authenticator: ListenerPasswordAuthenticator | ListenerCertificateAuthenticator | None


def authenticator(
    wanted: ListenerConfig, store: KeyStore | None, roots: Sequence[bytes]
) -> ListenerPasswordAuthenticator | ListenerCertificateAuthenticator | None:
    """Return who decides about clients; None: everybody may come in.

    Args:
        wanted: The listener's configuration.
        store: With the users of "password".
        roots: What `client_roots` returns.
    """
    match wanted.authenticator:
        case "certificate":
            return ListenerCertificateAuthenticator.from_pem(*roots)
        case "password":
            assert store is not None  # `security` looked
            return ListenerPasswordAuthenticator(store.check_password)
        case _:
            return None


def client_roots(wanted: ListenerConfig, source: str) -> tuple[bytes, ...]:
    """Return the content of the files that vouch for a listener's clients.

    Raises:
        ConfigurationError: One cannot be read, or has no certificates.
    """
    key = f"{source}: listener.{wanted.name}.client_roots"
    contents = []
    for path in wanted.client_roots:
        try:
            ListenerCertificateAuthenticator.from_pem(content := path.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{key}: {path} cannot be read: {error.strerror}", hint="name another file"
            ) from error
        except IdentityError as error:
            raise ConfigurationError(
                f"{key}: {path}: {error}", hint="it must be PEM, with certificates"
            ) from error
        contents.append(content)
    return tuple(contents)


def opened(wanted: DatabaseConfig, config: ServiceConfig, folder: Path) -> Database:
    """Open a database.

    Raises:
        ConfigurationError: No database may have its name.
        StoreError: It cannot be opened.
    """
    try:
        return Database.open(wanted.name, directory=folder, limits=config.limits)
    except InvalidNameError as error:
        raise ConfigurationError(
            f"{config.source}: database.{wanted.name}: {error}", hint="choose another name"
        ) from error


def make_collections(database: Database, wanted: DatabaseConfig, config: ServiceConfig) -> None:
    """Make those of a database's collections that are missing.

    Raises:
        ConfigurationError: No collection may have the name of one.
        StoreError: One cannot be made.
    """
    for name in wanted.collections:
        try:
            database.create_collection(name)
        except InvalidNameError as error:
            raise ConfigurationError(
                f"{config.source}: database.{wanted.name}.collections: {error}",
                hint="choose another name",
            ) from error


def listener(
    wanted: ListenerConfig,
    database: Database,
    config: ServiceConfig,
    security: Security,
) -> URLEndpointListener:
    """Return a listener that is not started.

    Raises:
        ConfigurationError: A collection is not there.
    """
    where = f"{config.source}: listener.{wanted.name}.collections"
    try:
        collections = [database.collection(name) for name in wanted.collections]
    except (CollectionNotFoundError, InvalidNameError) as error:
        raise ConfigurationError(
            f"{where}: {error}", hint=f"list it in database.{database.name}.collections"
        ) from error
    return URLEndpointListener(
        URLEndpointListenerConfiguration(
            collections=collections or database.collections,
            port=wanted.port,
            network_interface=wanted.interface,
            disable_tls=wanted.disable_tls,
            tls_identity=security.identity,
            authenticator=security.authenticator,
            key_store=security.key_store,
            enable_delta_sync=wanted.enable_delta_sync,
            read_only=wanted.read_only,
            prove_blobs=wanted.prove_blobs,
            limits=config.limits,
        )
    )
