"""A network with a neighbour: names, cables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lan import BOX, Lan
from qemu import Qemu

pytestmark = pytest.mark.needs_root

LISTENER = f"wss://{BOX}:4984/db"
WATCH = """
import sys, time, zeroconf
def seen(name, state_change, **_):
    print(state_change.name, name, flush=True)
zc = zeroconf.Zeroconf(interfaces=["192.168.77.1"])
zeroconf.ServiceBrowser(zc, sys.argv[1], handlers=[seen])
time.sleep(float(sys.argv[2]))
zc.close()
"""
DISCOVER = """
import json
from edgesync.net.mdns import browse
print(json.dumps([[each.name, list(each.urls)] for each in browse(4)]))
"""


def test_a_neighbour_finds_the_box_and_pushes_to_it(on_lan: Qemu, lan: Lan, tmp_path: Path) -> None:
    found = json.loads(lan.run(sys.executable, "-c", DISCOVER))
    urls = [url for _, urls in found for url in urls]
    assert LISTENER in urls, found
    (tmp_path / "boiler.json").write_text('{"setpoint": 21}')
    lan.run(sys.executable, "-m", "tests.active_peer", "push", LISTENER, str(tmp_path))
    assert on_lan.client.pull("boiler") == {"setpoint": 21}


def test_it_says_goodbye_when_it_stops(on_lan: Qemu, lan: Lan) -> None:
    watching = lan.start(sys.executable, "-c", WATCH, "_edgesync._tcp.local.", "20")
    assert watching.stdout is not None
    line = watching.stdout.readline()
    assert line.startswith("Added"), line
    on_lan.run("systemctl stop edgesyncd")
    lines = watching.communicate(timeout=40)[0]
    assert "Removed" in lines


def test_a_cable_that_comes_later_is_served_by_itself(appliance: Qemu) -> None:
    appliance.off()
    appliance.power()
    appliance.plug("eth1", is_in=False)
    appliance.wait_until_it_serves()
    assert waiting(appliance) == {"field": "serving", "lan": "waiting"}
    findings = json.loads(appliance.run("edgesync --json doctor --quick", check=False))
    (told,) = (each for each in findings if each["check"] == "interface")
    assert told["level"] == "bad"
    assert "eth1" in told["text"] + told["hint"]
    appliance.plug("eth1", is_in=True)
    appliance.wait_for(
        lambda: waiting(appliance) == {"field": "serving", "lan": "serving"},
        "the listener of the other card serves",
        60,
    )


def waiting(appliance: Qemu) -> dict[str, str]:
    status = json.loads(appliance.run("edgesync --json status"))
    return {each["name"]: each["state"] for each in status["listeners"]}
