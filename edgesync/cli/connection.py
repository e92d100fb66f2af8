"""`edgesync connection`."""

from __future__ import annotations

from edgesync.api.answers import ConnectionAnswer
from edgesync.api.client import path_of
from edgesync.cli.command import YES, Context, Tree, argument
from edgesync.cli.output import GOOD, Cell, Styled, age, size


def add(tree: Tree) -> None:
    """Add the noun."""
    verbs = tree.noun("connection", "show and close connections of clients")
    verbs.add("list", "list all clients that are connected", list_all)
    verbs.add(
        "close",
        "close a client's connection; it does not come back by itself",
        close,
        argument("id", metavar="ID", help="of the connection, or how it begins"),
        YES,
    )


def list_all(context: Context) -> None:
    """List all clients."""
    connections = context.client.connections()
    if context.out.is_json:
        context.out.json(connections)
        return
    context.out.table(
        ["ID", "PEER", "LISTENER", "USER", "STATE", "SINCE", "IN", "OUT", "BYTES"],
        [_row(each) for each in connections],
        empty="no client is connected",
    )


def close(context: Context) -> None:
    """Close a connection."""
    given = context.text("id")
    found = [each["id"] for each in context.client.connections() if each["id"].startswith(given)]
    connection_id = found[0] if len(found) == 1 else given
    context.confirm(f"close connection {connection_id}")
    closed = context.client.send("DELETE", path_of("_edgesync", "connections", connection_id))
    if context.out.is_json:
        context.out.json(closed)
    else:
        context.out.line(f"connection {connection_id} was closed")


def _row(connection: ConnectionAnswer) -> list[Cell]:
    return [
        connection["id"],
        connection["peer"],
        connection["listener"],
        connection["user"] or "-",
        Styled("active", GOOD) if connection["active"] else "idle",
        age(connection["since"]),
        connection["revisions_in"],
        connection["revisions_out"],
        size(connection["bytes_in"] + connection["bytes_out"]),
    ]
