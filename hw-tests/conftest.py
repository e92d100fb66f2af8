"""What both tiers share: marks that skip by name, and the figures that a run prints at its end."""

from __future__ import annotations

import pytest

from needs import Record, reason_to_skip

FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers():
            if reason := reason_to_skip(mark.name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Record:
    """Note a figure, to be printed at the end."""
    figures = request.config.stash[FIGURES]
    return lambda what, number, unit: figures.append(f"{number:>10.1f} {unit:<6} {what}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if figures := config.stash[FIGURES]:
        terminalreporter.section("figures, of an emulated processor on this machine")
        terminalreporter.write_line("\n".join(figures))
