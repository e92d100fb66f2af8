"""A box that can fail, and a card for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.card import Card
from tests.faults.faulty_box import FaultyBox

SOURCE = Path(__file__).with_name("shim.c")


class StartBox(Protocol):
    def __call__(self, *, limits: str = "") -> FaultyBox: ...


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for what stands between the service and the system")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(SOURCE)], check=True, timeout=60)
    return library


@pytest.fixture
def start(tmp_path: Path, shim: Path) -> Iterator[StartBox]:
    boxes: list[FaultyBox] = []

    def begin(*, limits: str = "") -> FaultyBox:
        boxes.append(FaultyBox(tmp_path, shim, limits=limits))
        boxes[-1].start()
        return boxes[-1]

    yield begin
    for each in boxes:
        each.__exit__(None, None, None)
        each.faults.close()


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    """Return a card that holds the state of the box."""
    try:
        card = Card(tmp_path)
    except OSError as error:
        pytest.skip(f"needs a file system that it may mount: {error}")
    (card.folder / "state").mkdir()
    (tmp_path / "state").symlink_to(card.folder / "state")
    yield card
    card.remove()
