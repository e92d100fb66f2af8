"""What is announced where, and what is made of the announcements of strangers."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from edgesync.limits import Limits
from edgesync.net.announcements import (
    AUTHENTICATIONS,
    Advertisement,
    Service,
    discovered,
    instance_name,
    plan,
    text,
)
from edgesync.net.interfaces import Interface
from edgesync.net.mdns import Advertiser

ETH0 = Interface(
    "eth0", True, ("10.9.0.1", "10.9.0.2", "fd09::1", "fe80::1%eth0"), has_multicast=True
)
WLAN0 = Interface("wlan0", True, ("10.8.0.1",), link_changes=2, has_multicast=True)
LO = Interface("lo", True, ("127.0.0.1", "::1"))
DIGEST = hashlib.sha256(b"a certificate").digest()
SAID = {
    "txtvers": "1",
    "path": "/db",
    "tls": "1",
    "fp": "TYzJwQ0gTHoxLmL6dNVJ9gYUwfJ2NJPSsUrGMXnQNmQ",
    "auth": "password",
    "cbmobile": "2,3",
}


def advertised(*addresses: str, listener: str = "field") -> Advertisement:
    return Advertisement(
        listener=listener,
        database="db",
        port=4984,
        addresses=addresses or ("::",),
        fingerprint=DIGEST,
        authentication="password",
        protocols=(3, 2),
    )


def announced(advertisement: Advertisement, *found: Interface) -> dict[str, tuple[Service, ...]]:
    wanted = plan([advertisement], found, "box")
    return {interface: each.services for interface, each in wanted.items()}


# --- TXT ---------------------------------------------------------------------------


def test_the_text_says_how_to_connect() -> None:
    assert dict(text(advertised())) == {
        "txtvers": "1",
        "path": "/db",
        "tls": "1",
        "auth": "password",
        "cbmobile": "2,3",
        "fp": dict(text(advertised()))["fp"],
    }


def test_the_text_begins_with_its_version() -> None:
    assert text(advertised())[0] == ("txtvers", "1")


def test_a_listener_without_tls_has_no_fingerprint() -> None:
    plain = Advertisement("field", "db", 4984, ("::",), None, "none", (3,))
    said = dict(text(plain))
    assert said["tls"] == "0"
    assert "fp" not in said


def test_what_is_announced_is_understood() -> None:
    found = discovered("field on box", ("10.9.0.1",), 4984, dict(text(advertised())))
    assert found is not None
    assert (found.database, found.fingerprint, found.authentication, found.protocols) == (
        "db",
        DIGEST,
        "password",
        (2, 3),
    )
    assert found.urls == ("wss://10.9.0.1:4984/db",)


# --- where -------------------------------------------------------------------------


def test_a_listener_on_all_interfaces_has_on_each_the_addresses_of_that() -> None:
    found = announced(advertised("::"), ETH0, WLAN0)
    assert found["eth0"][0].addresses == ("10.9.0.1", "10.9.0.2", "fd09::1")
    assert found["wlan0"][0].addresses == ("10.8.0.1",)


def test_a_listener_on_all_of_ipv4_has_no_ipv6_addresses() -> None:
    assert announced(advertised("0.0.0.0"), ETH0)["eth0"][0].addresses == ("10.9.0.1", "10.9.0.2")


def test_a_listener_on_an_address_is_announced_on_its_interface_only() -> None:
    found = announced(advertised("10.9.0.2"), ETH0, WLAN0)
    assert found.keys() == {"eth0"}
    assert found["eth0"][0].addresses == ("10.9.0.2",)


def test_a_link_local_address_is_announced_if_there_is_no_other() -> None:
    assert announced(advertised("fe80::1%eth0"), ETH0)["eth0"][0].addresses == ("fe80::1",)


def test_nothing_is_announced_on_loopback() -> None:
    assert announced(advertised("127.0.0.1"), LO) == {}


def test_nothing_is_announced_without_a_link() -> None:
    assert announced(advertised("::"), WLAN0._replace(has_link=False)) == {}


def test_nothing_is_announced_on_an_interface_that_is_down() -> None:
    assert announced(advertised("::"), WLAN0._replace(is_up=False)) == {}


def test_all_listeners_of_an_interface_share_a_responder() -> None:
    both = [advertised("::"), advertised("10.8.0.1", listener="yard")]
    (wanted,) = plan(both, [WLAN0], "box").values()
    assert [each.label for each in wanted.services] == ["field on box", "yard on box"]


def test_a_moved_cable_needs_another_responder() -> None:
    before = plan([advertised()], [WLAN0], "box")["wlan0"].place
    after = plan([advertised()], [WLAN0._replace(link_changes=4)], "box")["wlan0"].place
    assert before != after


def test_hosts_with_other_addresses_have_other_names() -> None:
    (one,), (other,) = announced(advertised(), ETH0, WLAN0).values()
    assert one.server != other.server


def test_names_on_all_interfaces_are_known_as_our_own() -> None:
    wanted = plan([advertised()], [ETH0, WLAN0], "box")
    servers = {each.services[0].server for each in wanted.values()}
    assert all(each.own_servers == servers for each in wanted.values())


# --- names -------------------------------------------------------------------------


def test_a_dot_in_a_listeners_name_separates_no_labels() -> None:
    (service,) = announced(advertised(listener="a.b"), WLAN0)["wlan0"]
    assert service.label == "a-b on box"


def test_the_first_name_has_no_number() -> None:
    assert instance_name("field on box", 1) == "field on box"
    assert instance_name("field on box", 2) == "field on box (2)"


@given(st.text(min_size=1), st.integers(1, 20))
def test_a_name_is_never_longer_than_dns_allows(label: str, number: int) -> None:
    assert len(instance_name(label, number).encode()) <= 63


@given(st.text(alphabet="äx", min_size=40, max_size=70))
def test_a_long_name_keeps_its_number(label: str) -> None:
    assert instance_name(label, 12).endswith(" (12)")


# --- strangers ----------------------------------------------------------------------


def test_a_stranger_without_address_is_left_out() -> None:
    assert discovered("x", (), 4984, SAID) is None


def test_a_stranger_without_port_is_left_out() -> None:
    assert discovered("x", ("10.0.0.1",), None, SAID) is None


def test_a_stranger_without_database_is_left_out() -> None:
    assert discovered("x", ("10.0.0.1",), 4984, {**SAID, "path": None}) is None


def test_a_stranger_whose_name_would_move_the_cursor_is_left_out() -> None:
    assert discovered("\x1b[2J", ("10.0.0.1",), 4984, SAID) is None


def test_a_fingerprint_of_another_length_is_none() -> None:
    found = discovered("x", ("10.0.0.1",), 4984, {**SAID, "fp": "AAAA"})
    assert found is not None
    assert found.fingerprint is None


def test_an_ipv6_address_comes_in_brackets() -> None:
    found = discovered("x", ("fd00::1",), 4984, {**SAID, "tls": "0"})
    assert found is not None
    assert found.urls == ("ws://[fd00::1]:4984/db",)


@given(st.text(), st.dictionaries(st.sampled_from(list(SAID)), st.none() | st.text()))
def test_noise_is_left_out_or_made_harmless(name: str, said: dict[str, str | None]) -> None:
    found = discovered(name, ("10.0.0.1",), 4984, said)
    if found is not None:
        assert f"{found.name}{found.database}".isprintable()
        assert found.authentication in ("", *AUTHENTICATIONS)


# --- the advertiser -------------------------------------------------------------------


def test_an_advertiser_with_nothing_to_say_stops_at_once() -> None:
    advertiser = Advertiser("box", Limits())
    advertiser.update([advertised("127.0.0.1")])
    assert advertiser.names == {}
    advertiser.stop()
