"""The command: the tree of nouns and verbs, and what becomes of errors."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgesync.api.client import SOCKET_VARIABLE, ApiClient, find_socket
from edgesync.cli import (
    connection,
    database,
    doctor,
    document,
    identity,
    invite,
    listener,
    logs,
    network,
    status,
    user,
    version,
)
from edgesync.cli.command import Context, Parser, Run, Tree
from edgesync.cli.output import Output
from edgesync.errors import (
    EdgeSyncError,
    NotPermittedError,
    ServiceNotRunningError,
    UsageError,
)

FAILED: Final = 1
USAGE: Final = 2
NOT_RUNNING: Final = 3
NOT_PERMITTED: Final = 4
INTERRUPTED: Final = 130  # 128 and the signal's number, as shells have it

EXIT_CODES: Final[tuple[tuple[type[EdgeSyncError], int], ...]] = (
    (UsageError, USAGE),
    (ServiceNotRunningError, NOT_RUNNING),
    (NotPermittedError, NOT_PERMITTED),
    (EdgeSyncError, FAILED),
)
NOUNS: Final = (
    status,
    listener,
    connection,
    database,
    document,
    identity,
    user,
    network,
    invite,
    doctor,
    logs,
    version,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = make_parser().parse_args(arguments)
    run: Run = options.run
    try:
        run(_context(options))
        sys.stdout.flush()
    except EdgeSyncError as error:
        _tell(error, as_json=options.json)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except BrokenPipeError:
        # Who read us has seen enough; Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        _tell(EdgeSyncError(_words(error)), as_json=options.json)
        return NOT_PERMITTED if isinstance(error, PermissionError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def make_parser() -> Parser:
    """Return the whole tree; the man page and the completions are made from it, too."""
    parser = Parser(
        prog="edgesync",
        description="Look after a box that serves Couchbase Lite clients.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 edgesyncd is not running, "
        "4 not permitted.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="answer with JSON, for programs")
    parser.add_argument(
        "--socket", metavar="PATH", help=f"the service's socket; else ${SOCKET_VARIABLE} decides"
    )
    tree = Tree(parser, _common())
    for noun in NOUNS:
        noun.add(tree)
    return parser


def _common() -> Parser:
    """Return the options that may also stand behind the verb."""
    common = Parser(add_help=False, allow_abbrev=False)
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    common.add_argument("--socket", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return common


def _context(options: argparse.Namespace) -> Context:
    path = Path(options.socket) if options.socket else find_socket(os.environ)
    out = Output(as_json=options.json, stream=sys.stdout, errors=sys.stderr, environment=os.environ)
    return Context(options, ApiClient(path), out, os.environ, sys.stdin)


def _tell(error: EdgeSyncError, *, as_json: bool) -> None:
    if as_json:
        text = json.dumps({"error": str(error), "hint": error.hint}, ensure_ascii=False)
    else:
        text = f"edgesync: {error}" + (f"; {error.hint}" if error.hint else "")
    print(text, file=sys.stderr)


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


if __name__ == "__main__":
    sys.exit(main())
