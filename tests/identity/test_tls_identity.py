"""The identities that a listener shows, and the store that keeps them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgesync import KeyStore, KeyType, KeyUsages, Limits, TLSIdentity
from edgesync.errors import (
    DuplicateLabelError,
    IdentityError,
    IdentityExpiredError,
    IdentityNotFoundError,
    KeyStoreDamagedError,
    KeyStoreError,
    WrongUnlockKeyError,
)
from edgesync.identity.certificate import fingerprint, make_identity, make_self_signed
from edgesync.identity.keystore import KeyFolder
from edgesync.tls_identity import ANONYMOUS_LABEL

ROOT: Final = Path(__file__).parents[2]
KEY: Final = b"k" * 32
DAY: Final = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def store(folder: Path) -> KeyStore:
    return KeyStore.open(folder, unlock=KEY)


def create(
    store: KeyStore, label: str = "kitchen", issuer: TLSIdentity | None = None
) -> TLSIdentity:
    return store.create_identity(label, {"CN": label}, issuer=issuer, key_type=KeyType.P_256)


def create_authority(store: KeyStore) -> TLSIdentity:
    return store.create_identity(
        "workshop",
        {"CN": "workshop"},
        usages=KeyUsages.CERTIFICATE_AUTHORITY,
        key_type=KeyType.P_256,
    )


def longest_hold(work: Callable[[], object]) -> float:
    """Return for how long the hub could not run anything else, in seconds."""
    longest = 0.0

    def watch() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            gevent.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    watcher = gevent.spawn(watch)
    gevent.sleep(0.002)
    work()
    watcher.kill()
    return longest


# --- an identity --------------------------------------------------------------------


def test_anonymous_identity_lasts_a_year_and_has_no_label() -> None:
    identity = TLSIdentity.anonymous()
    assert identity.label is None
    assert len(identity.certs) == 1
    remaining = identity.expiration - datetime.now(UTC)
    assert timedelta(days=364) < remaining < timedelta(days=365)
    assert identity.fingerprint == fingerprint(identity.certs[0])


def test_making_a_key_does_not_hold_the_hub() -> None:
    assert 0 < longest_hold(TLSIdentity.anonymous) < 0.05


def test_identity_from_pem_keeps_chain_and_key() -> None:
    certificate, key = make_self_signed(
        "box", valid_for=DAY, now=datetime.now(UTC), key_type=KeyType.P_256
    )
    identity = TLSIdentity.from_pem(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )
    assert identity.certs == (certificate,)
    assert x509.load_pem_x509_certificates(identity.chain_pem()) == [certificate]
    identity.server_tls()


def test_private_key_is_not_shown() -> None:
    assert "private_key" not in repr(TLSIdentity.anonymous())


# --- created, renewed, deleted ------------------------------------------------------


def test_created_identity_is_found_again(folder: Path, store: KeyStore) -> None:
    made = store.create_identity("kitchen", {"CN": "kitchen"}, expiration=datetime.now(UTC) + DAY)
    found = KeyStore.open(folder, unlock=KEY).identity("kitchen")
    assert found is not None
    assert (found.label, found.certs) == ("kitchen", made.certs)
    assert found.expiration - datetime.now(UTC) < DAY
    found.server_tls()


def test_absent_identity_is_none_and_harmless_to_delete(store: KeyStore) -> None:
    store.delete_identity("kitchen")
    assert store.identity("kitchen") is None


def test_a_label_is_given_once_until_deleted(store: KeyStore) -> None:
    create(store)
    with pytest.raises(DuplicateLabelError, match="kitchen"):
        create(store)
    store.delete_identity("kitchen")
    create(store)
    assert store.labels() == ("kitchen",)


def test_authority_in_the_store_issues_and_renews(store: KeyStore) -> None:
    authority = create_authority(store)
    issued = create(store, issuer=authority)
    assert issued.certs[1:] == authority.certs
    renewed_authority = store.renew_identity("workshop")
    renewed = store.renew_identity("kitchen", expiration=datetime.now(UTC) + DAY)
    assert renewed.certs[1:] == renewed_authority.certs
    renewed.certs[0].verify_directly_issued_by(authority.certs[0])


def test_renewal_keeps_label_key_and_owner(store: KeyStore) -> None:
    old = store.create_identity(
        "kitchen", {"CN": "k", "dNSName": "k.local"}, expiration=datetime.now(UTC) + DAY
    )
    new = store.renew_identity("kitchen")
    assert new.label == "kitchen"
    assert new.certs[0].subject == old.certs[0].subject
    assert list(new.certs[0].extensions) == list(old.certs[0].extensions)
    assert new.certs[0].public_key() == old.certs[0].public_key()
    assert new.expiration > old.expiration + 300 * DAY
    assert store.identity("kitchen") == new != old
    new.server_tls()


def test_renewing_what_is_not_there_says_so(store: KeyStore) -> None:
    with pytest.raises(IdentityNotFoundError, match='"kitchen"'):
        store.renew_identity("kitchen")


def test_renewal_without_the_issuer_says_so_and_changes_nothing(store: KeyStore) -> None:
    issued = create(store, issuer=create_authority(store))
    store.delete_identity("workshop")
    with pytest.raises(IdentityError, match="whose key is not here"):
        store.renew_identity("kitchen")
    found = store.identity("kitchen")
    assert found is not None
    assert found.certs == issued.certs


def test_expired_authority_issues_nothing(store: KeyStore) -> None:
    long_ago = datetime.now(UTC) - 400 * DAY
    old = make_identity(
        {"CN": "old"},
        usages=KeyUsages.CERTIFICATE_AUTHORITY,
        now=long_ago,
        key_type=KeyType.P_256,
    )
    authority = TLSIdentity("old", old.certs, old.private_key)
    with pytest.raises(IdentityExpiredError, match='"old" expired'):
        store.create_identity(
            "kitchen",
            {"CN": "kitchen"},
            issuer=authority,
            expiration=datetime.now(UTC) + DAY,
            key_type=KeyType.P_256,
        )
    assert store.labels() == ()


def test_changes_are_told_until_no_longer_wanted(store: KeyStore) -> None:
    told: list[str] = []
    end = store.on_change(told.append)
    create(store)
    store.renew_identity("kitchen")
    store.delete_identity("kitchen")
    store.delete_identity("kitchen")
    assert told == ["kitchen"] * 3
    end()
    create(store)
    assert len(told) == 3


def test_who_is_told_finds_the_renewed_identity(store: KeyStore) -> None:
    found: list[TLSIdentity | None] = []
    create(store)
    store.on_change(lambda label: found.append(store.identity(label)))
    assert found == []
    renewed = store.renew_identity("kitchen")
    assert found[0] is not None
    assert found[0].certs == renewed.certs


# --- imported and exported ----------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2])
def test_exported_identity_can_be_imported_elsewhere(
    store: KeyStore, tmp_path: Path, length: int
) -> None:
    made = create(store, issuer=create_authority(store) if length == 2 else None)
    data = store.export_identity("kitchen", "secret")
    imported = KeyStore.open(tmp_path / "other", unlock=KEY).import_identity("k", data, "secret")
    assert (imported.label, imported.certs) == ("k", made.certs)
    assert len(imported.certs) == length


def test_import_that_fails_keeps_nothing(store: KeyStore) -> None:
    create(store)
    data = store.export_identity("kitchen", "secret")
    with pytest.raises(IdentityError, match="password is wrong"):
        store.import_identity("other", data, "Secret")
    with pytest.raises(DuplicateLabelError):
        store.import_identity("kitchen", data, "secret")
    with pytest.raises(IdentityError, match="neither PEM nor PKCS#12"):
        store.import_identity("other", b"garbage")
    assert store.labels() == ("kitchen",)


def test_import_above_the_limit_is_refused(folder: Path) -> None:
    store = KeyStore.open(folder, unlock=KEY, limits=Limits(max_identity_bytes=10))
    with pytest.raises(IdentityError, match="more than 10 bytes"):
        store.import_identity("other", b"x" * 11)


def test_exporting_what_is_not_there_says_so(store: KeyStore) -> None:
    with pytest.raises(IdentityNotFoundError):
        store.export_identity("kitchen", "secret")


# --- the anonymous identity ---------------------------------------------------------


def test_anonymous_identity_is_reused(folder: Path, store: KeyStore) -> None:
    first = store.anonymous_identity()
    assert first.label == ANONYMOUS_LABEL
    assert KeyStore.open(folder, unlock=KEY).anonymous_identity().certs == first.certs


@pytest.mark.parametrize(("hours_left", "renewed"), [(23, True), (-1, True), (25, False)])
def test_anonymous_identity_is_renewed_on_its_last_day(
    folder: Path, store: KeyStore, hours_left: int, renewed: bool
) -> None:
    now = datetime.now(UTC)
    old = make_identity(
        {"CN": "edgesync anonymous"},
        usages=KeyUsages.SERVER_AUTH,
        now=now - 300 * DAY,
        expires=now + timedelta(hours=hours_left),
        key_type=KeyType.P_256,
    )
    KeyFolder.open(folder, KEY).add(ANONYMOUS_LABEL, old)
    told: list[str] = []
    store.on_change(told.append)
    identity = store.anonymous_identity()
    assert (identity.certs != old.certs) is renewed
    assert told == [ANONYMOUS_LABEL] * renewed
    assert identity.expiration > now + timedelta(hours=24)
    assert identity.certs[0].public_key() == old.certs[0].public_key()


def test_two_listeners_at_once_get_the_same_anonymous_identity(store: KeyStore) -> None:
    greenlets = [gevent.spawn(store.anonymous_identity) for _ in range(3)]
    gevent.joinall(greenlets, timeout=20)
    assert len({greenlet.get().fingerprint for greenlet in greenlets}) == 1


def test_label_of_the_anonymous_identity_is_reserved(store: KeyStore) -> None:
    with pytest.raises(IdentityError, match="kept for the anonymous"):
        create(store, ANONYMOUS_LABEL)
    with pytest.raises(IdentityError, match="kept for the anonymous"):
        store.import_identity(ANONYMOUS_LABEL, b"")


def test_damaged_anonymous_identity_is_named_and_may_be_deleted(
    folder: Path, store: KeyStore
) -> None:
    store.anonymous_identity()
    (folder / f"{ANONYMOUS_LABEL}.identity").write_bytes(b"")
    with pytest.raises(KeyStoreDamagedError, match="anonymous") as raised:
        store.anonymous_identity()
    assert "delete the identity" in raised.value.hint
    store.delete_identity(ANONYMOUS_LABEL)
    store.anonymous_identity()


# --- unlocking ----------------------------------------------------------------------


def test_passphrase_opens_the_store_without_holding_the_hub(folder: Path) -> None:
    KeyStore.open(folder, unlock="correct horse")
    assert longest_hold(lambda: KeyStore.open(folder, unlock="correct horse")) < 0.05
    with pytest.raises(WrongUnlockKeyError):
        KeyStore.open(folder, unlock="wrong horse")


def test_unlock_key_can_be_changed_while_open(folder: Path, store: KeyStore) -> None:
    create(store)
    store.change_unlock(b"n" * 32)
    assert store.identity("kitchen") is not None
    with pytest.raises(WrongUnlockKeyError):
        KeyStore.open(folder, unlock=KEY)
    assert KeyStore.open(folder, unlock=b"n" * 32).labels() == ("kitchen",)


def test_expected_failures_print_nothing(
    folder: Path, store: KeyStore, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WrongUnlockKeyError):
        KeyStore.open(folder, unlock=b"x" * 32)
    with pytest.raises(IdentityNotFoundError):
        store.renew_identity("kitchen")
    assert capfd.readouterr().err == ""


# --- users --------------------------------------------------------------------------


def test_users_come_change_and_go(folder: Path, store: KeyStore) -> None:
    store.set_password("ann", "sesame")
    assert KeyStore.open(folder, unlock=KEY).check_password("ann", "sesame")
    store.set_password("ann", "barley")
    assert not store.check_password("ann", "sesame")
    assert store.check_password("ann", "barley")
    assert store.users() == ("ann",)
    store.remove_user("ann")
    store.remove_user("ann")
    assert not store.check_password("ann", "barley")
    assert store.users() == ()


def test_nobody_has_no_password(store: KeyStore) -> None:
    assert not store.check_password("nobody", "")


def test_impossible_user_is_refused(store: KeyStore) -> None:
    with pytest.raises(KeyStoreError, match="cannot be a user's name"):
        store.set_password("a:b", "x")


def test_checking_does_not_hold_the_hub(store: KeyStore) -> None:
    store.set_password("ann", "sesame")
    assert longest_hold(lambda: store.check_password("ann", "wrong")) < 0.05


def test_another_thread_may_check_passwords(store: KeyStore) -> None:
    store.set_password("ann", "sesame")
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(store.check_password("ann", "sesame")))
    thread.start()
    thread.join(10)
    assert answers == [True]


# --- a process that uses it ---------------------------------------------------------

BUSY: Final = """
import sys
from edgesync import KeyStore, KeyType

unlock, password = sys.stdin.buffer.read(32), sys.stdin.buffer.read(6).decode()
store = KeyStore.open(sys.argv[1], unlock=unlock)
store.set_password("ann", password)
for number in range(10_000):
    label = str(number)
    store.create_identity(label, {"CN": label}, key_type=KeyType.P_256)
    store.renew_identity(label)
    store.change_unlock(unlock)
    if number:
        store.delete_identity(str(number - 1))
    print(number, flush=True)
"""


def test_killed_process_loses_nothing_and_shows_no_secret(folder: Path) -> None:
    unlock = os.urandom(32)
    for _ in range(4):
        done, shown = work_and_kill(folder, unlock)
        assert not any(secret in shown for secret in (unlock, unlock.hex().encode(), b"sesame"))
        store = KeyStore.open(folder, unlock=unlock)
        assert store.users() == ("ann",)
        labels = store.labels()
        expected: list[set[str]] = [{str(done)}, {str(done), str(done + 1)}, {str(done + 1)}]
        assert set(labels) in expected
        for label in labels:
            identity = store.identity(label)
            assert identity is not None
            assert isinstance(identity.private_key, ec.EllipticCurvePrivateKey)
            identity.server_tls()
            store.delete_identity(label)


def work_and_kill(folder: Path, unlock: bytes) -> tuple[int, bytes]:
    """Return the last number a process said before it was killed, and what /proc showed of it."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BUSY, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(unlock + b"sesame")
        process.stdin.flush()
        first = process.stdout.readline()
        proc = Path("/proc") / str(process.pid)
        shown = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        said = [first, *process.stdout.readlines()]
    return int(said[-1]), shown
