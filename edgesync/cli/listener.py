"""`edgesync listener`."""

from __future__ import annotations

from collections.abc import Iterator

from edgesync.api.answers import ListenerAnswer
from edgesync.api.client import path_of
from edgesync.cli.command import Context, Tree, argument
from edgesync.cli.output import BAD, Cell, Styled, day, size
from edgesync.cli.status import STATE_STYLES

NAME = argument("name", metavar="NAME", help="of the listener, as in the configuration")


def add(tree: Tree) -> None:
    """Add the noun."""
    verbs = tree.noun("listener", "show and restart listeners")
    verbs.add("list", "list all listeners", list_all)
    verbs.add("show", "show all about a listener", show, NAME)
    verbs.add("restart", "stop and start a listener; clients come back", restart, NAME)


def list_all(context: Context) -> None:
    """List all listeners."""
    listeners = context.client.listeners()
    if context.out.is_json:
        context.out.json(listeners)
        return
    context.out.table(
        ["NAME", "STATE", "DATABASE", "INTERFACE", "PORT", "CLIENTS", "URL"],
        [_row(each) for each in listeners],
        empty="there is no listener",
    )


def show(context: Context) -> None:
    """Show a listener."""
    _show(context, context.client.listener(context.text("name")))


def restart(context: Context) -> None:
    """Restart a listener."""
    name = context.text("name")
    context.client.send("POST", path_of("_edgesync", "listeners", name, "restart"))
    _show(context, context.client.listener(name))


def _show(context: Context, listener: ListenerAnswer) -> None:
    if context.out.is_json:
        context.out.json(listener)
    else:
        context.out.facts(_facts(listener))


def _row(listener: ListenerAnswer) -> list[Cell]:
    return [
        listener["name"],
        Styled(listener["state"], STATE_STYLES[listener["state"]]),
        listener["database"] or "-",
        listener["interface"] or "all",
        listener["port"],
        listener["connections"],
        (listener["urls"] or ["-"])[0],
    ]


def _facts(listener: ListenerAnswer) -> Iterator[tuple[str, Cell]]:
    yield "name", listener["name"]
    yield "state", Styled(listener["state"], STATE_STYLES[listener["state"]])
    if listener["problem"]:
        yield "problem", Styled(listener["problem"], BAD)
    yield "database", listener["database"] or "-"
    yield "collections", ", ".join(listener["collections"])
    yield "interface", listener["interface"] or "all"
    yield "port", listener["port"]
    for url in listener["urls"]:
        yield "url", url
    yield "tls", "yes" if listener["tls"] else Styled("no", BAD)
    if listener["fingerprint"]:
        yield "fingerprint", listener["fingerprint"]
    if listener["expires_at"]:
        yield "identity", listener["identity"] or "anonymous"
        yield "certificate", f"until {day(listener['expires_at'])}"
    yield "authentication", listener["authentication"]
    yield "clients may", "only pull" if listener["read_only"] else "push and pull"
    yield "deltas", "yes" if listener["delta_sync"] else "no"
    for name in listener["announced_as"]:
        yield "mDNS name", name
    yield "clients", f"{listener['connections']}, of these active: {listener['active']}"
    totals = listener["totals"]
    yield "in so far", f"{totals['revisions_in']} revisions, {size(totals['bytes_in'])}"
    yield "out so far", f"{totals['revisions_out']} revisions, {size(totals['bytes_out'])}"
