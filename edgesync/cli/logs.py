"""`edgesync logs` and `edgesync events`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgesync.cli.command import Context, Tree, argument
from edgesync.errors import ServiceNotRunningError

JOURNAL = Path("/run/systemd/journal/socket")
JOURNALCTL = Path("/usr/bin/journalctl")
UNIT = "edgesyncd.service"
FOLLOW = argument("--follow", "-f", action="store_true", help="go on with what comes")


def add(tree: Tree) -> None:
    """Add the nouns."""
    lines = argument(
        "--lines", "-n", type=int, default=100, metavar="N", help="how many (default: 100)"
    )
    tree.alone(
        "logs", "show the service's log, as its memory or the journal has it", logs, lines, FOLLOW
    )
    tree.alone("events", "show what happened: clients, listeners, upkeep", events, lines, FOLLOW)


def logs(context: Context) -> None:
    """Show the log: the service's own memory of it, else what the journal has."""
    try:
        for entry in _lines(context, "/_edgesync/log", "lines"):
            if context.out.is_json:
                context.out.json_line(entry)
            else:
                context.out.line(str(entry.get("line", "")))
    except ServiceNotRunningError:
        if not (JOURNAL.exists() and JOURNALCTL.exists()):
            raise
        _become_journalctl(context)


def events(context: Context) -> None:
    """Show events."""
    for event in _lines(context, "/_edgesync/events", "recent"):
        if context.out.is_json:
            context.out.json_line(event)
        else:
            context.out.line(f"{event.get('at')}  {event.get('text')}")


def _lines(context: Context, path: str, count: str) -> Iterator[dict[str, object]]:
    follow = context.flag("follow")
    query = {count: context.number("lines"), "follow": follow}
    with context.client.open("GET", path, query=query, patient=follow) as answer:
        yield from answer.lines()


def _become_journalctl(context: Context) -> None:
    command = ["journalctl", "-u", UNIT, "-n", str(context.number("lines"))]
    if context.flag("follow"):
        command.append("-f")
    if context.out.is_json:
        command += ["-o", "json"]
    os.execv(JOURNALCTL, command)  # noqa: S606 - the same person, the same terminal
