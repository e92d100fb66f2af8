"""Run a soak, and judge what is left of it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import sync
from tests.integration.service import free_port
from tests.security.service import Box
from tests.soak.application import ROOMS, Report, hash_of
from tests.soak.served import COUNT_FILE

WORKERS: Final = 2
MAX_ROUNDS: Final = 30
SAMPLES: Final = 40
LEFT_WITHIN_S: Final = 15.0
GROWTH: Final = 0.05
"""Of memory, from the second sixth of the time to the last."""
GROWTH_KIB: Final = 4096
LONG_S: Final = 120.0
"""Below that memory says nothing: caches are still being filled."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how many, how busy."""

    seconds: float
    clients: int
    pause_s: float
    """Between two things that a client does, on average."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the service has at a moment."""

    memory_kib: int
    descriptors: int
    threads: int
    greenlets: int
    connections: int


@dataclass(slots=True)
class Outcome:
    """What came of a soak."""

    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None
    after: Sample | None = None
    figures: dict[str, int | float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Served(Box):
    """The service under test."""

    def __init__(self, folder: Path, clients: int) -> None:
        port = free_port()
        rooms = ", ".join(f'"{room}"' for room in ROOMS)
        super().__init__(
            folder,
            f"[database.db]\ncollections = [{rooms}]\n[listener.test]\n"
            f'interface = "127.0.0.1"\nport = {port}\ndisable_tls = true\nadvertise = false\n'
            f"enable_delta_sync = true\n[limits]\nmax_connections = {2 * clients}\n"
            f"max_connections_per_address = {2 * clients}\n"
            f"max_pending_connections = {2 * clients}\n",
            **{COUNT_FILE: str(folder / "greenlets")},
        )
        self.command = (sys.executable, "-m", "tests.soak.served")
        self.url = f"ws://127.0.0.1:{port}/db"
        self._count_file = folder / "greenlets"

    def sample(self) -> Sample:
        process = Path(f"/proc/{self.pid}")
        self._count_file.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        while not self._count_file.exists():
            time.sleep(0.01)
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        connections = len(self.api.connections())
        return Sample(
            int(status["VmRSS"].split()[0]),
            len(list((process / "fd").iterdir())),
            int(status["Threads"]),
            int(self._count_file.read_text()),
            connections,
        )


class Worker:
    """A process full of clients."""

    def __init__(self, url: str, place: int, plan: Plan) -> None:
        numbers = (place, WORKERS, plan.clients)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.worker", url, *map(str, numbers), str(plan.pause_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "a worker has died"
        return line

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def run(folder: Path, plan: Plan) -> Outcome:
    """Run a soak in a folder."""
    outcome = Outcome()
    with Served(folder, plan.clients) as box, ExitStack() as ending:
        outcome.before = box.sample()
        workers = [Worker(box.url, place, plan) for place in range(WORKERS)]
        for each in workers:
            ending.callback(each.end)
        _live(box, workers, plan, outcome)
        rounds = _settle(workers)
        reports = [report for each in workers for report in _report_of(each)]
        ending.close()
        _check_documents(box, reports, outcome.problems)
        outcome.after = _when_all_are_gone(box, outcome.before)
        if "Traceback" in box.log or " ERROR " in box.log:
            outcome.problems.append("the service complains, see its log")
        outcome.problems += [each for report in reports for each in report["failures"]]
        outcome.figures |= _figures(box, reports, rounds)
    outcome.problems += _growth(outcome, plan)
    return outcome


def _live(box: Served, workers: list[Worker], plan: Plan, outcome: Outcome) -> None:
    for each in workers:
        each.tell(f"live {plan.seconds}")
    for _ in range(SAMPLES):
        time.sleep(plan.seconds / SAMPLES)
        outcome.samples.append(box.sample())
    for each in workers:
        each.answer()


def _settle(workers: list[Worker]) -> int:
    """Have all clients sync until nothing moves; return how often."""
    for number in range(1, MAX_ROUNDS + 1):
        for each in workers:
            each.tell("settle")
        if not sum(int(each.answer()) for each in workers):
            return number
    return MAX_ROUNDS


def _report_of(worker: Worker) -> list[Report]:
    worker.tell("report")
    reports: list[Report] = json.loads(worker.answer())
    return reports


# --- judging ---------------------------------------------------------------------------


def _check_documents(box: Served, reports: list[Report], problems: list[str]) -> None:
    for room in ROOMS:
        those = [report for report in reports if report["room"] == room]
        new = PeerDatabase()
        sync(new, box.url, push=False, collections=[room])
        digest = new.digest(room)
        different = sum(report["digest"] != digest for report in those)
        missing = len(new.missing_blobs(room)) + sum(each["missing_blobs"] for each in those)
        if different:
            problems.append(f"{room}: {different} of {len(those)} clients have other documents")
        if missing:
            problems.append(f"{room}: {missing} blobs are missing")
        problems += _against_the_model(new, room, those)


def _against_the_model(new: PeerDatabase, room: str, reports: list[Report]) -> Iterator[str]:
    for report in reports:
        for doc_id, expected in report["own"].items():
            if hash_of(new.get(doc_id, room)) != expected:
                yield f"{room}: {doc_id} is not what its owner wrote last"
    written: dict[str, set[str]] = {}
    for report in reports:
        for doc_id, values in report["shared"].items():
            written.setdefault(doc_id, set()).update(values)
    for doc_id, allowed in written.items():
        if hash_of(new.get(doc_id, room)) not in allowed:
            yield f"{room}: {doc_id} is nothing that anybody wrote"


def _when_all_are_gone(box: Served, before: Sample) -> Sample:
    deadline = time.monotonic() + LEFT_WITHIN_S
    while True:
        sample = box.sample()
        if sample.connections == 0 and sample.descriptors <= before.descriptors:
            return sample
        if time.monotonic() > deadline:
            return sample
        time.sleep(0.2)


def _growth(outcome: Outcome, plan: Plan) -> Iterator[str]:
    before, after = outcome.before, outcome.after
    assert before is not None
    assert after is not None
    for name in ("descriptors", "greenlets", "connections"):
        if getattr(after, name) > getattr(before, name):
            yield f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
    sixth = len(outcome.samples) // 6
    second, last = outcome.samples[sixth : 2 * sixth], outcome.samples[-sixth:]
    if max(each.threads for each in last) > max(each.threads for each in second):
        yield "there are more and more threads"
    early, late = (statistics.median(e.memory_kib for e in part) for part in (second, last))
    if plan.seconds >= LONG_S and late > early * (1 + GROWTH) + GROWTH_KIB:
        yield f"memory grows: {early:.0f} KiB, later {late:.0f} KiB"


def _figures(box: Served, reports: list[Report], rounds: int) -> dict[str, int | float]:
    (listener,) = box.api.listeners()
    totals = listener["totals"]
    protocols = Counter(report["room"] for report in reports)
    cpu = Path(f"/proc/{box.pid}/stat").read_text().rpartition(")")[2].split()
    return {
        "clients": len(reports),
        "rooms": len(protocols),
        "edits": sum(report["edits"] for report in reports),
        "syncs": sum(report["syncs"] for report in reports),
        "cut off": sum(report["cuts"] for report in reports),
        "connections": totals["connections"],
        "revisions in": totals["revisions_in"],
        "revisions out": totals["revisions_out"],
        "rounds to settle": rounds,
        "CPU seconds": (int(cpu[11]) + int(cpu[12])) / os.sysconf("SC_CLK_TCK"),
    }
