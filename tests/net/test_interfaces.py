"""What a listener binds, and what it tells people."""

from __future__ import annotations

import pytest

from edgesync.errors import UnknownInterfaceError
from edgesync.net.interfaces import addresses_to_bind, interfaces, url_hosts


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
