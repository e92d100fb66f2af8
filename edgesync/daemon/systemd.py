"""What the service tells systemd: readiness, status, watchdog, priorities of log lines.

The protocol is a datagram of `KEY=value` lines to a socket named by the
environment, so it needs no library. Outside of systemd all of it is silent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import IO, Final

SYSLOG_PRIORITIES: Final = (
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)


class ServiceManager:
    """The way to the service manager that started us, if one did.

    Attributes:
        watchdog_interval_s: How often to call `watchdog`, half of what systemd
            waits for; None: nobody waits.
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval_s = _watchdog_interval_s(environment, pid)

    def ready(self, status: str) -> None:
        """Tell that the listeners accept."""
        self._notify("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`."""
        self._notify(f"STATUS={text}")

    def watchdog(self) -> None:
        """Tell that the event loop is alive."""
        self._notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the service ends on purpose."""
        self._notify("STOPPING=1")

    def _notify(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            # Not gevent's socket: a datagram of some bytes to a local socket is gone at once,
            # and a full queue must not keep us.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logging.getLogger(__name__).warning("the service manager cannot be told: %s", error)


class JournalFormatter(logging.Formatter):
    """Begin each line with the priority by which the journal files it; it adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its `<N>`."""
        priority = next(number for level, number in SYSLOG_PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def is_journal(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Tell whether a stream goes to the journal; one that was redirected since does not."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def _socket_address(name: str) -> str | None:
    """Return what to send to: a path, or an abstract name, which is written with "@"."""
    if name.startswith("@"):
        return f"\0{name[1:]}"
    return name if name.startswith("/") else None


def _watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    timeout_us = environment.get("WATCHDOG_USEC", "")
    if not timeout_us.isdecimal() or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(timeout_us) / 2_000_000 or None
