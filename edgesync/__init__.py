"""A passive Couchbase Lite peer: clients connect, push, pull and stay in sync.

    from edgesync import Database, URLEndpointListener, URLEndpointListenerConfiguration

    stock = Database.open("stock", directory="databases")
    config = URLEndpointListenerConfiguration(collections=[stock.default_collection], port=4984)
    listener = URLEndpointListener(config)
    listener.start()
    print(listener.urls, listener.status)

    import gevent
    gevent.get_hub().join()  # serve until the process ends

Everything public is here; the modules behind it load when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesync.authenticator import (
        ListenerCertificateAuthenticator,
        ListenerCertificateAuthenticatorDelegate,
        ListenerPasswordAuthenticator,
    )
    from edgesync.database import BlobReader, Collection, Database, Document, Edit
    from edgesync.documents.store_calls import Change
    from edgesync.errors import EdgeSyncError
    from edgesync.identity.certificate import KeyType, KeyUsages
    from edgesync.limits import Limits
    from edgesync.listener import (
        ConnectionInfo,
        ConnectionStatus,
        ListenerTotals,
        URLEndpointListener,
        URLEndpointListenerConfiguration,
    )
    from edgesync.tls_identity import KeyStore, TLSIdentity

__version__ = "0.1.0"

_ROOMS = {
    "ListenerCertificateAuthenticator": "authenticator",
    "ListenerCertificateAuthenticatorDelegate": "authenticator",
    "ListenerPasswordAuthenticator": "authenticator",
    "BlobReader": "database",
    "Collection": "database",
    "Database": "database",
    "Document": "database",
    "Edit": "database",
    "Change": "documents.store_calls",
    "EdgeSyncError": "errors",
    "KeyType": "identity.certificate",
    "KeyUsages": "identity.certificate",
    "Limits": "limits",
    "ConnectionInfo": "listener",
    "ConnectionStatus": "listener",
    "ListenerTotals": "listener",
    "URLEndpointListener": "listener",
    "URLEndpointListenerConfiguration": "listener",
    "KeyStore": "tls_identity",
    "TLSIdentity": "tls_identity",
}

__all__ = [
    "BlobReader",
    "Change",
    "Collection",
    "ConnectionInfo",
    "ConnectionStatus",
    "Database",
    "Document",
    "EdgeSyncError",
    "Edit",
    "KeyStore",
    "KeyType",
    "KeyUsages",
    "Limits",
    "ListenerCertificateAuthenticator",
    "ListenerCertificateAuthenticatorDelegate",
    "ListenerPasswordAuthenticator",
    "ListenerTotals",
    "TLSIdentity",
    "URLEndpointListener",
    "URLEndpointListenerConfiguration",
]


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
