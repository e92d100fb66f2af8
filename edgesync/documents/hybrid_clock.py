"""A clock for versions: it follows the board's clock, and never goes back.

Boards without a battery start in 1970, and clocks are set back; an edit must
yet be later than what it edits. So a time is nanoseconds since 1970 with the
low 16 bits as a counter, which also runs when the clock stands still or is
behind. As the later of two edits wins a conflict, a right clock still matters.

Spec: documents.md §9.1.
"""

from __future__ import annotations

from edgesync.documents.version_vector import MIN_TIME


class HybridClock:
    """The times of our own versions: the clock's, but never going back.

    A time is later than all given out or seen before, so that an edit is
    always later than what it edits, whatever the clock of the board says.

    Spec: documents.md §9.1.
    """

    def __init__(self, last: int = 0) -> None:
        self._last = last

    @property
    def last(self) -> int:
        """The highest time given out or seen; must survive a restart."""
        return self._last

    def tick(self, now_ns: int) -> int:
        """Return the time of a new version.

        Args:
            now_ns: Nanoseconds since 1970. A board that does not know the time
                yet starts with the lowest that clients take.
        """
        self._last = max(now_ns & ~0xFFFF, self._last + 1, MIN_TIME)
        return self._last

    def see(self, time: int) -> None:
        """Take note of a time in a received vector that is not too far ahead."""
        self._last = max(self._last, time)


def is_too_far_ahead(time: int, now_ns: int, max_skew_s: float) -> bool:
    """Tell whether a received time is to be refused; LiteCore does so beyond 120 s.

    One clock that is years ahead would pull the clocks of all others with it.

    Spec: documents.md §9.1.
    """
    return time - now_ns > max_skew_s * 1_000_000_000
