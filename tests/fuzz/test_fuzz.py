"""A short look at every target, and whether a failure would be seen."""

from __future__ import annotations

import logging
import os
import random
import time
from pathlib import Path

import pytest

from tests.fuzz.__main__ import ALL
from tests.fuzz.mutator import MAX_BYTES, Mutator
from tests.fuzz.target import CORPUS, Report, Target, fuzz, pure

SEEDS = [b"one seed", b"another, 12 bytes"]


@pytest.mark.parametrize("target", ALL, ids=lambda each: each.folder)
def test_damaged_input_is_accepted_or_refused_as_documented(target: Target, tmp_path: Path) -> None:
    report = fuzz(target, tmp_path, target.short)
    assert [f"{failure} {data[:200]!r}" for data, failure in report.failures] == []
    assert report.accepted > 0
    assert report.refused > 0


def test_every_folder_of_the_corpus_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= {target.folder for target in ALL}


# --- the mutator ---------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_inputs() -> None:
    one, other = (Mutator(SEEDS, [b"token"], random.Random(7)) for _ in range(2))
    assert [one.next() for _ in range(500)] == [other.next() for _ in range(500)]


def test_inputs_begin_with_the_seeds_and_then_differ() -> None:
    mutator = Mutator(SEEDS, [], random.Random(7))
    assert [mutator.next(), mutator.next()] == SEEDS
    assert len({mutator.next() for _ in range(500)}) > 400


def test_inputs_stay_below_the_limit() -> None:
    mutator = Mutator([b"x" * MAX_BYTES], [b"y" * MAX_BYTES], random.Random(7))
    assert max(len(mutator.next()) for _ in range(500)) == MAX_BYTES


# --- what counts as a failure ----------------------------------------------------------------


def report_of(target: Target, folder: Path) -> Report:
    return fuzz(target, folder, 60)


def failing(data: bytes) -> bool:
    raise KeyError(data)


def slow(_data: bytes) -> bool:
    time.sleep(0.1)
    return True


def complaining(_data: bytes) -> bool:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("edgesync.somewhere").exception("it failed")
    return True


@pytest.mark.parametrize(
    ("feed", "failure"), [(failing, "KeyError"), (slow, "it took 0.1 s"), (complaining, "a bug")]
)
def test_failure_is_told_with_its_input(tmp_path: Path, feed: object, failure: str) -> None:
    target = Target("x", pure(feed), seeds=lambda: SEEDS, slow_s=0.05)  # type: ignore[arg-type]
    report = report_of(target, tmp_path)
    ((data, told),) = report.failures
    assert data == SEEDS[0]
    assert failure in told


def test_documented_error_is_a_refusal(tmp_path: Path) -> None:
    report = report_of(Target("x", pure(failing), (KeyError,), lambda: SEEDS), tmp_path)
    assert (report.accepted, report.refused, report.failures) == (0, 60, [])


def test_open_files_are_a_leak(tmp_path: Path) -> None:
    opened: list[int] = []

    def leaking(_data: bytes) -> bool:
        opened.append(os.open(tmp_path, os.O_RDONLY))
        return True

    report = report_of(Target("x", pure(leaking), seeds=lambda: SEEDS), tmp_path)
    for each in opened:
        os.close(each)
    assert "file descriptors leak" in report.failures[0][1]


def test_memory_that_is_kept_is_a_leak(tmp_path: Path) -> None:
    kept: list[bytes] = []

    def keeping(_data: bytes) -> bool:
        kept.append(b"x" * (4 * 1024 * 1024))
        return True

    report = report_of(Target("x", pure(keeping), seeds=lambda: SEEDS), tmp_path)
    assert "memory leak" in report.failures[0][1]
