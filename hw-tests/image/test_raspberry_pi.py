"""The same card in QEMU's Raspberry Pi 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from card import USER, Pi3
from needs import Record


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_it_serves_on_a_raspberry_pi_3(
    image: Path, setup: str, key: Path, tmp_path: Path, record: Record
) -> None:
    board = Pi3(image, setup, tmp_path, key, USER)
    try:
        record("image: first boot in raspi3b, to serving", board.on(1000), "s")
        board.client.push("boiler", {"setpoint": 21})
        assert board.client.pull("boiler") == {"setpoint": 21}
    finally:
        board.off()
