"""What a listener binds, and what it tells people."""

from __future__ import annotations

import time

import pytest

from edgesync.errors import UnknownInterfaceError
from edgesync.net.interfaces import (
    InterfaceChanges,
    addresses_to_bind,
    interfaces,
    url_hosts,
    what_is_missing,
)


def test_no_interface_means_all_of_them() -> None:
    assert addresses_to_bind(None) in (("::",), ("0.0.0.0",))


def test_name_means_its_primary_address() -> None:
    assert addresses_to_bind("lo") == ("127.0.0.1",)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "203.0.113.7", "fe80::1%eth0"])
def test_address_means_itself(address: str) -> None:
    assert addresses_to_bind(address) == (address,)


@pytest.mark.parametrize("name", ["1.1.1.256", "nosuch0", ""])
def test_unknown_interface_is_named_beside_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownInterfaceError, match=f'"{name}"') as raised:
        addresses_to_bind(name)
    assert "lo (127.0.0.1" in raised.value.hint


def test_one_address_is_the_only_host() -> None:
    assert url_hosts(("192.168.1.5",)) == ("192.168.1.5",)


def test_ipv6_address_comes_in_brackets() -> None:
    assert url_hosts(("fd00::1",)) == ("[fd00::1]",)


def test_hosts_of_all_interfaces_include_loopback_and_no_zone() -> None:
    hosts = url_hosts(("::",))
    assert "127.0.0.1" in hosts
    assert not [host for host in hosts if "%" in host]


def test_ipv4_wildcard_has_no_ipv6_hosts() -> None:
    assert not [host for host in url_hosts(("0.0.0.0",)) if ":" in host]


def test_addresses_of_an_interface_are_ipv4_first() -> None:
    for interface in interfaces():
        has_colon = [":" in address for address in interface.addresses]
        assert has_colon == sorted(has_colon)


def test_a_bound_address_stays_while_its_interface_has_it() -> None:
    assert addresses_to_bind("lo", ("127.0.0.1",)) == ("127.0.0.1",)


def test_a_bound_address_that_is_gone_is_left() -> None:
    assert addresses_to_bind("lo", ("127.0.0.9",)) == ("127.0.0.1",)


def test_a_makeshift_is_left_for_a_better_kind_of_address() -> None:
    assert addresses_to_bind("lo", ("::1",)) == ("127.0.0.1",)


def test_all_interfaces_stay_all_interfaces() -> None:
    assert addresses_to_bind(None, ("0.0.0.0",)) == ("0.0.0.0",)


@pytest.mark.parametrize("present", [None, "lo", "127.0.0.1", "127.0.0.2", "0.0.0.0"])
def test_nothing_is_missing_of_what_can_be_bound(present: str | None) -> None:
    assert what_is_missing(present) == ""


@pytest.mark.parametrize(
    ("absent", "missing"),
    [
        ("nosuch0", 'the interface "nosuch0", which is not there'),
        ("203.0.113.7", "the address 203.0.113.7, which no interface has"),
    ],
)
def test_what_is_missing_is_said_in_words(absent: str, missing: str) -> None:
    assert what_is_missing(absent) == missing


def test_loopback_has_no_neighbours() -> None:
    (loopback,) = [each for each in interfaces() if each.name == "lo"]
    assert (loopback.is_up, loopback.has_multicast) == (True, False)


def test_waiting_for_changes_ends_without_one() -> None:
    with InterfaceChanges() as changes:
        began = time.monotonic()
        changes.wait(0.05)
        assert 0.04 < time.monotonic() - began < 5
