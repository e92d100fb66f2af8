"""Run a command while a client is connected: `python -m tests.cli.with_client URL COMMAND...`."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

from tests.active_peer.failures import SyncError
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync


def main(url: str, command: list[str]) -> int:
    database = PeerDatabase()
    database.save("from-a-phone", {"n": 1})
    client = ContinuousSync(database, url)
    deadline = time.monotonic() + 10
    while not client.is_idle and time.monotonic() < deadline:
        time.sleep(0.05)
    code = subprocess.run(command, check=False).returncode
    with suppress(SyncError):  # the command may have closed it
        client.stop()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
