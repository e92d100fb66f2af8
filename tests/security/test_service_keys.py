"""The service and its key store: how it is unlocked, what waits for it, and where no secret is."""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgesync import KeyStore
from edgesync.errors import ApiError
from edgesync.identity.key_files import to_pem
from tests.net.raw_client import basic
from tests.net.tls_clients import (
    ACCEPTED,
    TLS_1_2,
    UNAUTHORIZED,
    UNKNOWN_CA,
    attempt,
    authorities,
    client_context,
    made,
    pem_of,
)
from tests.security.service import Box

LISTENER: Final = '[listener.{0}]\ninterface = "127.0.0.1"\nport = 0\n'
DOOR: Final = LISTENER.format("door")
PASSPHRASE: Final = "a box in the cellar"


def by_file(folder: Path, key: bytes) -> str:
    (folder / "unlock.key").write_bytes(key)
    (folder / "unlock.key").chmod(0o600)
    return '[key_store]\nunlock = "file:unlock.key"\n'  # beside the configuration


def knock(port: int, password: str | None = None, certificate: Path | None = None) -> str:
    headers = {} if password is None else {"Authorization": basic("ann", password)}
    version = ssl.TLSVersion.TLSv1_3 if certificate is None else TLS_1_2
    return attempt(port, client_context(version, certificate), **headers)


def shown_on(port: int) -> bytes:
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
    return ssl.PEM_cert_to_DER_cert(pem)


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def refused_start(box: Box) -> str:
    with pytest.raises(AssertionError):
        box.start()
    return box.log


def test_key_file_unlocks_and_the_anonymous_identity_stays(tmp_path: Path) -> None:
    box = Box(tmp_path, by_file(tmp_path, secrets.token_bytes(32)) + DOOR)
    shown = []
    for _ in range(2):
        with box:
            shown.append(shown_on(box.port("door")))
            assert sha256(shown[0]).hexdigest() in box.said.replace(":", "").lower()
            box.stop()
    assert shown[0] == shown[1]


def test_credential_unlocks(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "edgesync.key").write_bytes(secrets.token_bytes(32))
    config = f'[key_store]\nunlock = "credential:edgesync.key"\n{DOOR}'
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    with Box(tmp_path, config, **environment) as box:
        assert box.api.status()["key_store"] == "open"


def test_listeners_wait_for_the_passphrase_but_those_that_need_no_key(tmp_path: Path) -> None:
    plain = LISTENER.format("plain") + "disable_tls = true\n"
    config = f'[key_store]\nunlock = "passphrase"\n{DOOR}authenticator = "password"\n{plain}'
    with Box(tmp_path, config) as box:
        assert attempt(box.port("plain"), None) == ACCEPTED
        assert 'listener "door" does not serve: the key store is locked' in box.said
        assert box.api.status()["key_store"] == "locked"
        box.api.send("POST", "/_edgesync/unlock", {"passphrase": PASSPHRASE})
        assert knock(box.port("door"), "sesame") == UNAUTHORIZED
        box.api.send("PUT", "/_edgesync/users/ann", {"password": "sesame"})
        assert knock(box.port("door"), "sesame") == ACCEPTED
        box.stop()
    with box:
        with pytest.raises(ApiError):
            box.api.send("POST", "/_edgesync/unlock", {"passphrase": "a box in the attic"})
        assert box.api.status()["key_store"] == "locked"
        box.api.send("POST", "/_edgesync/unlock", {"passphrase": PASSPHRASE})
        assert knock(box.port("door"), "sesame") == ACCEPTED


def test_listener_waits_for_its_identity(tmp_path: Path) -> None:
    key = by_file(tmp_path, secrets.token_bytes(32))
    with Box(tmp_path, f'{key}{DOOR}tls_identity = "kitchen"\n') as box:
        assert 'there is no identity "kitchen"; make it with "edgesync identity cre' in box.said
        box.api.send("POST", "/_edgesync/identities", {"label": "kitchen"})
        eventually(lambda: "door" in {each["name"] for each in box.api.listeners()})
        eventually(lambda: box.port("door") != 0)
        before = shown_on(box.port("door"))
        box.api.send("POST", "/_edgesync/identities/kitchen/renew", {"days": 30})
        eventually(lambda: shown_on(box.port("door")) != before)


def test_damaged_identity_keeps_its_listener_only_until_it_is_deleted(tmp_path: Path) -> None:
    key = by_file(tmp_path, secrets.token_bytes(32))
    plain = LISTENER.format("plain") + "disable_tls = true\n"
    box = Box(tmp_path, f"{key}{DOOR}{plain}")
    with box:
        box.stop()
    damaged = tmp_path / "state/keys/edgesync.anonymous.identity"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with box:
        assert 'the file "edgesync.anonymous.identity" of the key store is damaged' in box.said
        assert attempt(box.port("plain"), None) == ACCEPTED
        assert box.port("door") == 0
        box.api.send("DELETE", "/_edgesync/identities/edgesync.anonymous")
        eventually(lambda: box.port("door") != 0)
        assert knock(box.port("door")) == ACCEPTED


def test_memory_that_passwords_took_is_given_back(tmp_path: Path) -> None:
    key = by_file(tmp_path, secrets.token_bytes(32))
    with Box(tmp_path, f'{key}{DOOR}authenticator = "password"\n') as box:
        port = box.port("door")
        box.api.send("PUT", "/_edgesync/users/ann", {"password": "sesame"})
        before = resident_mib(box.pid)
        assert knock(port, "sesame") == ACCEPTED  # is known from now on, however many come
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(lambda _: knock(port, "sesame"), range(40)))
        assert answers == [ACCEPTED] * 40
        eventually(lambda: resident_mib(box.pid) < before + 8)  # each has taken 16


def test_users_come_and_go_at_run_time(tmp_path: Path) -> None:
    key = by_file(tmp_path, secrets.token_bytes(32))
    with Box(tmp_path, f'{key}{DOOR}authenticator = "password"\n') as box:
        port, ann = box.port("door"), "/_edgesync/users/ann"
        assert knock(port, "sesame") == UNAUTHORIZED
        box.api.send("PUT", ann, {"password": "sesame"})
        assert knock(port, "sesame") == ACCEPTED
        box.api.send("PUT", ann, {"password": "open"})
        assert (knock(port, "sesame"), knock(port, "open")) == (UNAUTHORIZED, ACCEPTED)
        box.api.send("DELETE", ann)
        assert knock(port, "open") == UNAUTHORIZED


def test_certificates_of_clients_by_their_root(tmp_path: Path) -> None:
    issuer = authorities(1)
    (tmp_path / "technicians-ca.pem").write_bytes(to_pem(issuer.certs))
    ann, eve = tmp_path / "ann.pem", tmp_path / "eve.pem"
    ann.write_bytes(pem_of(made("ann", issuer)))
    eve.write_bytes(pem_of(made("ann", authorities(1))))
    more = 'authenticator = "certificate"\nclient_roots = ["technicians-ca.pem"]\n'
    with Box(tmp_path, DOOR + more) as box:
        assert knock(box.port("door"), certificate=ann) == ACCEPTED
        assert knock(box.port("door"), certificate=eve) == UNKNOWN_CA


# --- what cannot be ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0o600, "cannot be read: No such file or directory; make one with: (umask"),
        (bytes(32), 0o640, "is open to other users; chmod 600"),
        (bytes(31), 0o600, "does not have 32 bytes"),
        (bytes(33), 0o600, "does not have 32 bytes"),
    ],
)
def test_key_file_that_cannot_be_one_stops_the_start(
    tmp_path: Path, content: bytes | None, mode: int, why: str
) -> None:
    if content is not None:
        (tmp_path / "unlock.key").write_bytes(content)
        (tmp_path / "unlock.key").chmod(mode)
    box = Box(tmp_path, '[key_store]\nunlock = "file:unlock.key"\n' + DOOR)
    assert f"unlock.key {why}" in refused_start(box)
    assert why in box.check().stderr


def test_another_key_stops_the_start(tmp_path: Path) -> None:
    with Box(tmp_path, by_file(tmp_path, secrets.token_bytes(32)) + DOOR) as box:
        box.stop()
    by_file(tmp_path, secrets.token_bytes(32))
    assert (
        refused_start(box)
        .splitlines()[-1]
        .startswith("edgesyncd: the key store was locked with another key")
    )


def test_credential_outside_of_systemd_stops_the_start(tmp_path: Path) -> None:
    config = f'[key_store]\nunlock = "credential:edgesync.key"\n{DOOR}'
    box = Box(tmp_path, config, CREDENTIALS_DIRECTORY="")
    assert 'there is no credential "edgesync.key"' in refused_start(box)
    assert box.check().returncode == 0  # the file is right: it is for another place


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_roots_that_cannot_be_read_stop_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    more = 'authenticator = "certificate"\nclient_roots = ["ca.pem"]\n'
    said = Box(tmp_path, DOOR + more).check().stderr
    assert "listener.door.client_roots: " in said
    assert "ca.pem" in said


def test_check_needs_neither_passphrase_nor_identity(tmp_path: Path) -> None:
    config = f'[key_store]\nunlock = "passphrase"\n{DOOR}tls_identity = "kitchen"\n'
    checked = Box(tmp_path, config).check()
    assert (checked.returncode, checked.stderr) == (0, "")
    assert not (tmp_path / "state").exists()


# --- where no secret is -----------------------------------------------------------------


def spellings(secret: bytes) -> Iterator[bytes]:
    """Yield how a secret may be written down."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for cut in range(3):  # base64 of it, wherever it stands in what was encoded
        yield base64.b64encode(secret[cut : len(secret) - (len(secret) - cut) % 3])[:-4]


def private_parts(store: KeyStore, label: str) -> list[bytes]:
    identity = store.identity(label)
    assert identity is not None
    key = identity.private_key
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    parts = [number.to_bytes(128, "big") for number in (numbers.p, numbers.q, numbers.dmp1)]
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [*parts, der[-300:], numbers.d.to_bytes(256, "big")]


def test_secrets_are_in_no_file_log_argument_or_environment(tmp_path: Path) -> None:
    config = (
        f'[key_store]\nunlock = "passphrase"\n{DOOR}authenticator = "password"\n'
        'tls_identity = "kitchen"\n'
    )
    with Box(tmp_path, config) as box:
        box.api.send("POST", "/_edgesync/unlock", {"passphrase": PASSPHRASE})
        box.api.send("PUT", "/_edgesync/users/ann", {"password": "open sesame"})
        box.api.send("POST", "/_edgesync/identities", {"label": "kitchen"})
        body = json.dumps({"password": "take away"}).encode()
        with box.api.open("POST", "/_edgesync/identities/kitchen/export", body=body) as answer:
            assert answer.status == 200
        box.api.send("POST", "/_edgesync/identities/kitchen/renew", {})
        eventually(lambda: box.port("door") != 0)
        assert knock(box.port("door"), "open sesame") == ACCEPTED
        assert knock(box.port("door"), "open barley") == UNAUTHORIZED
        process = Path("/proc") / str(box.pid)
        places = {name: (process / name).read_bytes() for name in ("environ", "cmdline")}
        limits = (process / "limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        box.stop()
    store = KeyStore.open(box.state / "keys", unlock=PASSPHRASE)
    hidden = [PASSPHRASE.encode(), b"open sesame", b"open barley", b"take away"]
    hidden += private_parts(store, "kitchen")
    places |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(place.endswith("kitchen.identity") for place in places)
    for secret in hidden:
        for spelling in spellings(secret):
            found = [place for place, content in places.items() if spelling in content]
            assert found == []
    assert "kitchen" in box.log  # it does say what happened
