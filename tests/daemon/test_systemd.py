from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from edgesync.daemon.systemd import JournalFormatter, ServiceManager, is_journal


@pytest.fixture
def service_manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        yield receiver


def bound(receiver: socket.socket, address: str) -> ServiceManager:
    receiver.bind(address.replace("@", "\0"))
    return ServiceManager({"NOTIFY_SOCKET": address}, os.getpid())


def test_ready_carries_the_status(service_manager: socket.socket, tmp_path: Path) -> None:
    bound(service_manager, str(tmp_path / "notify")).ready("listeners: 1")
    assert service_manager.recv(1000) == b"READY=1\nSTATUS=listeners: 1"


def test_an_abstract_socket_is_found(service_manager: socket.socket) -> None:
    bound(service_manager, f"@edgesync-test-{uuid4()}").stopping()
    assert service_manager.recv(1000) == b"STOPPING=1"


def test_the_watchdog_is_fed(service_manager: socket.socket, tmp_path: Path) -> None:
    bound(service_manager, str(tmp_path / "notify")).watchdog()
    assert service_manager.recv(1000) == b"WATCHDOG=1"


def test_without_a_service_manager_nothing_is_said() -> None:
    ServiceManager({}, os.getpid()).ready("listeners: 1")


def test_a_service_manager_that_is_gone_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}, os.getpid())
    manager.status("all is well")
    assert "cannot be told" in caplog.text


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    environment: dict[str, str], interval_s: float | None
) -> None:
    assert ServiceManager(environment, 7).watchdog_interval_s == interval_s


def test_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})


def test_a_redirected_stream_is_not_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})


def test_a_closed_stream_is_not_the_journal(tmp_path: Path) -> None:
    with closing((tmp_path / "log").open("w")) as stream:
        pass
    assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, 3),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
    ],
)
def test_levels_become_priorities(level: int, priority: int) -> None:
    record = logging.LogRecord("edgesync.net", level, "", 0, "a\nb", None, None)
    assert JournalFormatter("%(message)s").format(record) == f"<{priority}>a\n<{priority}>b"
