"""The root is read-only: only data is written."""

from __future__ import annotations

import json
from pathlib import Path

from card import Card, partitions
from qemu import SECTOR


def content(path: Path, first: int, sectors: int) -> bytes:
    with path.open("rb") as file:
        file.seek(first * SECTOR)
        return file.read(sectors * SECTOR)


def test_nothing_outside_data_is_written(card: Card, image: Path) -> None:
    for number in range(20):
        card.client.push(f"reading-{number}", {"n": number})
    card.run("systemctl restart edgesyncd; logger hello; sync")
    card.off()
    at = partitions(image)
    for name in ("system_a", "system_b"):
        assert card.partition(name).read_bytes() == content(image, *at[name]), name


def test_the_root_cannot_be_written_to(card: Card) -> None:
    for folder in ("/", "/usr", "/usr/lib/edgesync", "/boot/firmware"):
        ended = card.ended(f"touch {folder}/probe")
        assert ended.returncode != 0, folder


def test_only_data_is_mounted_for_writing(card: Card) -> None:
    told = json.loads(card.run("findmnt --json --list --output TARGET,SOURCE,OPTIONS"))
    devices = {
        each["source"].partition("[")[0]
        for each in told["filesystems"]
        if each["source"].startswith("/dev/") and "rw" in each["options"].split(",")
    }
    labels = {
        card.run(f"lsblk --noheadings --output PARTLABEL $(readlink -f {each})").strip()
        for each in devices
    }
    assert labels == {"data"}
