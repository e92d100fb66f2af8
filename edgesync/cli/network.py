"""`edgesync network` and `edgesync discover`."""

from __future__ import annotations

from edgesync.cli.command import Context, Tree, argument
from edgesync.cli.output import BAD, GOOD, Cell, Styled


def add(tree: Tree) -> None:
    """Add the nouns."""
    tree.alone("network", "show interfaces and which listener is on which address", network)
    tree.alone(
        "discover",
        "look for listeners that announce themselves over mDNS",
        discover,
        argument("--wait", type=int, default=2, metavar="SECONDS", help="how long (default: 2)"),
    )


def network(context: Context) -> None:
    """Show the interfaces."""
    interfaces = context.client.interfaces()
    if context.out.is_json:
        context.out.json(interfaces)
        return
    listeners = context.client.listeners()
    rows: list[list[Cell]] = []
    for interface in interfaces:
        for address in interface["addresses"]:
            host = f"[{address}]" if ":" in address else address
            here = [
                each["name"]
                for each in listeners
                if any(f"//{host}:" in url for url in each["urls"])
            ]
            state = Styled("up", GOOD) if interface["up"] else Styled("down", BAD)
            rows.append([interface["name"], state, address, ", ".join(here) or "-"])
    context.out.table(["INTERFACE", "STATE", "ADDRESS", "LISTENERS"], rows, empty="there is none")


def discover(context: Context) -> None:
    """Look for listeners around here."""
    peers = context.client.peers(context.number("wait") * 1000)
    if context.out.is_json:
        context.out.json(peers)
        return
    context.out.table(
        ["NAME", "URL", "AUTHENTICATION", "FINGERPRINT"],
        [
            [
                peer["name"],
                (peer["urls"] or ["-"])[0],
                peer["authentication"] or "-",
                peer["fingerprint"] or "-",
            ]
            for peer in peers
        ],
        empty="nobody announces a listener here",
    )
