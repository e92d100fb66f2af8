"""What happened: events for programs, and the last lines of the log for people."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

import gevent

from edgesync.api.answers import EventAnswer
from edgesync.api.requests import encoded

log: Final = logging.getLogger(__name__)

KEPT_EVENTS: Final = 500
KEPT_LINES: Final = 1000
POLL_S: Final = 0.25
HEARTBEAT_S: Final = 30.0
T = TypeVar("T")


class _Recent(Generic[T]):
    """The last entries, and who wants to hear of the next ones; any thread may add."""

    def __init__(self, kept: int) -> None:
        self._entries: deque[tuple[int, T]] = deque(maxlen=kept)
        self._count = 0

    def add(self, entry: T) -> None:
        """Add an entry, dropping the oldest if there are too many."""
        self._count += 1
        self._entries.append((self._count, entry))

    def last(self, number: int) -> tuple[T, ...]:
        """Return the last entries, oldest first."""
        return tuple(entry for _, entry in self._entries)[-number:] if number else ()

    def follow(self, number: int) -> Iterator[T | None]:
        """Yield the last entries and then each that comes; None now and then: nothing came.

        Looks at intervals: entries come from any thread, and few follow.
        """
        return self._following(max(0, self._count - number))

    def _following(self, seen: int) -> Iterator[T | None]:
        silent_s = 0.0
        while True:
            for count, entry in tuple(self._entries):
                if count > seen:
                    seen, silent_s = count, 0.0
                    yield entry
            gevent.sleep(POLL_S)
            silent_s += POLL_S
            if silent_s >= HEARTBEAT_S:
                silent_s = 0.0
                yield None


class Events:
    """What happened on the box."""

    def __init__(self) -> None:
        self._recent: _Recent[EventAnswer] = _Recent(KEPT_EVENTS)

    def tell(self, event: str, text: str, **facts: str | int | float | bool | None) -> None:
        """Record an event, and log it."""
        log.info("%s", text)
        self.record(event, text, **facts)

    def record(self, event: str, text: str, **facts: str | int | float | bool | None) -> None:
        """Record an event that is in the log already.

        Args:
            event: Its kind, for programs.
            text: For people.
            facts: What it is about.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._recent.add({"at": now, "event": event, "text": text, "facts": facts})

    def lines(self, number: int, *, follow: bool) -> Iterator[bytes]:
        """Yield events as lines of JSON, the oldest first; with `follow` for ever."""
        if not follow:
            yield from map(encoded, self._recent.last(number))
            return
        following = self._recent.follow(number)
        yield b"\n"  # with it go the headers: somebody listens
        for event in following:
            yield b"\n" if event is None else encoded(event)


class RecentLog(logging.Handler):
    """Keeps the last lines of the log, for machines without a journal."""

    def __init__(self) -> None:
        super().__init__()
        self._recent: _Recent[str] = _Recent(KEPT_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text."""
        self._recent.add(self.format(record))

    def lines(self, number: int, *, follow: bool) -> Iterator[bytes]:
        """Yield lines of JSON with a `line` each, the oldest first; with `follow` for ever."""
        if not follow:
            yield from (encoded({"line": line}) for line in self._recent.last(number))
            return
        following = self._recent.follow(number)
        yield b"\n"  # with it go the headers
        for line in following:
            yield b"\n" if line is None else encoded({"line": line})
