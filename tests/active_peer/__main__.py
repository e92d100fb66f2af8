"""Push a folder of JSON files to a server, or pull documents into one.

Every *.json file of the folder is a document whose ID is the file's name without
the ending; an ID that is no safe file name is percent-encoded. What was pushed or
pulled is remembered in .active_peer.json, so that the next run moves only what
has changed.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.active_peer.failures import SyncError
from tests.active_peer.folder import Folder, FolderError
from tests.active_peer.options import VERSION_VECTORS, Result
from tests.active_peer.peer_database import DEFAULT_COLLECTION, KeepConflict
from tests.active_peer.peer_socket import Credentials
from tests.active_peer.sync import sync


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (SyncError, FolderError, OSError) as error:
        print(f"active_peer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.active_peer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("direction", choices=["push", "pull", "sync"])
    parser.add_argument("url", help="ws://host:port/database or wss://...")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--collection", default=DEFAULT_COLLECTION, help="scope.name; default: %(default)s"
    )
    parser.add_argument("--user", help="log in with HTTP Basic")
    parser.add_argument("--password", help="of the user; asked for if it is not given")
    parser.add_argument(
        "--fingerprint",
        metavar="SHA256",
        help="accept only the server certificate with this fingerprint; default: any",
    )
    parser.add_argument(
        "--protocol",
        type=int,
        choices=[2, 3, 4],
        help="speak as a client of 2.8, of 3.x or of 4.x, whose revisions are version vectors;"
        " default: 3",
        default=3,
    )
    parser.add_argument(
        "--conflicts",
        choices=[policy.name.lower() for policy in KeepConflict],
        default="default",
        help="whose version survives when both sides have changed a document",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.direction != "push":
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Folder(
        options.folder, options.collection, versions=options.protocol >= VERSION_VECTORS
    )
    folder.take_edits()  # before a pull too: an edited file must not be overwritten
    try:
        result = sync(
            folder.database,
            options.url,
            push=options.direction != "pull",
            pull=options.direction != "push",
            collections=[folder.collection],
            protocols=[options.protocol],
            conflicts=KeepConflict[options.conflicts.upper()],
            credentials=_credentials(options),
        )
    finally:
        if options.direction != "push":
            folder.write_back()
        folder.save()
    _report(result, options.direction)
    return 1 if result.push_errors or result.pull_errors or result.complaints else 0


def _credentials(options: argparse.Namespace) -> Credentials:
    password = options.password
    if options.user is not None and password is None:
        password = getpass.getpass(f"password of {options.user}: ")
    return Credentials(user=options.user, password=password or "", fingerprint=options.fingerprint)


def _report(result: Result, direction: str) -> None:
    if result.fingerprint:
        print(f"certificate {result.fingerprint} (SHA-256)")
    counts = {"pushed": result.pushed, "pulled": result.pulled, "conflicts": result.conflicts}
    wanted = {"push": ["pushed"], "pull": ["pulled"]}.get(direction, list(counts))
    told = ", ".join(f"{counts[name]} {name}" for name in wanted)
    print(f"{told} in {result.seconds:.2f} s over {result.protocol}")
    for failure in [*result.push_errors, *result.pull_errors]:
        refusal = failure.refusal
        print(
            f'document "{failure.doc_id}": {refusal.text} ({refusal.domain} {refusal.code})',
            file=sys.stderr,
        )
    for complaint in result.complaints:
        print(f"the server: {complaint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
