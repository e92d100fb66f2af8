"""A reading a second through the local API, with the standard library alone.

    python examples/sensor.py KEYSPACE [COUNT]

The last reading is one document, "load", that is replaced each second: clients see
the value change. One connection is kept open; if the service restarts, it is made
anew and the reading is sent again.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from itertools import count, islice
from urllib.parse import quote

SOCKET = os.environ.get("EDGESYNC_SOCKET", "/run/edgesync/edgesync.sock")
PERIOD_S = 1.0


class Box:
    """The service on this machine."""

    def __init__(self) -> None:
        self._connection = http.client.HTTPConnection("localhost", timeout=10)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        """Return status and JSON of the answer."""
        if self._connection.sock is None:
            self._connection.sock = socket.socket(socket.AF_UNIX)
            self._connection.sock.settimeout(10)
            self._connection.sock.connect(SOCKET)
        try:
            self._connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = self._connection.getresponse()
            return answer.status, json.load(answer)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise


def put(box: Box, path: str, reading: dict[str, object]) -> str:
    """Store a reading in the place of the last one; return its revision."""
    status, current = box.ask("GET", path)
    rev = {"_rev": current["_rev"]} if status == 200 else {}
    status, saved = box.ask("PUT", path, {**reading, **rev})
    if status == 409:  # a client has changed it in between: what we measured is newer
        return put(box, path, reading)
    return str(saved["rev"])


def main(keyspace: str, readings: int | None) -> None:
    box = Box()
    path = f"/{quote(keyspace)}/load"
    for number in islice(count(1), readings):
        reading: dict[str, object] = {"load": os.getloadavg()[0], "at": time.time()}
        try:
            print(number, put(box, path, reading), flush=True)
        except (OSError, http.client.HTTPException) as error:
            print(f"edgesyncd cannot be reached: {error}", file=sys.stderr)
        if number != readings:
            time.sleep(PERIOD_S)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
