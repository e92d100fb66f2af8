"""`python -m bench [--documents N]`."""

from __future__ import annotations

import argparse

from bench.harness import measure_and_print
from bench.sync_cases import sync_cases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure edgesync.")
    parser.add_argument("--documents", type=int, default=10_000, metavar="N", help="of 1 kB each")
    measure_and_print(sync_cases(parser.parse_args().documents))


if __name__ == "__main__":
    main()
