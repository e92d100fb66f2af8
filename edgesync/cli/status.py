"""`edgesync status`: the box in ten seconds, once or live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from edgesync.api.answers import ConnectionAnswer, ListenerAnswer, StatusAnswer
from edgesync.cli.command import Context, Tree, argument
from edgesync.cli.output import (
    BAD,
    DIM,
    GOOD,
    WARN,
    Cell,
    Output,
    Styled,
    age,
    grid,
    group,
    size,
    text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

FULL_PERCENT: Final = 90
STATE_STYLES: Final = {"serving": GOOD, "waiting": WARN, "stopped": BAD}
Totals = dict[str, tuple[float, int, int]]
"""By listener: when, revisions in, revisions out."""


def add(tree: Tree) -> None:
    """Add the noun."""
    tree.alone(
        "status",
        "show listeners, clients, databases and what is wrong",
        run,
        argument("--watch", "-w", action="store_true", help="go on showing it, with rates"),
        argument(
            "--interval",
            type=int,
            default=2,
            metavar="SECONDS",
            help="with --watch, how often (default: 2)",
        ),
    )


def run(context: Context) -> None:
    """Show the status."""
    if context.flag("watch"):
        _watch(context)
        return
    status = context.client.status()
    if context.out.is_json:
        context.out.json(status)
        return
    context.out.render(*_shown(context.out, status, {}))


def _watch(context: Context) -> None:
    interval_s = max(1, context.number("interval"))
    out, client = context.out, context.client
    if out.is_json:
        while True:
            out.json_line(client.status())
            time.sleep(interval_s)
    before: Totals = {}
    if not out.is_terminal:
        while True:
            status = client.status()
            out.render(*_shown(out, status, before), text(""))
            before = _totals(status)
            time.sleep(interval_s)
    with out.live() as show:
        while True:
            status = client.status()
            rows = [_client_row(each) for each in client.connections()]
            show(
                group(
                    *_shown(out, status, before), *_clients(out, rows), text("\nCtrl-C ends", DIM)
                )
            )
            before = _totals(status)
            time.sleep(interval_s)


def _shown(out: Output, status: StatusAnswer, before: Totals) -> Iterator[RenderableType]:
    yield grid(_facts(status))
    yield text("")
    heads = ["LISTENER", "STATE", "URL", "CLIENTS", "ACTIVE", "IN", "OUT"]
    rows = [_listener_row(each, before) for each in status["listeners"]]
    yield out.fitted(heads, rows)
    yield text("")
    documents = [
        (each["keyspace"], each["documents"])
        for database in status["databases"]
        for each in database["collections"]
    ]
    yield out.fitted(["KEYSPACE", "DOCUMENTS"], documents)
    if status["problems"]:
        yield text("")
    for problem in status["problems"]:
        yield text(f"! {problem}", BAD)
    if status["problems"]:
        yield text('! "edgesync doctor" says what to do', BAD)


def _facts(status: StatusAnswer) -> Iterator[tuple[str, Cell]]:
    yield "edgesyncd", f"{status['version']}, running for {age(status['started_at'])}"
    yield "config", status["config"]
    disk = status["disk"]
    used = 100 - 100 * disk["free_bytes"] // max(1, disk["total_bytes"])
    words = f"{used} % used, {size(disk['free_bytes'])} free"
    is_bad = disk["read_only"] or used >= FULL_PERCENT
    yield "disk", Styled(words + (", read-only" * disk["read_only"]), BAD if is_bad else "")
    if status["key_store"] != "none":
        locked = status["key_store"] == "locked"
        yield "key store", Styled(status["key_store"], BAD if locked else "")


def _listener_row(listener: ListenerAnswer, before: Totals) -> list[Cell]:
    totals = listener["totals"]
    urls = listener["urls"]
    more = f" (+{len(urls) - 1})" if len(urls) > 1 else ""
    return [
        listener["name"],
        Styled(listener["state"], STATE_STYLES[listener["state"]]),
        urls[0] + more if urls else "-",
        listener["connections"],
        listener["active"],
        _rate(totals["revisions_in"], before.get(listener["name"]), 1),
        _rate(totals["revisions_out"], before.get(listener["name"]), 2),
    ]


def _rate(total: int, before: tuple[float, int, int] | None, index: int) -> Cell:
    """Return a total, and how fast it rises if it was looked at before."""
    if before is None:
        return total
    seconds = time.monotonic() - before[0]
    return f"{total} ({(total - before[index]) / max(0.1, seconds):.1f}/s)"


def _totals(status: StatusAnswer) -> Totals:
    now = time.monotonic()
    return {
        each["name"]: (now, each["totals"]["revisions_in"], each["totals"]["revisions_out"])
        for each in status["listeners"]
    }


def _client_row(connection: ConnectionAnswer) -> list[Cell]:
    return [
        connection["peer"],
        connection["listener"],
        connection["user"] or "-",
        Styled("active", GOOD) if connection["active"] else "idle",
        age(connection["since"]),
        connection["revisions_in"],
        connection["revisions_out"],
    ]


def _clients(out: Output, rows: list[list[Cell]]) -> Iterator[RenderableType]:
    yield text("")
    if rows:
        yield out.fitted(["CLIENT", "LISTENER", "USER", "STATE", "SINCE", "IN", "OUT"], rows)
    else:
        yield text("no client is connected", DIM)
