"""A listener is where its interface is, within 5 s, and disturbs nobody when it moves."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable

import pytest

from tests.network.boxes import SOON_S, Box, Program, Switch

pytestmark = pytest.mark.needs_root

ON_ETH0 = '[listener.field]\ninterface = "eth0"\ndisable_tls = true\nadvertise = false\n'
PORT = 4984
UPGRADE = (
    b"GET /db/_blipsync HTTP/1.1\r\nHost: edgesync\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: BLIP_3+CBMobile_3\r\n\r\n"
)
PING = b"\x89\x80abcd"
PONG = b"\x8a\x00"


class Client:
    """A client that is past the upgrade."""

    def __init__(self, box: Box, host: str, port: int = PORT) -> None:
        self._socket = box.do(lambda: socket.create_connection((host, port), timeout=5))
        self._socket.sendall(UPGRADE)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._socket.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def is_served(self) -> bool:
        self._socket.sendall(PING)
        return self._socket.recv(2) == PONG

    def close(self) -> None:
        self._socket.close()


def can_connect(box: Box, host: str, port: int = PORT) -> bool:
    try:
        box.do(lambda: socket.create_connection((host, port), timeout=1)).close()
    except OSError:
        return False
    return True


def starts(service: Program, url: str) -> None:
    """Wait for a URL that may be served already, or as soon as IPv6 has checked its address."""
    if re.search(rf'"field" serves {url}$', service.log, re.M) is None:
        serves(service, url)


def serves(service: Program, url: str) -> None:
    service.wait_for(rf'"field" serves {url}$', SOON_S)


def waits(service: Program, missing: str) -> None:
    service.wait_for(rf'"field" waits for {missing}$', SOON_S)


def test_a_listener_waits_for_an_interface_that_is_not_there(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    with box.serving(ON_ETH0) as service:
        assert 'listener "field": waits for the interface "eth0", which is not there' in service.log
        box.plug("eth0", switch, "10.9.0.1/24")
        serves(service, "ws://10.9.0.1:4984/db")
        assert can_connect(neighbour, "10.9.0.1")


def test_a_listener_waits_for_an_interface_that_has_no_address(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch)
    box.ip("link", "set", "eth0", "addrgenmode", "none", "down")
    with box.serving(ON_ETH0) as service:
        assert 'waits for an address of the interface "eth0"' in service.log
        box.ip("link", "set", "eth0", "up")
        box.add("eth0", "10.9.0.1/24")
        serves(service, "ws://10.9.0.1:4984/db")


def test_a_listener_follows_to_a_new_address(box: Box, neighbour: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(ON_ETH0) as service:
        box.ip("address", "flush", "dev", "eth0")
        waits(service, 'an address of the interface "eth0"')
        box.add("eth0", "10.9.0.7/24")
        serves(service, "ws://10.9.0.7:4984/db")
        assert can_connect(neighbour, "10.9.0.7")


def test_a_listener_waits_while_its_interface_is_down(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(ON_ETH0) as service:
        box.ip("link", "set", "eth0", "down")
        waits(service, 'the interface "eth0", which is down')
        box.ip("link", "set", "eth0", "up")
        serves(service, "ws://10.9.0.1:4984/db")
        assert can_connect(neighbour, "10.9.0.1")


def test_a_listener_survives_that_its_interface_is_removed(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(ON_ETH0) as service:
        box.ip("link", "del", "eth0")
        waits(service, 'the interface "eth0", which is not there')
        box.plug("eth0", switch, "10.9.0.2/24")
        serves(service, "ws://10.9.0.2:4984/db")


def test_a_connection_survives_that_its_address_goes_and_comes_back(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(ON_ETH0) as service:
        client = Client(neighbour, "10.9.0.1")
        box.ip("address", "flush", "dev", "eth0")
        waits(service, 'an address of the interface "eth0"')
        box.add("eth0", "10.9.0.1/24")
        serves(service, "ws://10.9.0.1:4984/db")
        assert client.is_served()
        client.close()


def test_a_connection_stays_while_new_clients_go_to_another_address(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    box.plug("eth0", switch, "fd09::1/64")
    with box.serving(ON_ETH0) as service:
        starts(service, r"ws://\[fd09::1\]:4984/db")
        client = Client(neighbour, "fd09::1")
        box.add("eth0", "10.9.0.1/24")
        serves(service, "ws://10.9.0.1:4984/db")
        assert client.is_served()
        client.close()


def test_other_listeners_are_not_disturbed(
    box: Box, neighbour: Box, switch: Switch, make_switch: Callable[[], Switch]
) -> None:
    box.plug("eth0", make_switch(), "10.8.0.1/24")
    box.plug("eth1", switch, "10.9.0.1/24")
    other = ON_ETH0.replace("field", "yard").replace("eth0", "eth1")
    with box.serving(f"{ON_ETH0}{other}port = 4985\n") as service:
        client = Client(neighbour, "10.9.0.1", 4985)
        box.ip("link", "set", "eth0", "down")
        waits(service, 'the interface "eth0", which is down')
        assert client.is_served()
        assert can_connect(neighbour, "10.9.0.1", 4985)
        box.ip("link", "del", "eth0")
        waits(service, 'the interface "eth0", which is not there')
        assert client.is_served()
        assert service.log.count('listener "yard" serves') == 1
        client.close()


def test_an_interface_may_have_ipv6_only(box: Box, neighbour: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "fd09::1/64")
    with box.serving(ON_ETH0) as service:
        starts(service, r"ws://\[fd09::1\]:4984/db")
        assert can_connect(neighbour, "fd09::1")


def test_a_link_local_address_serves_until_there_is_a_better_one(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch)
    with box.serving(ON_ETH0) as service:
        starts(service, r"ws://\[fe80::[0-9a-f:]+%eth0\]:4984/db")
        box.add("eth0", "10.9.0.1/24")
        serves(service, "ws://10.9.0.1:4984/db")


def test_a_further_address_does_not_move_a_listener(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    box.plug("eth0", switch, "10.9.0.5/24")
    with box.serving(ON_ETH0) as service:
        starts(service, "ws://10.9.0.5:4984/db")
        box.add("eth0", "10.9.0.1/24")
        assert not [line for line in service.heard(1.0) if "serves" in line]
        assert can_connect(neighbour, "10.9.0.5")


def test_the_next_address_serves_when_the_first_is_removed(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.5/32", "10.9.0.6/32")
    with box.serving(ON_ETH0) as service:
        starts(service, "ws://10.9.0.5:4984/db")
        box.drop("eth0", "10.9.0.5/32")
        serves(service, "ws://10.9.0.6:4984/db")


def test_a_listener_waits_for_its_address(box: Box, neighbour: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(ON_ETH0.replace("eth0", "10.9.0.7")) as service:
        assert "waits for the address 10.9.0.7, which no interface has" in service.log
        box.add("eth0", "10.9.0.7/24")
        serves(service, "ws://10.9.0.7:4984/db")
        assert can_connect(neighbour, "10.9.0.7")
        assert not can_connect(neighbour, "10.9.0.1")


def test_a_listener_on_all_interfaces_takes_in_new_ones(
    box: Box, neighbour: Box, switch: Switch
) -> None:
    everywhere = "[listener.field]\ndisable_tls = true\nadvertise = false\n"
    with box.serving(everywhere) as service:
        box.plug("eth0", switch, "10.9.0.1/24", "10.9.0.2/24", "fd09::1/64")
        urls = ["ws://10.9.0.1:4984/db", "ws://10.9.0.2:4984/db", r"ws://\[fd09::1\]:4984/db"]
        serves(service, " ".join([*urls, "ws://127.0.0.1:4984/db", r"ws://\[::1\]:4984/db"]))
        assert can_connect(neighbour, "10.9.0.2")
        assert can_connect(neighbour, "fd09::1")


def test_a_port_that_was_free_stays_the_same(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24")
    with box.serving(f"{ON_ETH0}port = 0\n") as service:
        found = re.search(r'"field" serves ws://10.9.0.1:(\d+)/', service.log)
        assert found is not None
        box.drop("eth0", "10.9.0.1/24")
        box.add("eth0", "10.9.0.2/24")
        serves(service, f"ws://10.9.0.2:{found[1]}/db")


def test_a_listener_waits_for_a_port_that_another_program_has(box: Box, switch: Switch) -> None:
    box.plug("eth0", switch, "10.9.0.1/24", "10.9.0.2/32")
    other = box.do(lambda: socket.create_server(("10.9.0.2", PORT)))
    with other, box.serving(ON_ETH0) as service:
        starts(service, "ws://10.9.0.1:4984/db")
        box.drop("eth0", "10.9.0.1/24")
        waits(service, "port 4984 on 10.9.0.2 is in use")
        other.close()
        serves(service, "ws://10.9.0.2:4984/db")


def test_a_waiting_service_stops_at_once(box: Box) -> None:
    with box.serving(ON_ETH0) as service:
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < SOON_S
