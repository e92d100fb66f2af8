from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from tests.hub_watch import HubWatch


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[HubWatch]:
    watch = HubWatch(tmp_path)
    watch.start()
    gevent.sleep(0.1)
    yield watch
    watch.stop()


def sleep_as(file_name: str) -> None:
    exec(compile("time.sleep(0.3)", file_name, "exec"), {"time": time})


def test_code_below_the_folder_is_told(watch: HubWatch, tmp_path: Path) -> None:
    gevent.spawn(sleep_as, str(tmp_path / "sleeper.py")).join()
    assert "sleeper.py" in watch.reports[0]


def test_code_of_a_test_is_not(watch: HubWatch) -> None:
    gevent.spawn(sleep_as, __file__).join()
    assert not watch.reports


def test_who_lets_others_run_is_not(watch: HubWatch, tmp_path: Path) -> None:
    code = compile("gevent.sleep(0.3)", str(tmp_path / "sleeper.py"), "exec")
    gevent.spawn(exec, code, {"gevent": gevent}).join()
    assert not watch.reports
