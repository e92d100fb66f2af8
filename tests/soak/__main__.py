"""Run a soak and print what came of it; the exit code is 1 if anything is wrong."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.soak.soak import Outcome, Plan, Sample, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=250)
    parser.add_argument(
        "--pause", type=float, default=15.0, help="seconds between what a client does"
    )
    options = parser.parse_args()
    with TemporaryDirectory(prefix="soak-") as folder:
        plan = Plan(options.minutes * 60, options.clients, options.pause)
        outcome = run(Path(folder), plan)
        show(outcome)
        if outcome.problems:
            print((Path(folder) / "log").read_text()[-3000:], file=sys.stderr)
    return 1 if outcome.problems else 0


def show(outcome: Outcome) -> None:
    for name, value in outcome.figures.items():
        print(f"{name:18} {value:g}" if isinstance(value, float) else f"{name:18} {value}")
    print(f"\n{'':8}{'memory':>12}{'descriptors':>13}{'threads':>9}{'greenlets':>11}{'clients':>9}")
    third = len(outcome.samples) // 3
    rows = {
        "before": outcome.before,
        "1/3": outcome.samples[third],
        "2/3": outcome.samples[2 * third],
        "3/3": outcome.samples[-1],
        "after": outcome.after,
    }
    for name, sample in rows.items():
        if isinstance(sample, Sample):
            print(
                f"{name:8}{sample.memory_kib:8} KiB{sample.descriptors:13}{sample.threads:9}"
                f"{sample.greenlets:11}{sample.connections:9}"
            )
    for problem in outcome.problems[:20]:
        print(f"! {problem}")
    print("all agree, nothing has grown" if not outcome.problems else "it did not go well")


if __name__ == "__main__":
    sys.exit(main())
