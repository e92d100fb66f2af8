"""One service for the tests of a module; each uses documents of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.box import Box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("box")) as running:
        yield running
