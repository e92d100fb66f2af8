"""Share a sensor's readings: each new one reaches the connected clients at once.

python -m examples.share_readings [COUNT]
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from itertools import count, islice

import gevent

from edgesync import Database, URLEndpointListener, URLEndpointListenerConfiguration

PERIOD_S = 1.0


def main(readings: int | None) -> None:
    with Database.open("readings", directory="databases") as database:
        load = database.create_collection("sensors.load")
        listener = URLEndpointListener(
            URLEndpointListenerConfiguration(
                collections=[load], network_interface="127.0.0.1", read_only=True
            )
        )
        listener.start()
        print("clients pull the collection sensors.load from", *listener.urls)
        for number in islice(count(1), readings):
            now = datetime.now(UTC).isoformat()
            load.save(None, {"at": now, "load": os.getloadavg()[0]})
            print(number, "readings,", listener.status.connection_count, "clients")
            gevent.sleep(PERIOD_S)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
