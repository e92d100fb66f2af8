"""Cases, what they measure, and the table of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a piece of work took."""

    count: int
    """Documents."""
    cpu_s: float
    """Of the process under test, all threads."""
    wall_s: float

    @property
    def cpu_us_each(self) -> float:
        return self.cpu_s / self.count * 1e6

    @property
    def each_second(self) -> float:
        return self.count / self.wall_s


@dataclass(frozen=True, slots=True)
class Case:
    """Something to measure, and the least that it could cost."""

    name: str
    floor_name: str
    floor: Callable[[], Measurement]
    run: Callable[[], Measurement]


def measure_and_print(cases: Sequence[Case]) -> None:
    """Run the cases, floor first, and print a line for each as it ends."""
    print(f"{'case':<24}{'floor us':>10}{'us':>8}{'ratio':>8}{'docs/s':>10}  the floor is")
    for case in cases:
        floor, found = case.floor(), case.run()
        ratio = found.cpu_us_each / floor.cpu_us_each
        print(
            f"{case.name:<24}{floor.cpu_us_each:>10.1f}{found.cpu_us_each:>8.1f}{ratio:>8.1f}"
            f"{found.each_second:>10.0f}  {case.floor_name}",
            flush=True,
        )
