"""What a target is, and how many inputs it stands."""

from __future__ import annotations

import gc
import io
import logging
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import gevent
from gevent import get_hub

from tests.fuzz.mutator import MAX_BYTES, Mutator

CORPUS: Final = Path(__file__).parent / "corpus"
SLOW_S: Final = 1.0
SLOW_AGAIN: Final = 3
"""How often an input that was slow is fed once more."""
MAX_GROWTH_KIB: Final = 16 * 1024
MAX_OPEN_FILES: Final = 10
WARM_UP: Final = 50
"""Inputs before memory is looked at for the first time: caches fill, modules load."""

Feed = Callable[[bytes], bool]
"""Gives bytes to a parser; True: accepted, False or a documented error: refused."""


class Opened(NamedTuple):
    """A parser that is ready."""

    feed: Feed
    pid: int | None = None
    """The process that parses, whose memory is looked at; None: this one."""


Opening = Callable[[Path], AbstractContextManager[Opened]]


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    open: Opening
    """Makes the parser ready; given an empty folder."""
    refuses: tuple[type[Exception], ...] = ()
    """The documented errors."""
    seeds: Callable[[], Sequence[bytes]] = tuple
    """Beside the files of the corpus."""
    tokens: tuple[bytes, ...] = ()
    """Words of the language."""
    weight: float = 1.0
    """How many of all inputs, compared with others of the same speed."""
    max_bytes: int = MAX_BYTES
    """Longer inputs are cut."""
    max_open_files: int = MAX_OPEN_FILES
    """More than this beyond those at the beginning are a leak."""
    slow_s: float = SLOW_S
    """What takes longer counts as a hang."""
    short: int = 3000
    """Inputs of a short look, less than a second for most."""

    @property
    def folder(self) -> str:
        """Of its seeds, in the corpus."""
        return self.name.replace(" ", "-").replace(",", "").lower()

    def all_seeds(self) -> list[bytes]:
        """Return the seeds of both kinds."""
        files = sorted((CORPUS / self.folder).glob("*"))
        return [*(file.read_bytes() for file in files), *self.seeds()]


@dataclass
class Report:
    """What came of a target."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    growth_kib: int = 0
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    """Inputs with what came of them instead."""

    @property
    def rate(self) -> float:
        """Inputs per second."""
        return self.inputs / max(self.seconds, 1e-9)


def pure(feed: Feed) -> Opening:
    """Return how to open a parser that needs nothing."""
    return lambda _folder: nullcontext(Opened(feed))


def fuzz(target: Target, folder: Path, inputs: int, seed: str = "") -> Report:
    """Feed inputs to a target; stop at the first failure."""
    chance = random.Random(f"{target.name} {seed}")
    mutator = Mutator(target.all_seeds(), target.tokens, chance, target.max_bytes)
    report = Report(target.name)
    with target.open(folder) as (feed, pid), _silent_failures() as silent:
        resident, descriptors = _resident_kib(pid), _open_files(pid)
        began = time.monotonic()
        for number in range(inputs):
            if number == min(WARM_UP, inputs // 2):
                gc.collect()
                resident, descriptors = _resident_kib(pid), _open_files(pid)
            data = mutator.next()
            if failure := _try(target, feed, data, mutator, report) or silent():
                report.failures.append((data, failure))
                break
        report.seconds = time.monotonic() - began
        gevent.sleep(0)
        gc.collect()
        report.growth_kib = _resident_kib(pid) - resident
        opened = _open_files(pid) - descriptors
    if report.growth_kib > MAX_GROWTH_KIB:
        report.failures.append((b"", f"{report.growth_kib} KiB of memory leak"))
    if opened > target.max_open_files:
        report.failures.append((b"", f"{opened} file descriptors leak"))
    return report


def _try(target: Target, feed: Feed, data: bytes, mutator: Mutator, report: Report) -> str:
    """Feed one input; return what went wrong, empty if nothing did."""
    try:
        accepted, took = _timed(target, feed, data)
        for _ in range(SLOW_AGAIN):  # the machine may have been busy; a hang is one again
            if took > target.slow_s:
                took = min(took, _timed(target, feed, data)[1])
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return "".join(traceback.format_exception(error))
    report.inputs += 1
    report.slowest_s = max(report.slowest_s, took)
    if accepted:
        report.accepted += 1
        mutator.keep(data)
    else:
        report.refused += 1
    return f"it took {took:.1f} s" if took > target.slow_s else ""


def _timed(target: Target, feed: Feed, data: bytes) -> tuple[bool, float]:
    """Feed one input; return whether it was accepted, and how long that took."""
    accepted = False
    began = time.monotonic()
    with suppress(*target.refuses):
        accepted = feed(data)
    return accepted, time.monotonic() - began


@contextmanager
def _silent_failures() -> Iterator[Callable[[], str]]:
    """Give what returns the traces of greenlets, and of errors that were logged as bugs."""
    traces = io.StringIO()
    watch = _Watch(traces)
    hub, former = get_hub(), get_hub().exception_stream
    hub.exception_stream = traces
    logging.getLogger("edgesync").addHandler(watch)

    def taken() -> str:
        text = traces.getvalue()
        if text:
            traces.seek(0)
            traces.truncate()
        return text

    try:
        yield taken
    finally:
        logging.getLogger("edgesync").removeHandler(watch)
        hub.exception_stream = former


class _Watch(logging.Handler):
    """Notes errors that come with a trace: nobody expected them."""

    def __init__(self, traces: io.StringIO) -> None:
        super().__init__(logging.ERROR)
        self._traces = traces

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._traces.write(logging.Formatter("%(message)s").format(record))


def _open_files(pid: int | None) -> int:
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))


def _resident_kib(pid: int | None) -> int:
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
