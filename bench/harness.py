"""Figures, the table of them, and the file."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("gevent", "pyOpenSSL", "cryptography", "orjson", "falcon", "zeroconf")
COLUMNS = (
    f"{'case':<9}{'figure':<46}{'value':>10} {'unit':<5}{'floor':>10}{'ratio':>7}  the floor is"
)


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
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    """In the same unit, measured in the same run."""
    floor_name: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A case that cannot be measured here."""

    reason: str


Case = Callable[[], Iterable[Figure | Skipped]]


def measure(cases: Mapping[str, Case], path: Path) -> None:
    """Run cases; print a line for each figure as it comes, and write all to a file."""
    found: list[dict[str, object]] = []
    print(COLUMNS, flush=True)
    for name, case in cases.items():
        began = time.perf_counter()
        for each in case():
            print(_line(name, each), flush=True)
            ratio = {"ratio": each.ratio} if isinstance(each, Figure) else {}
            found.append({"case": name, **asdict(each), **ratio})
        print(f"{name:<9}took {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": _machine(), "figures": found}, indent=1) + "\n")
    print(f"written to {path}", file=sys.stderr)


def _line(case: str, each: Figure | Skipped) -> str:
    if isinstance(each, Skipped):
        return f"{case:<9}skipped: {each.reason}"
    line = f"{case:<9}{each.name:<46}{_number(each.value):>10} {each.unit:<5}"
    if each.floor is None or each.ratio is None:
        return line
    return f"{line}{_number(each.floor):>10}{each.ratio:>7.2f}  {each.floor_name}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _machine() -> dict[str, object]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.lower().startswith("model name")
    ]
    return names[0] if names else platform.machine()
