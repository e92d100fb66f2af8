"""`edgesync version`."""

from __future__ import annotations

import edgesync
from edgesync.cli.command import Context, Tree
from edgesync.errors import ApiError


def add(tree: Tree) -> None:
    """Add the noun."""
    tree.alone("version", "show the versions of the command and the service", run)


def run(context: Context) -> None:
    """Show the versions; a service that cannot be asked is no failure."""
    service, reason = None, ""
    try:
        service = context.client.status()["version"]
    except ApiError as error:
        reason = str(error)
    if context.out.is_json:
        context.out.json({"edgesync": edgesync.__version__, "edgesyncd": service})
        return
    context.out.line(f"edgesync {edgesync.__version__}")
    context.out.line(f"edgesyncd {service}" if service else f"edgesyncd: not known: {reason}")
