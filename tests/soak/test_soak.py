"""A short soak, to see that a long one would run."""

from __future__ import annotations

from pathlib import Path

from tests.soak.soak import Plan, run


def test_clients_and_model_agree_and_nothing_is_left_behind(tmp_path: Path) -> None:
    outcome = run(tmp_path, Plan(seconds=8.0, clients=40, pause_s=1.0))
    assert outcome.problems == []
    assert outcome.figures["edits"] > 100
