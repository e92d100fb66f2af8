"""What of a database does not work at present, and when to tell the operator."""

from __future__ import annotations

from typing import Final, NamedTuple

from edgesync.errors import StoreError

QUIET_S: Final = 60.0
"""Between two warnings of the same kind: a full card fails every few milliseconds."""
SETTLES_AFTER_S: Final = 5.0
"""Without a failure, before it counts as working: a full card has room for small things."""
FORGOTTEN_AFTER_S: Final = 900.0
"""When what failed has not been tried again: clients come back within ten minutes."""


class Report(NamedTuple):
    """A kind of work failed, or works again."""

    work: str  # on which thread, and of which kind
    error: StoreError | None  # None: it works


class Condition:
    """All that fails now, for the owner of a database.

    Peers are answered 503 and try again, so without this nobody at the box would know.
    """

    def __init__(self) -> None:
        self._failing: dict[str, tuple[StoreError, float]] = {}
        self._told_at: dict[type[StoreError], float] = {}
        self._is_told = False

    def problem(self, now: float) -> StoreError | None:
        """Return what has failed for the longest time, None if all works.

        Args:
            now: Monotonic seconds.
        """
        failing = self._failing.values()
        return next((error for error, at in failing if now - at < FORGOTTEN_AFTER_S), None)

    def note(self, report: Report, now: float) -> bool:
        """Take a report; return whether it is news for the operator.

        Args:
            report: Of one kind of work.
            now: Monotonic seconds.
        """
        if report.error is None:
            self._failing.pop(report.work, None)
            is_news = self._is_told and not self._failing
            self._is_told &= not is_news
            return is_news
        self._failing[report.work] = (report.error, now)
        kind = type(report.error)
        if now - self._told_at.get(kind, -QUIET_S) < QUIET_S:
            return False
        self._told_at[kind] = now
        self._is_told = True
        return True
