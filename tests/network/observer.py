"""Prints a line of JSON for each listener that is announced, changed or withdrawn."""

from __future__ import annotations

import json
import signal
import sys

import zeroconf

TYPE = "_edgesync._tcp.local."


class Printer(zeroconf.ServiceListener):
    def add_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        self._print("added", zc, name)

    def update_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        self._print("updated", zc, name)

    def remove_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        self._print("removed", zc, name)

    def _print(self, change: str, zc: zeroconf.Zeroconf, name: str) -> None:
        seen: dict[str, object] = {"change": change, "name": name.removesuffix(f".{TYPE}")}
        info = zc.get_service_info(TYPE, name, 1000) if change != "removed" else None
        if info is not None:
            seen |= {
                "addresses": sorted(info.parsed_addresses()),
                "port": info.port,
                "text": info.decoded_properties,
            }
        print(json.dumps(seen), flush=True)


zeroconf.ServiceBrowser(
    zeroconf.Zeroconf(interfaces=[sys.argv[1]]),
    TYPE,
    listener=Printer(),
    question_type=zeroconf.DNSQuestionType.QM,
)
print("ready", flush=True)
signal.pause()
