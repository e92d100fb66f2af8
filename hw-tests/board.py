"""A real board: SSH, and a command that switches its power.

    EDGESYNC_BOARD=ssh://tech@192.168.1.40 EDGESYNC_BOARD_POWER="uhubctl -l 1-1 -p 2 -a {state}"

`{state}` becomes `on` or `off`. Its database is `db`, without a password, on port 4984; the
SSH key is that of `EDGESYNC_BOARD_KEY`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from appliance import SSH, Appliance

ADDRESS: Final = "EDGESYNC_BOARD"
POWER: Final = "EDGESYNC_BOARD_POWER"
KEY: Final = "EDGESYNC_BOARD_KEY"
SWITCH_TIMEOUT_S: Final = 30.0


class Board(Appliance):
    """A board on the desk; tests leave documents on it."""

    def __init__(self, host: str, ssh_port: int, power_command: str, key: Path, user: str) -> None:
        super().__init__(key, user)
        self._host = host
        self._ssh_port = ssh_port
        self._power_command = power_command

    @classmethod
    def of_environment(cls) -> Board:
        """Return the board that the environment names."""
        url = urlsplit(os.environ[ADDRESS])
        key = Path(os.environ.get(KEY, "~/.ssh/id_ed25519")).expanduser()
        return cls(
            url.hostname or "", url.port or SSH, os.environ[POWER], key, url.username or "root"
        )

    def address(self, port: int) -> tuple[str, int]:
        """Return the port on the board."""
        return self._host, self._ssh_port if port == SSH else port

    def power(self) -> None:
        """Switch its power on."""
        self._switch("on")

    def off(self) -> None:
        """Switch its power off."""
        self._switch("off")
        self.hang_up()

    def _switch(self, state: str) -> None:
        command = shlex.split(self._power_command.format(state=state))
        subprocess.run(command, check=True, timeout=SWITCH_TIMEOUT_S)
