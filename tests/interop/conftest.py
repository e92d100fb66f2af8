"""A server process and real clients for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.interop.cbl import ClientDatabase
from tests.interop.cbl_library import Library
from tests.interop.edgesyncd import Edgesyncd

MakeClient = Callable[[str], ClientDatabase]


@cache
def library(path: str) -> Library:
    """Load a library; twice in a process would be one too many."""
    return Library(Path(path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Edgesyncd]:
    with Edgesyncd(tmp_path / "server") as running:
        yield running


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MakeClient]:
    """Make databases of the real client by their name; the same again for a known one."""
    made: dict[str, ClientDatabase] = {}

    def make(name: str) -> ClientDatabase:
        if name not in made:
            path = os.environ["EDGESYNC_CBL_3"]
            made[name] = ClientDatabase(library(path), tmp_path / "clients", name)
        return made[name]

    yield make
    for database in made.values():
        database.close()
