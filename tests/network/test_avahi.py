"""Our announcements beside those of Avahi, which many boxes run for their host name."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.network.boxes import SOON_S, Box, Program, Switch
from tests.network.conftest import Observe

AVAHI = shutil.which("avahi-daemon")

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(AVAHI is None, reason="needs avahi-daemon"),
]

CONFIGURATION = "[server]\nhost-name=box\nenable-dbus=no\n[publish]\npublish-hinfo=no\n"
WANTED = [{"listener": "field", "port": 4984, "addresses": ["::"]}]
RESOLVE = """
import zeroconf
with zeroconf.Zeroconf(interfaces=["10.9.0.100"]) as asking:
    for name in ("box.local.", "box-2.local."):
        host = zeroconf.AddressResolverIPv4(name)
        print(name, host.request(asking, 2000) and host.parsed_addresses())
"""


@contextmanager
def avahi(box: Box) -> Iterator[Program]:
    """Run Avahi, without what it shares with the rest of the machine."""
    file = box.folder / "avahi-daemon.conf"
    file.write_text(CONFIGURATION)
    options = "--no-drop-root --no-chroot --no-rlimits --no-proc-title"
    script = f"mount -t tmpfs tmpfs /run && exec {AVAHI} {options} -f {file}"
    with box.command("sh", "-c", script) as daemon:
        daemon.wait_for("Server startup complete. Host name is box.local")
        yield daemon


def test_both_are_found_and_keep_their_names(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    observer = observe(neighbour, "10.9.0.100")
    with avahi(box) as daemon, box.program("-m", "tests.network.announcer", "box") as announcer:
        announcer.tell(WANTED)
        observer.wait_for("added", "field on box", addresses=["10.9.0.1"])
        time.sleep(SOON_S)
        with neighbour.program("-c", RESOLVE) as resolver:
            resolver.end()
            assert resolver.said == ["box.local. ['10.9.0.1']", "box-2.local. False"]
        announcer.end()
        observer.wait_for("removed", "field on box")
        assert json.loads(announcer.said[-2])["names"] == {"field": ["field on box"]}
        assert not [line for line in daemon.heard(0.0) if "conflict" in line.lower()]


def test_ours_are_found_whichever_starts_first(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.program("-m", "tests.network.announcer", "box") as announcer:
        announcer.tell(WANTED)
        announcer.wait_for("field on box", SOON_S)
        with avahi(box):
            observe(neighbour, "10.9.0.100").wait_for("added", "field on box")
        announcer.end()
