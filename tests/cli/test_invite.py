"""The QR code of an invitation, read as a phone does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import zxingcpp

from edgesync.api.answers import ListenerAnswer
from edgesync.cli.invite import invitation
from edgesync.cli.output import qr_lines
from tests.api.box import Box
from tests.cli.desk import Desk

MODULE_PIXELS = 4
LIGHT, DARK = 255, 0
CODE = "wss://[fd12:3456:789a::1]:4984/inventory#fp=" + "A" * 43 + "&auth=password"


def read(lines: Sequence[str], *, as_ascii: bool = False, inverted: bool = False) -> str:
    """Return what a decoder finds in the picture that a terminal shows."""
    rows = ascii_rows(lines) if as_ascii else block_rows(lines)
    pixels = bytearray()
    for row in rows:
        colours = bytes(LIGHT if filled != inverted else DARK for filled in row)
        line = b"".join(bytes([colour]) * MODULE_PIXELS for colour in colours)
        pixels += line * MODULE_PIXELS
    shape = (len(rows) * MODULE_PIXELS, len(rows[0]) * MODULE_PIXELS)
    (found,) = zxingcpp.read_barcodes(memoryview(bytes(pixels)).cast("B", shape))
    return found.text


def block_rows(lines: Sequence[str]) -> list[list[bool]]:
    rows: list[list[bool]] = []
    for line in lines:
        rows.append([character in "█▀" for character in line])
        rows.append([character in "█▄" for character in line])
    return rows


def ascii_rows(lines: Sequence[str]) -> list[list[bool]]:
    return [[line[index] == "#" for index in range(0, len(line), 2)] for line in lines]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("as_ascii", [False, True])
def test_a_phone_reads_the_code(as_ascii: bool, inverted: bool) -> None:
    lines = qr_lines(CODE, as_ascii=as_ascii, inverted=inverted)
    assert read(lines, as_ascii=as_ascii, inverted=inverted) == CODE


def test_the_code_fits_into_a_terminal() -> None:
    lines = qr_lines(CODE)
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 30


def test_what_the_command_prints_leads_to_the_listener(tmp_path: Path) -> None:
    settings = 'database = "db"\n[listener.kitchen]\ndatabase = "db"\n'
    with Box(tmp_path, settings=f'{settings}interface = "127.0.0.1"\nport = 0') as box:
        desk = Desk(tmp_path)
        while not (listener := box.client.listener("kitchen"))["urls"]:
            pass
        said = desk.raw("edgesync invite kitchen")
    lines = [line for line in said.splitlines() if set(line) <= set("█▀▄ ") and line]
    url, _, fragment = read(lines).partition("#")
    assert url == listener["urls"][0]
    assert fragment.startswith("fp=")
    assert fragment.endswith("&auth=none")


def test_a_plain_listener_has_no_fingerprint() -> None:
    listener: ListenerAnswer = {"fingerprint": None, "authentication": "none"}  # type: ignore[typeddict-item]  # what counts
    assert invitation(listener, "ws://x:1/db") == "ws://x:1/db#auth=none"
