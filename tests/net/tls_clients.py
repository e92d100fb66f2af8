"""Clients with certificates, and what becomes of them at a server's door."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from edgesync.identity.certificate import (
    Certificate,
    Identity,
    KeyType,
    KeyUsages,
    make_identity,
)
from edgesync.identity.key_files import to_pem
from tests.net.raw_client import RawClient

NOW: Final = datetime.now(UTC)
ACCEPTED: Final = "101 Switching Protocols"
UNAUTHORIZED: Final = "401 Unauthorized"
UNKNOWN_CA: Final = "alert unknown ca"
NO_CERTIFICATE: Final = "alert handshake failure"
ANOTHER_VERSION: Final = "alert protocol version"
ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": UNKNOWN_CA,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": NO_CERTIFICATE,
    "TLSV1_ALERT_PROTOCOL_VERSION": ANOTHER_VERSION,
}
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS: Final = (TLS_1_2, TLS_1_3)


def made(
    name: str,
    issuer: Identity | None = None,
    usages: KeyUsages = KeyUsages.CLIENT_AUTH,
    *,
    now: datetime = NOW,
    days: int = 365,
) -> Identity:
    """Make an identity with a key that takes no time."""
    return make_identity(
        {"CN": name},
        usages=usages,
        now=now,
        expires=now + timedelta(days=days),
        key_type=KeyType.P_256,
        issuer=issuer,
    )


def authorities(count: int, *, now: datetime = NOW, days: int = 3650) -> Identity:
    """Return the lowest of a line of authorities."""
    usages = KeyUsages.CERTIFICATE_AUTHORITY
    last = made("authority 0", None, usages, now=now, days=days)
    for number in range(1, count):
        last = made(f"authority {number}", last, usages, now=now, days=days)
    return last


def pem_of(identity: Identity, certs: Sequence[Certificate] | None = None) -> bytes:
    """Return key and certificates; `certs` are others for the same key."""
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key + to_pem(certs or identity.certs)


def client_context(
    version: ssl.TLSVersion = TLS_1_3, certificate: Path | None = None
) -> ssl.SSLContext:
    """Return the settings of a client that takes any server.

    Args:
        version: The only one it speaks.
        certificate: A PEM file with its key and chain.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # it may have keys that we refuse
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def attempt(port: int, context: ssl.SSLContext | None, **headers: str) -> str:
    """Return the status that a client gets, or the alert; blocks its thread.

    Args:
        port: On 127.0.0.1.
        context: None: without TLS.
        headers: With underscores for hyphens.
    """
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        with raw if context is None else context.wrap_socket(raw) as sock:
            return RawClient(sock).upgrade(**headers).status.removeprefix("HTTP/1.1 ")
    except ssl.SSLError as error:
        return ALERTS.get(error.reason, str(error))
