"""`make bench` runs; what it finds is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness import Figure, Skipped, measure


def test_a_case_is_printed_and_written_with_its_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures: list[Figure | Skipped] = [
        Figure("CPU", 30.0, "us", 10.0, "nothing"),
        Skipped("npm is missing"),
    ]
    measure({"some": lambda: figures}, tmp_path / "found.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["some", "CPU", "30.0", "us", "10.0", "3.00", "nothing"]
    assert lines[2].split(maxsplit=1) == ["some", "skipped: npm is missing"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each.get("ratio") for each in found["figures"]] == [3.0, None]
    assert found["machine"]["python"]


def test_the_command_measures_the_case_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench", "--case", "sync", "--documents", "200"]
    subprocess.run(
        [*command, "--json", str(path)],
        cwd=Path(__file__).parent.parent,
        check=True,
        capture_output=True,
        timeout=100,
    )
    figures = json.loads(path.read_text())["figures"]
    assert {each["case"] for each in figures} == {"sync"}
    assert {"push over ws: CPU per document", "pull over wss: documents per second"} <= {
        each["name"] for each in figures
    }
