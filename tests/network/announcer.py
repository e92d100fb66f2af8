"""Announces what it is told on stdin, a list of advertisements a line; says what blocks its hub.

After each line and whenever interfaces change it looks again. It says names and
problems when they change, and ends with the input.
"""

from __future__ import annotations

import json
import sys

import gevent

from edgesync.limits import Limits
from edgesync.net.interfaces import InterfaceChanges
from edgesync.net.mdns import Advertisement, Advertiser
from tests.hub_watch import HubWatch

HOST = sys.argv[1]


def advertisements(line: str) -> list[Advertisement]:
    return [
        Advertisement(
            listener=each["listener"],
            database=each.get("database", "db"),
            port=each["port"],
            addresses=tuple(each["addresses"]),
            fingerprint=bytes.fromhex(each["fingerprint"]) if "fingerprint" in each else None,
            authentication=each.get("authentication", "none"),
            protocols=(2, 3),
        )
        for each in json.loads(line)
    ]


class Announcing:
    def __init__(self) -> None:
        self._advertiser = Advertiser(HOST, Limits())
        self._wanted: list[Advertisement] = []
        self._said = ""

    def run(self) -> None:
        following = [gevent.spawn(self._follow), gevent.spawn(self._tell)]
        while line := gevent.get_hub().threadpool.apply(sys.stdin.readline):
            self._wanted = advertisements(line)
            self._advertiser.update(self._wanted)
        gevent.killall(following)
        self._advertiser.stop()

    def _follow(self) -> None:
        with InterfaceChanges() as changes:
            while True:
                changes.wait()
                self._advertiser.update(self._wanted)

    def _tell(self) -> None:
        while True:
            names, problems = self._advertiser.names, self._advertiser.problems
            now = json.dumps({"names": dict(names), "problems": dict(problems)})
            if now != self._said:
                print(now, flush=True)
                self._said = now
            gevent.sleep(0.02)


watch = HubWatch()
watch.start()
Announcing().run()
watch.stop()
for report in watch.reports:
    print("BLOCKED", json.dumps(report))
print("stopped", flush=True)
