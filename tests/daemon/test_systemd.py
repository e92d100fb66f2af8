from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.daemon.systemd import (
    MESSAGE_IDS_OF_ERRORS,
    MESSAGE_IDS_OF_TEXTS,
    JournalFormatter,
    JournalHandler,
    ServiceManager,
    is_journal,
    message_id,
)
from edgesync.errors import (
    BlobNotFoundError,
    EdgeSyncError,
    StoreClosedError,
    StoreError,
    StoreFullError,
)


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


# --- the journal ------------------------------------------------------------------------


class Journal:
    """A journal's socket, and a logger that writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._elsewhere = StringIO()
        self.fallback = logging.StreamHandler(self._elsewhere)
        self.fallback.setFormatter(JournalFormatter("%(message)s"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(5)
        self._socket.bind(str(path))
        self.log = logging.Logger("edgesync.test")
        self.log.addHandler(JournalHandler(self.fallback, path))

    def entry(self) -> dict[str, str]:
        """Return the fields of the next entry."""
        rest, fields = self._socket.recv(1_000_000), {}
        while rest:
            line, _, rest = rest.partition(b"\n")
            name, is_short, value = line.partition(b"=")
            if not is_short:
                length = int.from_bytes(rest[:8], "little")
                value, rest = rest[8 : 8 + length], rest[9 + length :]
            fields[name.decode()] = value.decode()
        return fields

    def said_elsewhere(self) -> str:
        return self._elsewhere.getvalue()

    def close(self) -> None:
        self._socket.close()
        for handler in self.log.handlers:
            handler.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal")) as opened:
        yield opened


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("edgesync", logging.ERROR, "", 0, text, arguments, None)


def test_a_line_comes_to_the_journal_with_its_priority(journal: Journal) -> None:
    journal.log.info("%s came", "Ann")
    entry = journal.entry()
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("Ann came", "6")
    assert (entry["SYSLOG_IDENTIFIER"], entry["LOGGER"]) == ("edgesyncd", "edgesync.test")


def test_a_line_has_no_message_id_if_nobody_has_to_act(journal: Journal) -> None:
    journal.log.info("%s", StoreFullError("no room"))
    assert "MESSAGE_ID" not in journal.entry()


def test_an_error_has_message_id_and_way_out(journal: Journal) -> None:
    journal.log.error("%s: %s", "10.0.0.1:7", StoreFullError("no room", hint="make some"))
    entry = journal.entry()
    assert entry["MESSAGE_ID"] == MESSAGE_IDS_OF_ERRORS[StoreFullError]
    assert entry["HINT"] == "make some"


def test_lines_of_a_traceback_stay_together(journal: Journal) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        journal.log.exception("a change listener failed")
    message = journal.entry()["MESSAGE"]
    assert message.startswith("a change listener failed\nTraceback")
    assert message.endswith("KeyError: 'x'")


def test_a_value_cannot_forge_a_field(journal: Journal) -> None:
    journal.log.warning("%s", "a\nPRIORITY=0")
    assert journal.entry()["PRIORITY"] == "4"


@given(st.text())
def test_any_text_arrives(text: str) -> None:
    with TemporaryDirectory() as folder, closing(Journal(Path(folder) / "journal")) as journal:
        journal.log.info("%s", text)
        expected = text.encode("utf-8", "backslashreplace").decode()
        assert journal.entry()["MESSAGE"] == expected


def test_what_the_journal_does_not_take_goes_to_standard_error(journal: Journal) -> None:
    journal.path.unlink()
    journal.log.warning("nobody is there")
    assert journal.said_elsewhere() == "<4>nobody is there\n"


def test_a_journal_that_is_behind_keeps_nobody(journal: Journal) -> None:
    for number in range(2000):
        journal.log.info("%d", number)
    assert "<6>1999\n" in journal.said_elsewhere()


def test_a_line_too_long_for_a_datagram_goes_to_standard_error(journal: Journal) -> None:
    journal.log.warning("x" * 1_000_000)
    assert len(journal.said_elsewhere()) > 1_000_000


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StoreFullError("full"), StoreFullError),
        (StoreClosedError("closed"), StoreError),
        (BlobNotFoundError("sha1-x"), EdgeSyncError),
    ],
)
def test_the_closest_class_of_an_error_names_it(
    error: EdgeSyncError, kind: type[EdgeSyncError]
) -> None:
    assert message_id(record("%s: %s", "peer", error)) == MESSAGE_IDS_OF_ERRORS[kind]


def test_a_text_names_what_is_about_no_error_of_ours() -> None:
    text = "%s: internal error"
    assert message_id(record(text, "peer")) == MESSAGE_IDS_OF_TEXTS[text]


def test_lines_of_others_have_no_name() -> None:
    assert message_id(record("zeroconf is unhappy")) is None
