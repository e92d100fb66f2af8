"""Try a million inputs, spread over all targets, and print what came of them."""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.fuzz import document_targets, identity_targets, local_targets, wire_targets
from tests.fuzz.target import Report, Target, fuzz

INPUTS: Final = 1_000_000
SAMPLE: Final = 200
"""Inputs that show how fast a target is."""
STUCK_S: Final = 120.0
KEPT: Final = Path("build/fuzz")
MEMORY: Final = "/dev/shm"
"""Where the folders are if it is there: a card would wear."""
ALL: Final = (
    *wire_targets.TARGETS,
    *document_targets.TARGETS,
    *identity_targets.TARGETS,
    *local_targets.TARGETS,
)
COLUMNS: Final = "{:<22}{:>9}{:>10}{:>9}{:>9}{:>10}{:>10}"


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="of all targets together")
    parser.add_argument("--seed", default="", help="another one makes other inputs")
    parser.add_argument("targets", nargs="*", help="names; none: all")
    options = parser.parse_args()
    targets = [each for each in ALL if not options.targets or each.name in options.targets]
    counts = shares(targets, options.inputs)
    print(
        COLUMNS.format("target", "inputs", "inputs/s", "accepted", "refused", "slowest", "growth")
    )
    reports = [run(each, counts[each.name], options.seed) for each in targets]
    total, seconds = sum(each.inputs for each in reports), sum(each.seconds for each in reports)
    failed = [each.name for each in reports if each.failures]
    print(f"{total} inputs in {seconds:.0f} s; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def shares(targets: list[Target], inputs: int) -> dict[str, int]:
    """Say how many inputs each target gets: the square root of its speed, as far as they go.

    By equal times the fast would get all, by equal numbers the slow would take hours.
    """
    wanted: dict[str, float] = {}
    for each in targets:
        began = time.monotonic()
        report = run_quietly(each, min(SAMPLE, inputs), "sample")
        rate = report.rate if report.inputs else SAMPLE / (time.monotonic() - began)
        wanted[each.name] = each.weight * math.sqrt(rate)
    total = sum(wanted.values())
    return {name: math.ceil(inputs * share / total) for name, share in wanted.items()}


def run(target: Target, inputs: int, seed: str) -> Report:
    """Fuzz a target, and print its line; keep what failed."""
    report = run_quietly(target, inputs, seed)
    print(
        COLUMNS.format(
            report.name,
            report.inputs,
            f"{report.rate:.0f}",
            report.accepted,
            report.refused,
            f"{report.slowest_s * 1000:.1f} ms",
            f"{report.growth_kib} KiB",
        ),
        flush=True,
    )
    for number, (data, failure) in enumerate(report.failures):
        KEPT.mkdir(parents=True, exist_ok=True)
        path = KEPT / f"{target.folder}-{number}"
        path.write_bytes(data)
        print(f"    {failure}\n    the input is in {path}; fixed, it belongs into the corpus")
    return report


def run_quietly(target: Target, inputs: int, seed: str) -> Report:
    """Fuzz a target in a folder of its own; end the process if it is stuck."""
    where = MEMORY if os.access(MEMORY, os.W_OK) else None
    faulthandler.dump_traceback_later(STUCK_S + inputs / 50, exit=True)
    with TemporaryDirectory(dir=where) as folder:
        report = fuzz(target, Path(folder), inputs, seed)
    faulthandler.cancel_dump_traceback_later()
    return report


if __name__ == "__main__":
    sys.exit(main())
