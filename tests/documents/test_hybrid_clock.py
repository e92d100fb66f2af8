"""The clock of version vectors. Spec: documents.md §9.1."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.hybrid_clock import HybridClock, is_too_far_ahead
from edgesync.documents.version_vector import MIN_TIME

NOW = 0x18EB_1743_C0F6_1234
YEAR_NS = 365 * 24 * 3600 * 10**9


def test_time_is_the_clock_with_an_empty_counter() -> None:
    assert HybridClock().tick(NOW) == 0x18EB_1743_C0F6_0000


def test_second_edit_of_a_moment_counts_on() -> None:
    clock = HybridClock()
    assert [clock.tick(NOW) & 0xFFFF for _ in range(3)] == [0, 1, 2]


def test_clock_that_went_back_a_year_counts_on() -> None:
    clock = HybridClock()
    assert clock.tick(NOW - YEAR_NS) < (first := clock.tick(NOW))
    assert clock.tick(NOW - YEAR_NS) == first + 1


def test_edit_is_later_than_all_that_was_seen() -> None:
    clock = HybridClock()
    clock.see(NOW + YEAR_NS)
    clock.see(NOW)
    assert clock.tick(NOW) == NOW + YEAR_NS + 1


def test_clock_goes_on_after_a_restart() -> None:
    before = HybridClock()
    before.tick(NOW)
    assert HybridClock(before.last).tick(NOW - YEAR_NS) == before.last + 1


def test_board_in_1970_gives_times_that_clients_take() -> None:
    assert HybridClock().tick(30 * 10**9) == MIN_TIME


@given(st.lists(st.tuples(st.booleans(), st.integers(-YEAR_NS, YEAR_NS))))
def test_time_always_rises(events: list[tuple[bool, int]]) -> None:
    clock = HybridClock()
    highest = 0
    for is_edit, offset in events:
        if is_edit:
            assert clock.tick(NOW + offset) > highest
            highest = clock.last
        else:
            clock.see(NOW + offset)
            highest = max(highest, NOW + offset)


def test_time_is_refused_beyond_the_skew_only() -> None:
    assert not is_too_far_ahead(NOW + 120 * 10**9, NOW, 120.0)
    assert is_too_far_ahead(NOW + 120 * 10**9 + 1, NOW, 120.0)
    assert not is_too_far_ahead(NOW - YEAR_NS, NOW, 120.0)
