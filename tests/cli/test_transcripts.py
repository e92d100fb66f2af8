"""What is typed, exactly what comes back, and the exit code.

A transcript begins with remarks, of which `# box: SETTINGS` and `# no box` say what
it needs. With WRITE_TRANSCRIPTS=1 in the environment they are written anew; read
the difference before you keep it.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.api.box import Box
from tests.cli.desk import Desk

FOLDER = Path(__file__).parent / "transcripts"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, short_path: Path) -> None:
    text = path.read_text()
    remarks = re.match(r"(#.*\n)*", text)
    head = remarks[0] if remarks is not None else ""
    commands = re.findall(r"^\$ (.*)$", text, re.M)
    if "# no box" in head:
        desk = Desk(short_path)
        found = play(desk, head, commands)
    else:
        settings = "\n".join(re.findall(r"^# box: (.*)$", head, re.M))
        with Box(short_path, settings=settings) as box:
            wait_for_all(box)
            found = play(Desk(short_path, url=box.url, port=box.port), head, commands)
    if os.environ.get("WRITE_TRANSCRIPTS"):
        path.write_text(found)
    assert found == text


def play(desk: Desk, head: str, commands: list[str]) -> str:
    return "\n".join([head, *(f"$ {command}\n{desk.type(command)}" for command in commands)])


def wait_for_all(box: Box) -> None:
    """Wait until the last listener serves, which is started last."""
    deadline = time.monotonic() + 20
    while "look around with" not in box.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 10
