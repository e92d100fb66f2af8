"""`python -m bench [--case NAME ...]`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from bench.crowd_cases import crowd_figures, latency_figures
from bench.growth_case import growth_figures
from bench.harness import Case, measure
from bench.idle_case import idle_figures
from bench.pouchdb_case import pouchdb_figures
from bench.real_client_case import real_client_figures
from bench.start_case import start_figures
from bench.sync_cases import blob_figures, sync_figures


def cases(documents: int, *, is_full: bool) -> dict[str, Case]:
    """Return all cases by name, in the order in which they are measured."""
    return {
        "start": start_figures,
        "sync": partial(sync_figures, documents),
        "blobs": blob_figures,
        "crowd": partial(crowd_figures, documents),
        "latency": latency_figures,
        "idle": idle_figures,
        "growth": partial(growth_figures, is_full=is_full),
        "client": partial(real_client_figures, documents),
        "pouchdb": partial(pouchdb_figures, documents),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure edgesync.")
    parser.add_argument("--case", nargs="+", choices=list(cases(1, is_full=False)), metavar="NAME")
    parser.add_argument("--documents", type=int, default=10_000, metavar="N", help="of 1 kB each")
    parser.add_argument("--full", action="store_true", help="growth up to 1,000,000 documents")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    options = parser.parse_args()
    known = cases(options.documents, is_full=options.full)
    measure({name: known[name] for name in options.case or known}, options.json)


if __name__ == "__main__":
    main()
