"""What the service tells systemd: readiness, status, watchdog, and the log with its message IDs.

Both protocols are a datagram of `KEY=value` lines to a socket, so neither
needs a library. Outside of systemd all of it is silent.

The log goes to the journal's own socket and not through standard error, as a
line there can carry a priority and nothing else. A message ID names a kind
of message for ever: alarms are set on it, and `journalctl -x` explains it out
of `edgesync.catalog`. It follows from the error that is logged, else from the
text before its values are put in: so the rooms below log as every Python
program does, and only this module knows that there is a journal.

Sources: the manual pages sd_notify(3), systemd.exec(5), journalctl(1);
https://systemd.io/JOURNAL_NATIVE_PROTOCOL and the message catalog's page beside it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from edgesync import errors
from edgesync.errors import EdgeSyncError

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "edgesyncd"  # what `journalctl -t` and each line say

SYSLOG_PRIORITIES: Final = (
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)


MESSAGE_IDS_OF_ERRORS: Final[Mapping[type[EdgeSyncError], str]] = {
    errors.ConfigurationError: "4b9dacb51ca1490ba592ec0d347459a3",
    errors.ProtocolError: "098c87c291154defacf5892afd1e3005",
    errors.PeerSilentError: "06c9331ab3f84940ad1660fe7ae6c2cc",
    errors.StoreBusyError: "dbd7d48bbb794cbc9dba5e51b5246919",
    errors.StoreFullError: "0915a56642404733bea69608613027b8",
    errors.StoreDamagedError: "58d3fac5a8a74ebb94c85346a2103843",
    errors.StoreInUseError: "126d62f399064ab684ffa8d2120dfa02",
    errors.StoreVersionError: "d400aa738aad46ac8b3a2405cb492194",
    errors.StoreError: "1a3aa414960946dbaf42890643325f95",
    errors.PortInUseError: "8b5e804fe26a4479a237a09c9fe055c9",
    errors.UnknownInterfaceError: "68fcd886e44348d598764f02e46873d5",
    errors.ListenerError: "971f60b8429849d5a2bec811e7e677a6",
    errors.DiscoveryError: "ac48c77115b544b58f7ee14a79a105f4",
    errors.IdentityExpiredError: "8fea883e07604b6c97142ce5f2ce5cba",
    errors.IdentityError: "6ff815d0df1d4ab1a6e4ea02167d9fa8",
    errors.WrongUnlockKeyError: "166c452c07494a2899b842f93e415a9b",
    errors.KeyStoreDamagedError: "0d111810d79a47aa9bda552f905e774e",
    errors.KeyStoreError: "fb45bfaabd154adb84d460a44e098063",
    errors.EdgeSyncError: "ba803f857016451b9522cebb082af240",
}
"""The closest class counts."""

MESSAGE_IDS_OF_TEXTS: Final[Mapping[str, str]] = {
    "%s: internal error": "2460dd0d8f924d28836c8b7b623146b5",
    "%s:%d: the connection failed on our side": "2460dd0d8f924d28836c8b7b623146b5",
    "%s %s: a bug of ours": "2460dd0d8f924d28836c8b7b623146b5",
    "the network interfaces could not be followed": "2460dd0d8f924d28836c8b7b623146b5",
    "no further connections for the moment: %s": "caba218e55d449a2b401ec723939c740",
    "%s: too many connections in their handshake; some are dropped": (
        "ec1195dc55b1407cb1cfd5a479d120d1"
    ),
    "%s: too many wrong passwords; more of them are not looked at": (
        "7d341435bf41425aaf744a59e1c36ebf"
    ),
    "the configuration was not reloaded, and the former one goes on: %s": (
        "6692d068f6fd44eeb761f8c4dc4cc6aa"
    ),
    '%s takes effect at the next start: "systemctl restart edgesyncd"': (
        "e57f47b1015a471bb333cf65a07042b2"
    ),
    "the configuration could not be put into effect": "2460dd0d8f924d28836c8b7b623146b5",
    "a client's certificate could not be judged": "2460dd0d8f924d28836c8b7b623146b5",
    "nothing is announced on %s: %s": "4e3a76bfaddf445baa68b763100c51bf",
    "too much mDNS traffic on %s; some is not looked at": "e3c1764d392547cd937c690b1b243ead",
    "the password callback failed; the client is refused": "8d73c9bc8c844b0c8974d71188e2f979",
    "the certificate callback failed; the client is refused": "8d73c9bc8c844b0c8974d71188e2f979",
    "a change listener failed": "2220dc88b1e4440aabc8e0e8c2eb7e50",
    "%s: a change listener failed": "2220dc88b1e4440aabc8e0e8c2eb7e50",
    "%s cannot be given to the group %s: %s": "a3ad1b76892e4c1184aeaf7e1b66a563",
    "the service manager cannot be told: %s": "3da25055fc094328967996faafff8cf5",
}
"""Of warnings and errors that are about none of `edgesync.errors`.

New ones come from `journalctl --new-id128`; a text that is reworded keeps its own.
"""


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
        """Tell that the listeners accept, or that a reload is over."""
        self._notify("READY=1", _status(status))

    def reloading(self) -> None:
        """Tell that a new configuration is put into effect; `ready` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`."""
        self._notify(_status(text))

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


class JournalHandler(logging.Handler):
    """Gives records to the journal, with the fields that standard error cannot carry.

    What the journal does not take, because it is gone, behind or the record is
    too long for a datagram, goes to standard error, which is its other door.
    """

    def __init__(self, fallback: logging.Handler, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._fallback = fallback
        self._path = os.fspath(path)
        # Not gevent's socket, as in `ServiceManager`: a full queue must not keep us.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            fields = dict(_journal_fields(record, self.format(record)))
            self._socket.sendto(_encode_fields(fields), self._path)
        except OSError:
            self._fallback.handle(record)
        except Exception:  # noqa: BLE001 - a wrong call of `log`: reported as logging does
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def message_id(record: logging.LogRecord) -> str | None:
    """Return the name of a record's kind of message in the catalogue."""
    if (error := _error_in(record)) is not None:
        return next(
            MESSAGE_IDS_OF_ERRORS[kind]
            for kind in type(error).__mro__
            if kind in MESSAGE_IDS_OF_ERRORS
        )
    return MESSAGE_IDS_OF_TEXTS.get(str(record.msg))


def _error_in(record: logging.LogRecord) -> EdgeSyncError | None:
    """Return the error that a record is about."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((each for each in arguments if isinstance(each, EdgeSyncError)), None)


def _journal_fields(record: logging.LogRecord, text: str) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", text
    yield "PRIORITY", str(_priority(record))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "LOGGER", record.name
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    if record.levelno < logging.WARNING:
        return
    if (name := message_id(record)) is not None:
        yield "MESSAGE_ID", name
    error = _error_in(record)
    yield "HINT", (error.hint if error is not None else "") or 'look at "edgesync doctor"'


def _encode_fields(fields: Mapping[str, str]) -> bytes:
    """Encode as the journal's native protocol; values of several lines have their length before."""
    encoded = bytearray()
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            encoded += b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
        else:
            encoded += b"%b=%b\n" % (name.encode(), data)
    return bytes(encoded)


class JournalFormatter(logging.Formatter):
    """Begin each line with the priority by which the journal files it; it adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its `<N>`."""
        priority = _priority(record)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _priority(record: logging.LogRecord) -> int:
    return next(number for level, number in SYSLOG_PRIORITIES if record.levelno >= level)


def is_journal(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Tell whether a stream goes to the journal; one that was redirected since does not."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def _status(text: str) -> str:
    """Return the line of a status, which is one whatever was quoted in it."""
    return f"STATUS={' '.join(text.split())}"


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
