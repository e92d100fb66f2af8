"""The machines of this tier: cards with the SD image, booted once, then restored for each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from appliance import Appliance
from board import ADDRESS, Board
from card import SETUP_FILE, USER, Card, NewCard
from needs import Record, named, reason_to_skip

READY = "ready"


@pytest.fixture(scope="session")
def image() -> Path:
    if os.environ.get(ADDRESS):
        pytest.skip("needs cards of its own: the board of the environment has one")
    if reason := reason_to_skip("needs_qemu"):
        pytest.skip(reason)
    return named("EDGESYNC_IMAGE", "an SD image")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the SSH key of a technician."""
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hw-tests", "-f", path],
        check=True,
        timeout=60,
    )
    return path


@pytest.fixture(scope="session")
def setup(key: Path) -> str:
    """Return what a person puts on the card before its first boot."""
    public = key.with_suffix(".pub").read_text().strip()
    return SETUP_FILE.replace("KEY", public)


@pytest.fixture(scope="session")
def booted(
    image: Path, setup: str, key: Path, tmp_path_factory: pytest.TempPathFactory, record: Record
) -> Iterator[Card]:
    """Boot a card for the first time, and keep what it is then."""
    machine = Card(image, setup, tmp_path_factory.mktemp("image"), key, USER)
    record("image: first boot, from power on to serving", machine.on(), "s")
    machine.wait_for_ssh()
    machine.wait_for(
        lambda: machine.run("systemctl is-system-running", check=False).strip() != "starting",
        "all units are up",
        300,
    )
    machine.save(READY)
    machine.off()
    yield machine
    machine.off()


@pytest.fixture
def card(booted: Card) -> Iterator[Card]:
    """Return the machine, on and as it was after its first boot."""
    booted.restore(READY)
    yield booted
    booted.off()


@pytest.fixture
def appliance(request: pytest.FixtureRequest) -> Appliance:
    """Return the board on the desk, else the machine in QEMU."""
    if os.environ.get(ADDRESS):
        board = Board.of_environment()
        board.wait_until_it_serves()
        return board
    card = request.getfixturevalue("card")
    assert isinstance(card, Card)
    return card


@pytest.fixture
def new_card(image: Path, key: Path, tmp_path: Path) -> Iterator[NewCard]:
    """Write cards that were never booted."""
    with ExitStack() as made:
        numbers = count(1)

        def write(setup: str) -> Card:
            card = Card(image, setup, tmp_path / f"card-{next(numbers)}", key, USER)
            made.callback(card.off)
            return card

        yield write
