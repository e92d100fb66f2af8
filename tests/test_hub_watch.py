from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

import edgesync
from tests.hub_watch import HubWatch

OURS = str(Path(edgesync.__file__).parent / "sleeper.py")


@pytest.fixture
def watch() -> Iterator[HubWatch]:
    watch = HubWatch()
    watch.start()
    gevent.sleep(0.1)
    yield watch
    watch.stop()


def sleep_as(file_name: str) -> None:
    exec(compile("time.sleep(0.3)", file_name, "exec"), {"time": time})


def test_code_of_the_package_is_told(watch: HubWatch) -> None:
    gevent.spawn(sleep_as, OURS).join()
    assert OURS in watch.reports[0]


def test_code_of_a_test_is_not(watch: HubWatch) -> None:
    gevent.spawn(sleep_as, __file__).join()
    assert not watch.reports


def test_who_lets_others_run_is_not(watch: HubWatch) -> None:
    gevent.spawn(exec, compile("gevent.sleep(0.3)", OURS, "exec"), {"gevent": gevent}).join()
    assert not watch.reports
