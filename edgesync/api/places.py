"""Where the service's socket and state are: the same answer for who serves and who asks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

SOCKET_VARIABLE: Final = "EDGESYNC_SOCKET"
SOCKET_NAME: Final = "edgesync.sock"
RUN_FOLDER: Final = Path("/run/edgesync")


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return where the state lives: as systemd says, else as a desktop says, else at home."""
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])  # systemd lists all of a unit's folders
    if (state_home := Path(environment.get("XDG_STATE_HOME", ""))).is_absolute():
        return state_home / "edgesync"
    home = environment.get("HOME", "")
    return (Path(home) if home else Path.home()) / ".local/state/edgesync"


def socket_to_serve(environment: Mapping[str, str], state: Path) -> Path:
    """Return the socket that the service makes.

    Args:
        environment: EDGESYNC_SOCKET decides, else RUNTIME_DIRECTORY, as systemd sets it.
        state: The service's state; the socket is there if nothing else can be written to.
    """
    if given := environment.get(SOCKET_VARIABLE):
        return Path(given)
    if given := environment.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0]) / SOCKET_NAME
    if os.access(RUN_FOLDER, os.W_OK):
        return RUN_FOLDER / SOCKET_NAME
    return state / SOCKET_NAME


def sockets_to_try(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield where the service's socket may be, the likeliest first."""
    if given := environment.get(SOCKET_VARIABLE):
        yield Path(given)
        return
    if given := environment.get("RUNTIME_DIRECTORY"):
        yield Path(given.split(":")[0]) / SOCKET_NAME
    yield RUN_FOLDER / SOCKET_NAME
    yield state_folder(environment) / SOCKET_NAME
