"""Folders with short names, so that paths fit into a line of a terminal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
