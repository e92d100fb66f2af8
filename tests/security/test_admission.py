"""Who gets in, by each way to encrypt and to let in; and what exactly the others are told.

Spec: tls-and-auth.md §3, §4.1.
"""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Final, TypeVar

import gevent
import pytest

from edgesync import KeyStore, TLSIdentity, URLEndpointListener
from edgesync.errors import ConfigurationError
from edgesync.identity.key_files import to_pem
from tests.active_peer.failures import SyncError
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.peer_socket import Credentials
from tests.active_peer.sync import ContinuousSync, sync
from tests.net.raw_client import basic, upgrade_request
from tests.net.tls_clients import (
    ACCEPTED,
    ANOTHER_VERSION,
    NO_CERTIFICATE,
    TLS_1_2,
    TLS_1_3,
    UNAUTHORIZED,
    UNKNOWN_CA,
    VERSIONS,
    attempt,
    client_context,
)
from tests.security.conftest import (
    PASSWORD,
    USER,
    Admission,
    Credential,
    Encryption,
    GetListener,
)

T = TypeVar("T")
BY_CERTIFICATE: Final = (Admission.ROOTS, Admission.DELEGATE)
PASSWORDS: Final = {Credential.RIGHT: PASSWORD, Credential.WRONG: "sesame"}
REQUEST: Final = b"GET / HTTP/1.1\r\n\r\n"
ALERTS: Final = {"40": NO_CERTIFICATE, "48": UNKNOWN_CA, "70": ANOTHER_VERSION}
Case = tuple[Encryption, Admission, Credential, ssl.TLSVersion | None]


def all_cases() -> Iterator[Case]:
    for encryption, admission, credential in product(Encryption, Admission, Credential):
        if admission is Admission.PASSWORD and credential not in (*PASSWORDS, Credential.MISSING):
            continue  # they have no dates
        if encryption is not Encryption.OFF:
            yield from ((encryption, admission, credential, version) for version in VERSIONS)
        elif admission not in BY_CERTIFICATE:
            yield encryption, admission, credential, None


CASES: Final = tuple(all_cases())


def name_of(value: object) -> str:
    return "plain" if value is None else str(getattr(value, "name", value))


def expected(admission: Admission, credential: Credential, version: ssl.TLSVersion | None) -> str:
    match admission:
        case Admission.NONE:
            return ACCEPTED
        case Admission.PASSWORD:
            return ACCEPTED if credential is Credential.RIGHT else UNAUTHORIZED
        case _ if version is TLS_1_3:
            return ANOTHER_VERSION
        case _ if credential is Credential.MISSING:
            return NO_CERTIFICATE
        case Admission.ROOTS:
            return ACCEPTED if credential is Credential.RIGHT else UNKNOWN_CA
        case Admission.DELEGATE:  # it looks at nothing but the name
            return UNKNOWN_CA if credential is Credential.WRONG else ACCEPTED


def in_thread(function: Callable[[], T]) -> T:
    return gevent.get_hub().threadpool.apply(function)


def authorization(admission: Admission, credential: Credential) -> dict[str, str]:
    if admission is not Admission.PASSWORD or credential is Credential.MISSING:
        return {}
    return {"Authorization": basic(USER, PASSWORDS[credential])}


def certificate(
    admission: Admission, credential: Credential, files: dict[Credential, Path]
) -> Path | None:
    return None if admission is Admission.PASSWORD else files.get(credential)


@pytest.mark.parametrize(("encryption", "admission", "credential", "version"), CASES, ids=name_of)
def test_who_gets_in_by_pythons_ssl(
    get_listener: GetListener,
    certificate_files: dict[Credential, Path],
    encryption: Encryption,
    admission: Admission,
    credential: Credential,
    version: ssl.TLSVersion | None,
) -> None:
    port = get_listener(encryption, admission).port
    shown = certificate(admission, credential, certificate_files)
    context = None if version is None else client_context(version, shown)
    headers = authorization(admission, credential)
    found = in_thread(lambda: attempt(port, context, **headers))
    assert found == expected(admission, credential, version)


def s_client(port: int, *arguments: str, request: bytes = b"") -> str:
    """Return what OpenSSL's own client says and gets."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *arguments]
    ended = subprocess.run(command, input=request, capture_output=True, timeout=20, check=False)
    return (ended.stdout + ended.stderr).decode(errors="replace")


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@needs_openssl
@pytest.mark.parametrize(
    ("encryption", "admission", "credential", "version"),
    [case for case in CASES if case[0] in (Encryption.ANONYMOUS, Encryption.ISSUED)],
    ids=name_of,
)
def test_who_gets_in_by_openssl(
    get_listener: GetListener,
    certificate_files: dict[Credential, Path],
    encryption: Encryption,
    admission: Admission,
    credential: Credential,
    version: ssl.TLSVersion,
) -> None:
    port = get_listener(encryption, admission).port
    arguments = ["-tls1_2" if version is TLS_1_2 else "-tls1_3"]
    if (shown := certificate(admission, credential, certificate_files)) is not None:
        arguments += ["-cert", str(shown), "-key", str(shown), "-cert_chain", str(shown)]
    # On another path whoever gets in is refused, which ends the conversation.
    request = upgrade_request(line="GET / HTTP/1.1", **authorization(admission, credential))
    said = in_thread(lambda: s_client(port, *arguments, request=request))
    status = re.search(r"^HTTP/1.1 (.+?)\r?$", said, re.MULTILINE)
    alert = re.search(r"SSL alert number (\d+)", said)
    if status is not None:
        found = ACCEPTED if status[1] == "403 Forbidden" else status[1]
    else:
        assert alert is not None, said
        found = ALERTS[alert[1]]
    assert found == expected(admission, credential, version)


@pytest.mark.parametrize(
    ("encryption", "admission", "credential"),
    sorted({case[:3] for case in CASES}, key=str),
    ids=name_of,
)
def test_who_gets_in_and_syncs(
    get_listener: GetListener,
    certificate_files: dict[Credential, Path],
    encryption: Encryption,
    admission: Admission,
    credential: Credential,
) -> None:
    """The active peer speaks what it can: TLS 1.3, or 1.2 if that is needed."""
    listener = get_listener(encryption, admission)
    shown = certificate(admission, credential, certificate_files)
    password = PASSWORDS.get(credential) if admission is Admission.PASSWORD else None
    identity = listener.tls_identity
    credentials = Credentials(
        user=None if password is None else USER,
        password=password or "",
        certificate=None if shown is None else (shown, shown),
        fingerprint=None if identity is None else identity.fingerprint.hex(),
    )
    wanted = expected(admission, credential, TLS_1_2)
    found = in_thread(lambda: outcome(listener.urls[0], credentials))
    assert found == wanted


def outcome(url: str, credentials: Credentials) -> str:
    client = PeerDatabase()
    client.save("boiler", {"setpoint": 21})
    try:
        result = sync(client, url, credentials=credentials)
    except SyncError as error:
        if error.http_status is not None:
            return UNAUTHORIZED if error.http_status == 401 else str(error.http_status)
        message = str(error).lower()
        alert = next((each for each in ALERTS.values() if each in message), message)
        return f"{alert}, come again" if error.is_transient else alert
    assert result.complaints == []
    return ACCEPTED


@pytest.mark.parametrize(
    ("admission", "user"), [(Admission.ROOTS, "CN=ann"), (Admission.DELEGATE, "CN=ann")]
)
def test_connection_is_called_after_its_certificate(
    get_listener: GetListener,
    certificate_files: dict[Credential, Path],
    admission: Admission,
    user: str,
) -> None:
    listener = get_listener(Encryption.SELF_SIGNED, admission)
    shown = certificate_files[Credential.RIGHT]
    client = ContinuousSync(
        PeerDatabase(), listener.urls[0], credentials=Credentials(certificate=(shown, shown))
    )
    in_thread(client.wait_idle)
    users = [info.user for info in listener.connections]
    in_thread(client.stop)
    assert users == [user]


# --- the table of the documentation -----------------------------------------------------


def test_certificates_of_clients_are_refused_without_tls(get_listener: GetListener) -> None:
    for admission in BY_CERTIFICATE:
        with pytest.raises(ConfigurationError, match="without TLS"):
            get_listener(Encryption.OFF, admission)


@needs_openssl
@pytest.mark.parametrize("encryption", list(Encryption)[1:], ids=name_of)
def test_clients_are_shown_the_whole_chain(
    get_listener: GetListener, encryption: Encryption
) -> None:
    listener = get_listener(encryption, Admission.NONE)
    said = in_thread(lambda: s_client(listener.port, "-showcerts", request=REQUEST))
    shown = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", said, re.S)
    assert listener.tls_identity is not None
    assert "".join(shown).encode() == to_pem(listener.tls_identity.certs)
    lengths = {Encryption.ISSUED: 3, Encryption.IMPORTED: 3}
    assert len(shown) == lengths.get(encryption, 1)


def test_identity_is_ignored_without_tls(
    get_listener: GetListener, key_store: KeyStore, identities: dict[Encryption, TLSIdentity]
) -> None:
    plain = get_listener(Encryption.OFF, Admission.NONE)
    listener = URLEndpointListener(
        plain.config.__class__(
            collections=plain.config.collections,
            network_interface="127.0.0.1",
            disable_tls=True,
            tls_identity=identities[Encryption.SELF_SIGNED],
        )
    )
    listener.start()
    assert listener.urls[0].startswith("ws://")
    assert listener.tls_identity is None
    assert in_thread(lambda: attempt(listener.port, None)) == ACCEPTED
    listener.stop()


def test_anonymous_identity_is_the_key_stores(
    get_listener: GetListener, key_store: KeyStore
) -> None:
    listener = get_listener(Encryption.ANONYMOUS, Admission.NONE)
    assert listener.tls_identity == key_store.anonymous_identity()


# --- what TLS must not do ---------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("admission", [Admission.NONE, Admission.ROOTS], ids=name_of)
def test_there_is_no_compression_and_no_resumption(
    get_listener: GetListener, certificate_files: dict[Credential, Path], admission: Admission
) -> None:
    port = get_listener(Encryption.SELF_SIGNED, admission).port
    shown = str(certificate_files[Credential.RIGHT])
    arguments = ["-tls1_2", "-comp", "-cert", shown, "-key", shown, "-cert_chain", shown]
    said = in_thread(lambda: s_client(port, *arguments, "-reconnect", request=REQUEST))
    assert "Compression: NONE" in said
    assert "Reused, " not in said
    assert said.count("New, TLSv1.2") >= 6
    assert "Session-ID: \n" in said
    assert "TLS session ticket:" not in said


@needs_openssl
def test_renegotiation_ends_nothing_and_changes_nothing(get_listener: GetListener) -> None:
    port = get_listener(Encryption.SELF_SIGNED, Admission.NONE).port

    def talk() -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"]
        ended = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)
        return (ended.stdout + ended.stderr).decode()

    said = in_thread(talk)
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
