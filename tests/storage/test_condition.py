from __future__ import annotations

from edgesync.errors import StoreDamagedError, StoreFullError
from edgesync.storage.condition import FORGOTTEN_AFTER_S, QUIET_S, Condition, Report

FULL = StoreFullError("full")
WORN = StoreDamagedError("worn")


def test_all_is_well_at_first() -> None:
    assert Condition().problem(0.0) is None


def test_first_failure_is_news_and_a_problem() -> None:
    condition = Condition()
    assert condition.note(Report("commit", FULL), 0.0)
    assert condition.problem(1.0) is FULL


def test_same_kind_of_failure_is_news_again_after_a_while() -> None:
    condition = Condition()
    condition.note(Report("commit", FULL), 0.0)
    assert not condition.note(Report("blob", FULL), QUIET_S - 1)
    assert condition.note(Report("commit", FULL), QUIET_S)


def test_another_kind_of_failure_is_news_at_once() -> None:
    condition = Condition()
    condition.note(Report("commit", FULL), 0.0)
    assert condition.note(Report("read", WORN), 1.0)


def test_it_is_news_once_when_all_works_again() -> None:
    condition = Condition()
    condition.note(Report("commit", FULL), 0.0)
    condition.note(Report("read", WORN), 0.0)
    assert not condition.note(Report("commit", None), 1.0)
    assert condition.problem(1.0) is WORN
    assert condition.note(Report("read", None), 1.0)
    assert condition.problem(1.0) is None
    assert not condition.note(Report("read", None), 2.0)


def test_failure_that_is_not_repeated_is_forgotten() -> None:
    condition = Condition()
    condition.note(Report("read", WORN), 0.0)
    assert condition.problem(FORGOTTEN_AFTER_S - 1) is WORN
    assert condition.problem(FORGOTTEN_AFTER_S) is None
