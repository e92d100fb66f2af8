"""What neighbours see of listeners over mDNS, by zeroconf's own browser and by ours."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from edgesync.limits import MIB
from tests.network.boxes import SOON_S, Box, Observer, Program, Switch
from tests.network.conftest import MakeBox, Observe

pytestmark = pytest.mark.needs_root

SERVICE = "[listener.field]\ndisable_tls = true\n"
ON_ETH0 = f'{SERVICE}interface = "eth0"\n'
HERE = "10.9.0.100"
BROWSE = """
from edgesync.net.mdns import browse
for each in browse(2.0):
    print(each.name, *each.urls)
"""


@contextmanager
def announcing(box: Box, host: str, *wanted: dict[str, object]) -> Iterator[Program]:
    """Announce until the block ends, in a process of its own; its hub must not be blocked."""
    with box.program("-m", "tests.network.announcer", host) as program:
        program.tell(list(wanted))
        yield program
        program.end()
        assert "BLOCKED" not in program.log


def listener(*addresses: str, **more: object) -> dict[str, object]:
    return {"listener": "field", "port": 4984, "addresses": list(addresses or ["::"]), **more}


def named(program: Program, name: str, timeout_s: float = SOON_S) -> None:
    program.wait_for(rf'"field": \["{name}"\]'.replace("(", r"\(").replace(")", r"\)"), timeout_s)


def name_of(program: Program) -> str:
    program.heard(0.0)
    (name,) = json.loads(program.said[-1])["names"]["field"]
    return str(name)


def one_has_given_way(*programs: Program) -> None:
    """Wait until they have different names; two that probe at once take a second round."""
    deadline = time.monotonic() + 3 * SOON_S
    while len({name_of(each) for each in programs}) < len(programs):
        assert time.monotonic() < deadline, "they share a name"
        time.sleep(0.1)


def browsed(box: Box) -> set[str]:
    """Return name and URL of what our own browser finds."""
    with box.program("-c", BROWSE) as program:
        program.end()
        return set(program.log.splitlines())


# --- the service ---------------------------------------------------------------------------


def test_two_boxes_discover_each_other(make_box: MakeBox, switch: Switch) -> None:
    one, other = make_box(), make_box()
    one.plug("eth0", switch, "10.9.0.1/24")
    other.plug("eth0", switch, "10.9.0.2/24")
    yard = SERVICE.replace("field", "yard")
    with one.serving(SERVICE) as service, other.serving(yard) as other_service:
        host = service.wait_for(r'announced on eth0 as "field on (.*)"', SOON_S)[1]
        other_service.wait_for(rf'announced on eth0 as "yard on {host}"', SOON_S)
        everything = {
            f"field on {host} ws://10.9.0.1:4984/db",
            f"yard on {host} ws://10.9.0.2:4984/db",
        }
        assert browsed(one) == everything
        assert browsed(other) == everything


def test_what_is_announced_is_what_is_served(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24", "10.9.0.2/24")
    observer = observe(neighbour, HERE)
    with box.serving(
        '[database.stock]\n[listener.field]\ninterface = "eth0"\nport = 5000'
    ) as service:
        name = service.wait_for(r'announced on eth0 as "(.*)"', SOON_S)[1]
        seen = observer.wait_for("added|updated", name)
        assert (seen["addresses"], seen["port"]) == (["10.9.0.1"], 5000)
        assert seen["text"].keys() == {"txtvers", "path", "tls", "fp", "auth", "cbmobile"}
        assert seen["text"]["path"] == "/stock"


def test_a_goodbye_is_said_when_the_service_stops(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    observer = observe(neighbour, HERE)
    with box.serving(ON_ETH0) as service:
        name = service.wait_for(r'announced on eth0 as "(.*)"', SOON_S)[1]
        observer.wait_for("added", name)
        service.stop()
        observer.wait_for("removed", name)


def test_a_listener_that_is_not_to_be_advertised_is_not_seen(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    observer = observe(neighbour, HERE)
    with box.serving(f"{ON_ETH0}advertise = false\n"):
        assert observer.heard(3.0) == []


def test_the_announcement_follows_a_new_address(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    observer = observe(neighbour, HERE)
    with box.serving(ON_ETH0) as service:
        name = service.wait_for(r'announced on eth0 as "(.*)"', SOON_S)[1]
        observer.wait_for("added|updated", name, addresses=["10.9.0.1"])
        box.drop("eth0", "10.9.0.1/24")
        box.add("eth0", "10.9.0.7/24")
        observer.wait_for("added|updated", name, addresses=["10.9.0.7"])


def test_the_announcement_comes_back_with_the_interface(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(ON_ETH0) as service:
        name = service.wait_for(r'announced on eth0 as "(.*)"', SOON_S)[1]
        box.ip("link", "set", "eth0", "down")
        service.wait_for("which is down", SOON_S)
        observer = observe(neighbour, HERE)
        assert observer.heard(2.0) == []
        box.ip("link", "set", "eth0", "up")
        observer.wait_for("added", name)


@pytest.mark.parametrize("address", ["10.9.0.1/24", "10.9.0.7/24"], ids=["same", "other"])
def test_a_cable_is_moved_to_another_network(
    box: Box,
    make_box: MakeBox,
    make_switch: Callable[[], Switch],
    observe: Observe,
    address: str,
) -> None:
    there, here, watcher = make_switch(), make_switch(), make_box()
    watcher.plug("eth0", here, "10.9.0.100/24")
    box.plug("eth0", there, "10.9.0.1/24")
    box.plug("eth1", there, "10.8.0.1/24")
    other = ON_ETH0.replace("field", "yard").replace("eth0", "eth1")
    with box.serving(f"{ON_ETH0}{other}port = 4985\n") as service:
        name = service.wait_for(r'announced on eth0 as "(.*)"', SOON_S)[1]
        observer = observe(watcher, HERE)
        box.move_cable("eth0", here)
        if address != "10.9.0.1/24":
            box.drop("eth0", "10.9.0.1/24")
            box.add("eth0", address)
        observer.wait_for("added", name, addresses=[address.removesuffix("/24")])
        assert service.log.count('"yard" serves') == 1
        assert service.log.count("announced on eth1") <= 1


# --- which network hears what ------------------------------------------------------------


def test_each_network_hears_its_own_addresses_only(
    box: Box,
    neighbour: Box,
    switch: Switch,
    make_box: MakeBox,
    make_switch: Callable[[], Switch],
    observe: Observe,
) -> None:
    elsewhere, stranger = make_switch(), make_box()
    stranger.plug("eth0", elsewhere, "10.8.0.100/24")
    box.plug("eth0", switch, "10.9.0.1/24", "fd09::1/64")
    box.plug("eth1", elsewhere, "10.8.0.1/24")
    observer, other = observe(neighbour, HERE), observe(stranger, "10.8.0.100")
    with announcing(box, "box", listener()):
        observer.wait_for("added|updated", "field on box", addresses=["10.9.0.1", "fd09::1"])
        other.wait_for("added|updated", "field on box", addresses=["10.8.0.1"])


def test_other_networks_hear_nothing_of_a_listener(
    box: Box,
    switch: Switch,
    make_box: MakeBox,
    make_switch: Callable[[], Switch],
    observe: Observe,
) -> None:
    elsewhere, stranger = make_switch(), make_box()
    stranger.plug("eth0", elsewhere, "10.8.0.100/24")
    box.plug("eth0", switch, "10.9.0.1/24")
    box.plug("eth1", elsewhere, "10.8.0.1/24")
    observer = observe(stranger, "10.8.0.100")
    with announcing(box, "box", listener("10.9.0.1")) as announcer:
        named(announcer, "field on box")
        assert observer.heard(2.0) == []
        assert browsed(stranger) == set()


def test_one_host_on_two_interfaces_of_a_network_keeps_its_name(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with announcing(box, "box", listener()) as announcer:
        named(announcer, "field on box")
        box.plug("eth1", switch, "10.9.0.2/24")
        assert not [line for line in announcer.heard(4.0) if "(2)" in line]
        assert [each.split(" ws")[0] for each in browsed(box)] == ["field on box"]


def test_ipv6_alone_is_announced(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "fd09::1/64")
    observer = observe(neighbour, "fd09::100")
    with announcing(box, "box", listener()):
        observer.wait_for("added", "field on box", addresses=["fd09::1"])


# --- names --------------------------------------------------------------------------------


def test_a_name_that_is_taken_gets_a_number(make_box: MakeBox, switch: Switch) -> None:
    one, other = make_box(), make_box()
    one.plug("eth0", switch, "10.9.0.1/24")
    other.plug("eth0", switch, "10.9.0.2/24")
    with announcing(one, "box", listener()) as first:
        named(first, "field on box")
        with announcing(other, "box", listener()) as second:
            named(second, "field on box (2)")
            assert browsed(one) == {
                "field on box ws://10.9.0.1:4984/db",
                "field on box (2) ws://10.9.0.2:4984/db",
            }


def test_of_two_boxes_that_start_together_one_gives_way(make_box: MakeBox, switch: Switch) -> None:
    one, other = make_box(), make_box()
    one.plug("eth0", switch, "10.9.0.1/24")
    other.plug("eth0", switch, "10.9.0.2/24")
    with (
        announcing(one, "box", listener()) as first,
        announcing(other, "box", listener()) as second,
    ):
        named(first, "field on box.*")
        named(second, "field on box.*")
        one_has_given_way(first, second)


def test_when_two_networks_are_joined_one_gives_way(
    make_box: MakeBox, switch: Switch, make_switch: Callable[[], Switch]
) -> None:
    elsewhere, one, other = make_switch(), make_box(), make_box()
    one.plug("eth0", switch, "10.9.0.1/24")
    other.plug("eth0", elsewhere, "10.9.0.2/24")
    with (
        announcing(one, "box", listener()) as first,
        announcing(other, "box", listener()) as second,
    ):
        named(first, "field on box")
        named(second, "field on box")
        other.move_cable("eth0", switch)
        one_has_given_way(first, second)


def test_the_name_is_free_again_in_another_network(
    make_box: MakeBox, switch: Switch, make_switch: Callable[[], Switch]
) -> None:
    one, other = make_box(), make_box()
    one.plug("eth0", switch, "10.9.0.1/24")
    other.plug("eth0", switch, "10.9.0.2/24")
    with announcing(one, "box", listener()) as first:
        named(first, "field on box")
        with announcing(other, "box", listener()) as second:
            named(second, "field on box (2)")
            other.move_cable("eth0", make_switch())
            named(second, "field on box")


# --- trouble --------------------------------------------------------------------------------


def test_it_takes_no_privilege(box: Box, neighbour: Box, switch: Switch, observe: Observe) -> None:
    box.plug("eth0", switch, "10.9.0.1/24", "fd09::1/64 nodad")
    observer = observe(neighbour, HERE)
    without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    announcer = ("-m", "tests.network.announcer", "box")
    with box.command(*without, sys.executable, *announcer) as program:
        program.tell([listener()])
        observer.wait_for("added|updated", "field on box", addresses=["10.9.0.1", "fd09::1"])
        box.ip("address", "flush", "dev", "eth0", "scope", "global")
        program.wait_for(r'"names": \{"field": \["field on box"\]\}, "problems": \{\}', SOON_S)
        program.end()
        assert "not permitted" not in program.log


def test_a_program_that_keeps_the_port_of_mdns_is_waited_for(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    jealous = box.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with jealous:
        jealous.bind(("0.0.0.0", 5353))
        with announcing(box, "box", listener()) as announcer:
            announcer.wait_for(r'"problems": \{"eth0": ".*in use"\}', SOON_S)
            with box.program("-c", BROWSE) as browser:
                browser.wait_for("DiscoveryError: mDNS does not work: .*in use", SOON_S)
            jealous.close()
            named(announcer, "field on box", 2 * SOON_S)


# --- changes --------------------------------------------------------------------------------


def test_a_renewed_certificate_is_announced(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    observer = observe(neighbour, HERE)
    with announcing(box, "box", listener(fingerprint="00" * 32)) as announcer:
        seen = observer.wait_for("added", "field on box")
        assert seen["text"]["fp"] == "A" * 43
        announcer.tell([listener(fingerprint="ff" * 32)])
        assert fingerprint_becomes(observer, "_" * 42 + "8")


def fingerprint_becomes(observer: Observer, fingerprint: str) -> bool:
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        seen = observer.wait_for("updated", "field on box")
        if seen["text"]["fp"] == fingerprint:
            return True
    return False


def test_a_listener_that_stops_is_withdrawn_alone(
    box: Box, neighbour: Box, switch: Switch, observe: Observe
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    observer = observe(neighbour, HERE)
    yard = {"listener": "yard", "port": 4985, "addresses": ["::"]}
    with announcing(box, "box", listener(), yard) as announcer:
        names = {observer.wait_for("added", each)["name"] for each in ("field on box",)}
        assert names == {"field on box"}
        announcer.wait_for("yard on box", SOON_S)
        announcer.tell([yard])
        observer.wait_for("removed", "field on box")
        assert browsed(neighbour) == {"yard on box ws://10.9.0.1:4985/db"}


# --- strangers -----------------------------------------------------------------------------

FLOOD = """
import socket, struct, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
sender.bind((sys.argv[1], 0))
TYPE = bytes([9]) + b"_edgesync" + bytes([4]) + b"_tcp" + bytes([5]) + b"local" + bytes(1)
POINTER = bytes([0xC0, 12])  # to the type, in the question
LIVES = struct.pack("!HHIH", 12, 1, 4500, 11)
for number in range(10000):
    records = b"".join(
        POINTER + LIVES + b"\\x08%08x" % (number * 40 + each) + POINTER for each in range(40)
    )
    answers = struct.pack("!6H", 0, 0x8400, 1, 40, 0, 0) + TYPE + bytes([0, 12, 0, 1]) + records
    unfinished = struct.pack("!6H", number, 0x0200, 1, 0, 0, 0) + TYPE + bytes([0, 12, 0, 1])
    broken = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + TYPE + struct.pack("!HH", 0xC000, number)
    for each in (answers, unfinished + bytes(1000), broken):
        sender.sendto(each, ("224.0.0.251", 5353))
print("done", flush=True)
"""


def test_a_flood_costs_neither_memory_nor_the_announcement(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with announcing(box, "box", listener()) as program:
        named(program, "field on box")
        before_bytes = program.memory_bytes()
        with neighbour.program("-c", FLOOD, HERE) as flood:
            flood.wait_for("done", 60.0)
            flood.end()
        assert program.memory_bytes() - before_bytes < 16 * MIB
        program.wait_for("too much mDNS traffic on eth0")
        assert "field on box ws://10.9.0.1:4984/db" in browsed(neighbour)
