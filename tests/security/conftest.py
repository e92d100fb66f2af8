"""A listener for each way to encrypt and to let in, and clients with every kind of credentials."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Final

import pytest

from edgesync import (
    Database,
    KeyStore,
    KeyType,
    KeyUsages,
    Limits,
    ListenerCertificateAuthenticator,
    ListenerCertificateAuthenticatorDelegate,
    ListenerPasswordAuthenticator,
    TLSIdentity,
    URLEndpointListener,
    URLEndpointListenerConfiguration,
)
from edgesync.identity.certificate import Certificate, common_name_of
from edgesync.identity.key_files import to_pkcs12
from tests.net.tls_clients import NOW, authorities, made, pem_of


class Encryption(Enum):
    """Rows of the documentation's table of `disable_tls` and `tls_identity`."""

    OFF = "TLS off"
    ANONYMOUS = "anonymous"
    SELF_SIGNED = "self-signed"
    ISSUED = "CA-signed with chain"
    IMPORTED = "imported PKCS#12"


class Admission(Enum):
    """Authenticators."""

    NONE = "none"
    PASSWORD = "password"
    ROOTS = "roots"
    DELEGATE = "delegate"


class Credential(Enum):
    """What a client has of what is asked for."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"
    EXPIRED = "expired"
    NOT_YET = "not yet valid"


Authenticator = ListenerPasswordAuthenticator | ListenerCertificateAuthenticator
GetListener = Callable[[Encryption, Admission], URLEndpointListener]
USER, PASSWORD = "ann", "sésame"  # as real ones, not ASCII only
CLIENT_CA: Final = authorities(2, now=NOW - timedelta(days=60))
CERTIFICATES: Final = {
    Credential.RIGHT: made(USER, CLIENT_CA),
    Credential.WRONG: made("eve", authorities(2)),
    Credential.EXPIRED: made(USER, CLIENT_CA, now=NOW - timedelta(days=30), days=10),
    Credential.NOT_YET: made(USER, CLIENT_CA, now=NOW + timedelta(days=2)),
}


@pytest.fixture(scope="session")
def certificate_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Credential, Path]:
    """Return a PEM file with key and chain for each kind of certificate."""
    folder = tmp_path_factory.mktemp("clients")
    files = {kind: folder / f"{kind.name}.pem" for kind in CERTIFICATES}
    for kind, identity in CERTIFICATES.items():
        files[kind].write_bytes(pem_of(identity, identity.certs[:-1]))
    return files


@pytest.fixture(scope="module")
def key_store(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    """Return a key store with Ann in it."""
    store = KeyStore.open(tmp_path_factory.mktemp("keys") / "keys", unlock=secrets.token_bytes(32))
    store.set_password(USER, PASSWORD)
    return store


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Return an open database."""
    with Database.open("db", directory=tmp_path_factory.mktemp("databases")) as database:
        yield database


@pytest.fixture(scope="module")
def identities(key_store: KeyStore) -> dict[Encryption, TLSIdentity | None]:
    """Return what a listener is configured with."""
    root = key_store.create_identity(
        "root",
        {"CN": "root"},
        usages=KeyUsages.CERTIFICATE_AUTHORITY,
        expiration=NOW + timedelta(days=3000),
    )
    middle = key_store.create_identity(
        "middle",
        {"CN": "middle"},
        usages=KeyUsages.CERTIFICATE_AUTHORITY,
        issuer=root,
        key_type=KeyType.P_256,
        expiration=NOW + timedelta(days=1000),
    )
    foreign = made("imported", authorities(2), KeyUsages.SERVER_AUTH)
    return {
        Encryption.OFF: None,
        Encryption.ANONYMOUS: None,
        Encryption.SELF_SIGNED: key_store.create_identity("self-signed", {"CN": "self-signed"}),
        Encryption.ISSUED: key_store.create_identity("issued", {"CN": "issued"}, issuer=middle),
        Encryption.IMPORTED: key_store.import_identity(
            "imported", to_pkcs12("x", foreign, "a password"), "a password"
        ),
    }


def is_anns(chain: Sequence[Certificate]) -> bool:
    """Decide, as an application that looks at names alone."""
    return common_name_of(chain[0]) == USER


@pytest.fixture(scope="module")
def get_listener(
    db: Database, key_store: KeyStore, identities: dict[Encryption, TLSIdentity | None]
) -> Iterator[GetListener]:
    """Return a way to get running listeners; the same again for the same wishes."""
    running: dict[tuple[Encryption, Admission], URLEndpointListener] = {}
    authenticators: dict[Admission, Authenticator | None] = {
        Admission.NONE: None,
        Admission.PASSWORD: ListenerPasswordAuthenticator(key_store.check_password),
        Admission.ROOTS: ListenerCertificateAuthenticator([CLIENT_CA.certs[-1]]),
        Admission.DELEGATE: ListenerCertificateAuthenticator(
            ListenerCertificateAuthenticatorDelegate(is_anns)
        ),
    }

    def get(encryption: Encryption, admission: Admission) -> URLEndpointListener:
        if (encryption, admission) not in running:
            listener = URLEndpointListener(
                URLEndpointListenerConfiguration(
                    collections=[db.default_collection],
                    network_interface="127.0.0.1",
                    disable_tls=encryption is Encryption.OFF,
                    tls_identity=identities[encryption],
                    authenticator=authenticators[admission],
                    key_store=key_store,
                    limits=Limits(max_password_failures=10_000),
                )
            )
            listener.start()
            running[encryption, admission] = listener
        return running[encryption, admission]

    yield get
    for listener in running.values():
        listener.stop()
