"""Which slot starts: the lines of config.txt that a Pi's firmware and we read."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parents[2]
SLOTS: Final = PROJECT / "image-build/device/usr/lib/edgesync-image/slots"
CONFIG: Final = PROJECT / "image-build/boot/config.txt"
ONE_SECTOR: Final = 512


class Card:
    """A boot partition, and which slot runs."""

    def __init__(self, folder: Path, running: str) -> None:
        self.config = folder / "config.txt"
        self.config.write_text(CONFIG.read_text())
        (folder / "cmdline").write_text(f"root=PARTLABEL=system_{running} rauc.slot={running} ro\n")
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "EDGESYNC_BOOT": str(folder),
            "EDGESYNC_CMDLINE": str(folder / "cmdline"),
        }

    def slots(self, *arguments: str) -> str:
        command = [str(SLOTS), *arguments]
        environment = self._environment
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    def say(self, start: str, confirmed: str, bad: str) -> None:
        lines = self.config.read_text().splitlines(keepends=True)
        lines[:2] = [f"os_prefix={start}/\n", f"# slots: confirmed={confirmed} bad={bad}\n"]
        self.config.write_text("".join(lines))

    @property
    def state(self) -> list[str]:
        return self.config.read_text().splitlines()[:2]


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path, running="a")


@pytest.fixture
def card_on_trial(tmp_path: Path) -> Card:
    """B runs, as its initrd left it."""
    card = Card(tmp_path, running="b")
    card.say("a", confirmed="a", bad="b")
    return card


def test_config_fits_in_a_sector() -> None:
    assert len(CONFIG.read_bytes()) <= ONE_SECTOR


def test_a_fresh_card_starts_a_and_has_nothing_in_b(card: Card) -> None:
    assert card.slots("get-primary") == "a"
    assert card.slots("get-state", "a") == "good"
    assert card.slots("get-state", "b") == "bad"


def test_the_running_slot_comes_from_the_command_line(card_on_trial: Card) -> None:
    assert card_on_trial.slots("get-current") == "b"


def test_a_slot_that_is_being_written_is_bad(card: Card) -> None:
    card.say("a", confirmed="a", bad="-")
    card.slots("set-state", "b", "bad")
    assert card.state == ["os_prefix=a/", "# slots: confirmed=a bad=b"]


def test_a_slot_on_trial_is_confirmed(card_on_trial: Card) -> None:
    card_on_trial.slots("set-state", "b", "good")
    assert card_on_trial.state == ["os_prefix=b/", "# slots: confirmed=b bad=-"]


def test_confirming_what_runs_leaves_a_waiting_update_alone(card: Card) -> None:
    card.say("b", confirmed="a", bad="-")
    card.slots("set-state", "a", "good")
    assert card.state == ["os_prefix=b/", "# slots: confirmed=a bad=-"]


def test_a_waiting_update_can_be_called_off(card: Card) -> None:
    card.say("b", confirmed="a", bad="-")
    card.slots("set-primary", "a")
    assert card.state == ["os_prefix=a/", "# slots: confirmed=a bad=-"]


def test_the_rest_of_the_file_stays_in_place(card: Card) -> None:
    before = card.config.read_bytes()
    card.slots("set-state", "b", "bad")
    assert card.config.read_bytes() == before


def test_a_file_without_our_lines_is_left_alone(card: Card) -> None:
    card.config.write_text("arm_64bit=1\n")
    with pytest.raises(subprocess.CalledProcessError):
        card.slots("set-state", "b", "bad")
    assert card.config.read_text() == "arm_64bit=1\n"
