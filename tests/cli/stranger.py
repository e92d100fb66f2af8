"""Run `edgesync` as a user who may not use the socket: `python -m tests.cli.stranger edgesync ...`.

Root becomes nobody; somebody else, whom nothing of his own can be forbidden, gets a
socket that nobody may use.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from importlib import import_module

import edgesync.cli.main

NOBODY = 65534


def main() -> int:
    if os.geteuid() == 0:
        for package in ("rich.console", "rich.table"):  # which nobody may not be able to read
            import_module(package)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return edgesync.cli.main.main(sys.argv[2:])
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as closed:
        path = f"{folder}/edgesync.sock"
        closed.bind(path)
        os.chmod(path, 0)
        os.environ["EDGESYNC_SOCKET"] = path
        return edgesync.cli.main.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
