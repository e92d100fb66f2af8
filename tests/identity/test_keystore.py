"""The folder of a key store: whole at any moment, sealed, and nobody else's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgesync.errors import (
    DuplicateLabelError,
    IdentityError,
    IdentityNotFoundError,
    KeyStoreDamagedError,
    KeyStoreError,
    WrongUnlockKeyError,
)
from edgesync.identity.certificate import Identity, KeyType, KeyUsages, make_identity
from edgesync.identity.keystore import KeyFolder, check_user
from tests.identity.kill_points import CHANGES

ROOT: Final = Path(__file__).parents[2]
KEY: Final = b"k" * 32


def make(name: str = "kitchen", key_type: KeyType = KeyType.P_256) -> Identity:
    return make_identity(
        {"CN": name}, usages=KeyUsages.SERVER_AUTH, now=datetime.now(UTC), key_type=key_type
    )


KITCHEN: Final = make()
GARAGE: Final = make("garage")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def store(folder: Path) -> KeyFolder:
    return KeyFolder.open(folder, KEY)


def certs(store: KeyFolder, label: str) -> object:
    found = store.identity(label)
    return found and found.certs


# --- identities ---------------------------------------------------------------------


@pytest.mark.parametrize("key_type", KeyType)
def test_identity_is_there_after_opening_again(
    folder: Path, store: KeyFolder, key_type: KeyType
) -> None:
    identity = make(key_type=key_type)
    store.add("kitchen", identity)
    found = KeyFolder.open(folder, KEY).identity("kitchen")
    assert found is not None
    assert found.certs == identity.certs
    assert found.private_key.private_numbers() == identity.private_key.private_numbers()


def test_absent_identity_is_none(store: KeyFolder) -> None:
    assert store.identity("kitchen") is None
    assert store.identity("") is None


@pytest.mark.parametrize(
    "label", ["a/b", "..", ".", "k\u00fcche 2", "a%2Fb", "x" * 80, "\u20ac" * 26]
)
def test_any_printable_label_has_a_file_of_its_own(
    folder: Path, store: KeyFolder, label: str
) -> None:
    store.add(label, KITCHEN)
    store.add("other", GARAGE)
    assert store.labels() == tuple(sorted([label, "other"]))
    assert certs(store, label) == KITCHEN.certs
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("label", ["", "a\nb", "a\0b", "x" * 81, "\ud800"])
def test_impossible_labels_are_refused(store: KeyFolder, label: str) -> None:
    with pytest.raises(IdentityError, match="cannot be a label"):
        store.add(label, KITCHEN)


def test_a_label_is_the_same_in_either_form_of_unicode(store: KeyFolder) -> None:
    store.add("k\u00fcche", KITCHEN)
    assert certs(store, "ku\u0308che") == KITCHEN.certs


def test_a_label_is_given_once(store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    with pytest.raises(DuplicateLabelError, match='"kitchen"'):
        store.add("kitchen", GARAGE)
    assert certs(store, "kitchen") == KITCHEN.certs


def test_only_what_is_there_is_replaced(store: KeyFolder) -> None:
    with pytest.raises(IdentityNotFoundError, match='"kitchen"'):
        store.replace("kitchen", KITCHEN)
    store.add("kitchen", KITCHEN)
    store.replace("kitchen", GARAGE)
    assert certs(store, "kitchen") == GARAGE.certs


def test_deleting_says_whether_there_was_one(store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    assert store.delete("kitchen")
    assert not store.delete("kitchen")
    assert store.labels() == ()


def test_other_files_are_nobodys(folder: Path, store: KeyFolder) -> None:
    for name in ("README", ".identity", "a%zz.identity", "%61.identity"):
        (folder / name).write_bytes(b"x")
    assert store.labels() == ()


# --- users --------------------------------------------------------------------------


def test_users_are_kept_changed_and_removed(folder: Path, store: KeyFolder) -> None:
    store.set_verifier("ann", "one")
    store.set_verifier("b\u00e9n", "two")
    store.set_verifier("ann", "three")
    assert KeyFolder.open(folder, KEY).verifiers() == {"ann": "three", "b\u00e9n": "two"}
    assert store.remove_user("ann")
    assert not store.remove_user("ann")
    assert store.verifiers() == {"b\u00e9n": "two"}


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("", "x"),
        ("a:b", "x"),
        ("a\n", "x"),
        ("x" * 257, "x"),
        ("ann", ""),
        ("ann", "x" * 1025),
        ("ann", "a\0"),
    ],
)
def test_users_that_no_client_can_be_are_refused(user: str, password: str) -> None:
    with pytest.raises(KeyStoreError):
        check_user(user, password)


def test_changes_at_once_lose_nothing(folder: Path) -> None:
    def work(number: int) -> None:
        store = KeyFolder.open(folder, KEY)
        for each in range(5):
            store.set_verifier(f"{number}.{each}", "x")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(KeyFolder.open(folder, KEY).verifiers()) == 20


# --- unlocking ----------------------------------------------------------------------


def test_another_key_is_told_from_damage(folder: Path, store: KeyFolder) -> None:
    with pytest.raises(WrongUnlockKeyError):
        KeyFolder.open(folder, b"x" * 32)


def test_new_unlock_key_rewrites_no_identity(folder: Path, store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    store.set_verifier("ann", "one")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir()}
    store.change_unlock("correct horse")
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    moved = {path.name for path in folder.iterdir() if path.stat().st_ino != inodes[path.name]}
    assert changed == moved == {"unlock"}
    with pytest.raises(WrongUnlockKeyError):
        KeyFolder.open(folder, KEY)
    assert certs(KeyFolder.open(folder, "correct horse"), "kitchen") == KITCHEN.certs


def test_store_without_its_unlock_file_is_damaged_not_new(folder: Path, store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    (folder / "unlock").unlink()
    with pytest.raises(KeyStoreDamagedError, match=r'"unlock".*missing'):
        KeyFolder.open(folder, KEY)


# --- damage -------------------------------------------------------------------------


def test_a_flipped_bit_in_any_byte_of_any_file_is_detected_and_named(
    folder: Path, store: KeyFolder
) -> None:
    store.add("kitchen", KITCHEN)
    store.set_verifier("ann", "one")
    uses: dict[str, Callable[[], object]] = {
        "unlock": lambda: KeyFolder.open(folder, KEY),
        "kitchen.identity": lambda: store.identity("kitchen"),
        "users": lambda: store.verifiers(),
    }
    assert {path.name for path in folder.iterdir()} == set(uses)
    for name, use in uses.items():
        content = (folder / name).read_bytes()
        for at in range(len(content)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            (folder / name).write_bytes(damaged)
            with pytest.raises(KeyStoreDamagedError) as raised:
                use()
            assert raised.value.file == name
            assert raised.value.hint
        (folder / name).write_bytes(content)
        use()


def test_swapped_files_are_damaged(folder: Path, store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    store.add("garage", GARAGE)
    (folder / "garage.identity").rename(folder / "kitchen.identity")
    with pytest.raises(KeyStoreDamagedError, match=r'"kitchen\.identity"'):
        store.identity("kitchen")


def test_files_of_another_store_are_damaged(folder: Path, store: KeyFolder, tmp_path: Path) -> None:
    other = KeyFolder.open(tmp_path / "other", KEY)
    other.add("kitchen", KITCHEN)
    (tmp_path / "other" / "kitchen.identity").rename(folder / "kitchen.identity")
    with pytest.raises(KeyStoreDamagedError, match=r'"kitchen\.identity"'):
        store.identity("kitchen")


def test_a_damaged_file_takes_no_other_with_it(folder: Path, store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    store.add("garage", GARAGE)
    (folder / "garage.identity").write_bytes(b"")
    assert certs(KeyFolder.open(folder, KEY), "kitchen") == KITCHEN.certs
    assert store.delete("garage")
    assert store.labels() == ("kitchen",)


def test_damaged_users_are_not_overwritten(folder: Path, store: KeyFolder) -> None:
    (folder / "users").write_bytes(b"damaged")
    for change in (lambda: store.set_verifier("ann", "x"), lambda: store.remove_user("ann")):
        with pytest.raises(KeyStoreDamagedError):
            change()
    assert (folder / "users").read_bytes() == b"damaged"


def test_overlong_file_is_damaged_and_not_read_whole(folder: Path, store: KeyFolder) -> None:
    store.add("kitchen", KITCHEN)
    with (folder / "kitchen.identity").open("ab") as file:
        file.truncate(1 << 34)  # sparse
    with pytest.raises(KeyStoreDamagedError):
        store.identity("kitchen")


# --- the folder ---------------------------------------------------------------------


def test_folder_and_files_are_the_owners_alone(folder: Path) -> None:
    old = os.umask(0)
    try:
        store = KeyFolder.open(folder, KEY)
        store.add("kitchen", KITCHEN)
        store.set_verifier("ann", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_folder_that_is_open_to_others_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(KeyStoreError, match="open to others") as raised:
        KeyFolder.open(folder, KEY)
    assert raised.value.hint == f"chmod 700 {folder}"


def test_folder_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KeyStoreError, match=r"file.*Not a directory"):
        KeyFolder.open(tmp_path / "file" / "keys", KEY)


def test_a_link_is_not_followed(folder: Path, store: KeyFolder, tmp_path: Path) -> None:
    store.add("kitchen", KITCHEN)
    (folder / "kitchen.identity").rename(tmp_path / "elsewhere")
    (folder / "kitchen.identity").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyStoreError, match="symbolic links"):
        store.identity("kitchen")


FULL_DISK: Final = """
import resource, signal, sys
from pathlib import Path
from edgesync.errors import KeyStoreError
from edgesync.identity.keystore import KeyFolder

store = KeyFolder.open(Path(sys.argv[1]), b"k" * 32)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    store.set_verifier("ben", "two")
except KeyStoreError as error:
    print(error)
"""


def test_full_disk_leaves_what_was_there(folder: Path, store: KeyFolder) -> None:
    store.set_verifier("ann", "one")
    assert "File too large" in run("-c", FULL_DISK, str(folder))
    assert {path.name for path in folder.iterdir()} == {"unlock", "users"}
    assert store.verifiers() == {"ann": "one"}


def test_kill_in_any_line_of_any_change_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    said = run("-m", "tests.identity.kill_points", str(tmp_path))
    places = dict(line.split() for line in said.splitlines())
    assert set(places) == {"open", *CHANGES}
    assert min(map(int, places.values())) >= 10


# --- secrets ------------------------------------------------------------------------


def test_no_secret_is_readable_in_any_file(folder: Path) -> None:
    secrets = ["correct horse battery", "a-verifier-of-ann"]
    store = KeyFolder.open(folder, secrets[0])
    store.set_verifier("ann", secrets[1])
    identity = make(key_type=KeyType.RSA_2048)
    store.add("kitchen", identity)
    store.add("garage", GARAGE)
    hidden = [
        *(secret.encode() for secret in secrets),
        *key_material(identity),
        *key_material(GARAGE),
        b"PRIVATE KEY",
        identity.certs[0].public_bytes(Encoding.DER),
    ]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files) == 4
    for content in files.values():
        assert not any(each in content for each in hidden)


def key_material(identity: Identity) -> list[bytes]:
    """Return a private key in every form in which it could lie about."""
    key = identity.private_key
    if isinstance(key, rsa.RSAPrivateKey):
        private = key.private_numbers()
        numbers = [private.d, private.p, private.q, private.dmp1, private.dmq1, private.iqmp]
    else:
        numbers = [key.private_numbers().private_value]
    found = [
        key.private_bytes(encoding, form, NoEncryption())
        for encoding in (Encoding.DER, Encoding.PEM)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    ]
    for number in numbers:
        size = (number.bit_length() + 7) // 8
        found += [number.to_bytes(size, "big"), number.to_bytes(size, "little")]
        found += [f"{number:x}".encode(), f"{number:X}".encode(), str(number).encode()]
    return found


def run(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
