"""What real clients make of our TLS and of our refusals. Spec: tls-and-auth.md §3, §4.6."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync.identity.key_files import to_pem
from tests.interop.cbl import Security
from tests.interop.cbl_library import CBLError
from tests.interop.remote_client import RemoteClient
from tests.net.tls_clients import authorities
from tests.security.service import Box

GENERATIONS = [pytest.param(n, marks=pytest.mark.needs_cbl(n)) for n in (3, 4)]
pytestmark = pytest.mark.parametrize("generation", GENERATIONS)

CONFIG = """
[key_store]
unlock = "file:unlock.key"

[listener.self-signed]
interface = "127.0.0.1"
port = 0
tls_identity = "self-signed"
authenticator = "password"

[listener.issued]
interface = "127.0.0.1"
port = 0
tls_identity = "issued"

[listener.by-certificate]
interface = "127.0.0.1"
port = 0
tls_identity = "issued"
authenticator = "certificate"
client_roots = ["technicians-ca.pem"]

[listener.plain]
interface = "127.0.0.1"
port = 0
disable_tls = true
authenticator = "password"
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    (tmp_path / "unlock.key").write_bytes(secrets.token_bytes(32))
    (tmp_path / "unlock.key").chmod(0o600)
    (tmp_path / "technicians-ca.pem").write_bytes(to_pem(authorities(1).certs))
    with Box(tmp_path, CONFIG) as box:
        for identity in (
            {"label": "self-signed"},
            {"label": "ca", "usages": ["authority"]},
            {"label": "issued", "issuer": "ca"},
        ):
            box.api.send("POST", "/_edgesync/identities", identity)
        box.api.send("PUT", "/_edgesync/users/ann", {"password": "sésame"})
        yield box


@pytest.fixture
def client(tmp_path: Path, generation: int) -> Iterator[RemoteClient]:
    with RemoteClient(generation, tmp_path / "client", "db") as client:
        client.save("boiler", {"setpoint": 21})
        yield client


def url(box: Box, listener: str) -> str:
    return box.api.listener(listener)["urls"][0]


def pem(box: Box, label: str) -> bytes:
    """Return the leaf of an identity, as it is given to an app."""
    chain = next(each["pem"] for each in box.api.identities() if each["label"] == label)
    return (
        chain.partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
    ).encode()


def refused(client: RemoteClient, url: str, security: Security) -> tuple[str, int]:
    with pytest.raises(CBLError) as caught:
        client.replicate(url, security=security)
    return caught.value.domain, caught.value.code


@pytest.mark.parametrize("label", ["self-signed", "issued"])
def test_pinned_certificate_and_password_are_enough(
    box: Box, client: RemoteClient, label: str
) -> None:
    security = Security(pem(box, label), "ann", "sésame")
    assert client.replicate(url(box, label), security=security).pushed == 1


def test_chain_is_trusted_by_the_pinned_authority(box: Box, client: RemoteClient) -> None:
    assert client.replicate(url(box, "issued"), security=Security(pem(box, "ca"))).pushed == 1


def test_another_pinned_certificate_is_not_enough(box: Box, client: RemoteClient) -> None:
    security = Security(pem(box, "issued"), "ann", "sésame")
    assert refused(client, url(box, "self-signed"), security)[0] == "Network"


@pytest.mark.parametrize("listener", ["self-signed", "plain"])
@pytest.mark.parametrize(
    "credentials", [("ann", "sesame"), ("eve", "sésame"), ("", "")], ids=["word", "name", "none"]
)
def test_wrong_password_is_reported_as_401(
    box: Box, client: RemoteClient, listener: str, credentials: tuple[str, str]
) -> None:
    security = Security(pem(box, "self-signed"), *credentials)
    assert refused(client, url(box, listener), security) == ("WebSocket", 401)


def test_right_password_without_tls(box: Box, client: RemoteClient) -> None:
    security = Security(b"", "ann", "sésame")
    assert client.replicate(url(box, "plain"), security=security).pushed == 1


def test_clients_sync_on_after_the_identity_was_renewed(box: Box, client: RemoteClient) -> None:
    """With the new certificate pinned; the old one is not shown any more."""
    old = Security(pem(box, "issued"))
    assert client.replicate(url(box, "issued"), security=old).pushed == 1
    box.api.send("POST", "/_edgesync/identities/issued/renew", {"days": 30})
    new = Security(pem(box, "issued"))
    client.save("cellar", {"setpoint": 8})
    assert client.replicate(url(box, "issued"), security=new).pushed == 1
    assert refused(client, url(box, "issued"), old)[0] == "Network"


def test_client_without_certificate_is_told_that_the_handshake_failed(
    box: Box, client: RemoteClient
) -> None:
    """For good: it does not try again and again."""
    security = Security(pem(box, "issued"))
    assert refused(client, url(box, "by-certificate"), security) == ("Network", 6)
