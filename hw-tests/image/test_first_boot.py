"""The first boot of a card: what a person put on it is applied, and no secret is another card's."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

from card import ERRORS, PASSWORD, SETUP, Card, NewCard

DATABASE = "/var/lib/edgesync/databases/db.edgesync/database.sqlite3"
SOURCE = "SELECT hex(value) FROM info WHERE key = 'source_id'"
SECRETS = {
    "host keys": "cat /etc/ssh/ssh_host_*_key | sha256sum",
    "machine ID": "cat /etc/machine-id",
    "secret of systemd-creds": "sha256sum </var/lib/systemd/credential.secret",
    "key of the key store": "sha256sum </etc/credstore.encrypted/edgesync.key",
    "random seed": "sha256sum </var/lib/systemd/random-seed",
    "name among peers": f'sqlite3 -readonly {DATABASE} "{SOURCE}"',
}


def secrets(card: Card) -> dict[str, str]:
    found = {name: card.run(how) for name, how in SECRETS.items()}
    assert all(found.values()), found
    return {**found, "certificate": card.fingerprint()}


def greeting(card: Card) -> bytes:
    """Return the first bytes that sshd says, nothing if it does not."""
    with suppress(OSError), socket.create_connection(card.address(22), timeout=5) as connection:
        return connection.recv(100)
    return b""


def test_two_first_boots_share_no_secret(card: Card, new_card: NewCard, setup: str) -> None:
    ours = secrets(card)
    card.off()
    another = new_card(setup)
    another.on()
    another.wait_for_ssh()
    theirs = secrets(another)
    assert [name for name, secret in ours.items() if secret == theirs[name]] == []


def test_the_setup_file_is_applied_and_gone(card: Card) -> None:
    assert card.run("hostname").strip() == "cellar"
    assert card.run("readlink -f /etc/localtime").strip().endswith("Europe/Berlin")
    assert json.loads(card.run("edgesync --json user list"))
    card.off()
    assert SETUP not in card.boot_files()
    assert ERRORS not in card.boot_files()


def test_no_password_is_on_the_data_partition(card: Card) -> None:
    card.run("sync")
    card.off()
    assert PASSWORD.encode() not in card.partition("data").read_bytes()


def test_data_takes_the_rest_of_the_card(card: Card) -> None:
    told = json.loads(card.run("lsblk --json --bytes --output NAME,SIZE,PARTLABEL /dev/vda"))
    (disk,) = told["blockdevices"]
    sizes = {each["partlabel"]: each["size"] for each in disk["children"]}
    assert disk["size"] - sum(sizes.values()) < 16 * 2**20
    free = int(card.run("df --block-size=1 --output=size /var/lib/edgesync | tail -1"))
    assert free > sizes["data"] * 0.85


def test_a_setup_file_with_an_error_changes_nothing_and_says_why(
    new_card: NewCard, setup: str
) -> None:
    wrong = new_card(setup.replace("Europe/Berlin", "Europe/Atlantis"))
    wrong.power()
    # It serves nobody else and lets nobody in; but sshd starts after the file was looked at.
    wrong.wait_for(lambda: greeting(wrong).startswith(b"SSH-2.0"), "sshd answers", 400)
    wrong.off()
    files = wrong.boot_files()
    assert b"Europe/Atlantis" in files[ERRORS]
    assert SETUP in files
