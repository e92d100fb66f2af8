"""The machines of these tests: one tree with the package, a new machine on it for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.packaging.machine import Machine, machine

Start = Callable[[], Machine]


def named(variable: str) -> Path:
    """Return the path that a variable of the environment names; skip if there is none."""
    if not os.environ.get(variable):
        pytest.skip(
            f"needs a Debian 13 and the package: {variable} is not set, as by make test-package"
        )
    return Path(os.environ[variable]).absolute()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.needs_root)
            item.add_marker(pytest.mark.timeout(900))  # under emulation


@pytest.fixture(scope="session")
def tree() -> Path:
    return named("EDGESYNC_DEBIAN_ROOT")


@pytest.fixture(scope="session")
def package() -> Path:
    return named("EDGESYNC_PACKAGE")


@pytest.fixture(scope="session")
def is_native(tree: Path) -> bool:
    """Tell whether this processor runs the tree: under emulation systemd does not run."""
    ours = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, check=True, timeout=60
    )
    theirs = subprocess.run(
        ["chroot", str(tree), "dpkg", "--print-architecture"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return ours.stdout == theirs.stdout


@pytest.fixture(scope="session")
def installed(
    tree: Path, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[Path]]:
    """Install the package, as an image is built, before the machine is on for the first time."""
    folder = tmp_path_factory.mktemp("installed")
    with machine([tree], folder, has_systemd=False) as box:
        shutil.copy(package, box.file("/root/edgesync.deb"))
        box.run("dpkg", "--install", "/root/edgesync.deb")
        box.run("rm", "/root/edgesync.deb")
    yield [folder / "upper", tree]
    shutil.rmtree(folder)


@pytest.fixture
def start(installed: Sequence[Path], tmp_path: Path, is_native: bool) -> Iterator[Start]:
    """Switch on new machines, each for the first time."""
    with _starter(installed, tmp_path, is_native) as started:
        yield started


@pytest.fixture
def box(start: Start) -> Machine:
    """Return a machine that a test may change."""
    return start()


@pytest.fixture
def booted(box: Machine) -> Machine:
    """Return one with systemd that a test may change."""
    return _with_systemd(box)


@pytest.fixture(scope="module")
def shared(
    installed: Sequence[Path], tmp_path_factory: pytest.TempPathFactory, is_native: bool
) -> Iterator[Machine]:
    """Return one with systemd that tests only look at."""
    with _starter(installed, tmp_path_factory.mktemp("shared"), is_native) as started:
        yield _with_systemd(started())


@contextmanager
def _starter(layers: Sequence[Path], folder: Path, is_native: bool) -> Iterator[Start]:
    with ExitStack() as running:
        numbers = count(1)

        def started() -> Machine:
            place = folder / f"machine-{next(numbers)}"
            return running.enter_context(machine(layers, place, has_systemd=is_native))

        yield started


def _with_systemd(box: Machine) -> Machine:
    if not box.has_systemd:
        pytest.skip("needs a systemd that runs, which emulation of a processor does not give")
    return box
