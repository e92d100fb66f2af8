"""Boxes and switches that are gone after the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.network.boxes import Box, Namespace, Observer, Switch

MakeBox = Callable[[], Box]
Observe = Callable[[Box, str], Observer]


@pytest.fixture(scope="session")
def _networks_can_be_made() -> None:
    if reason := why_no_networks():
        pytest.skip(reason)


def why_no_networks() -> str:
    """Return what this machine lacks to make networks, "" if it can."""
    if shutil.which("ip") is None:
        return "needs the command ip, of iproute2"
    try:
        place = Namespace()
    except AssertionError as error:
        return f"needs network namespaces: {error}"
    try:
        place.ip("link", "add", "br0", "type", "bridge")
        place.ip("link", "add", "eth0", "type", "veth", "peer", "eth1")
    except AssertionError as error:
        return f"needs bridges and veth pairs: {error}"
    finally:
        place.remove()
    return ""


@pytest.fixture
def _things(_networks_can_be_made: None) -> Iterator[ExitStack]:
    with ExitStack() as things:
        yield things


@pytest.fixture
def make_switch(_things: ExitStack) -> Callable[[], Switch]:
    def make() -> Switch:
        switch = Switch()
        _things.callback(switch.remove)
        return switch

    return make


@pytest.fixture
def switch(make_switch: Callable[[], Switch]) -> Switch:
    return make_switch()


@pytest.fixture
def make_box(_things: ExitStack, tmp_path: Path) -> MakeBox:
    def make() -> Box:
        box = Box(tmp_path)
        _things.callback(box.remove)
        return box

    return make


@pytest.fixture
def box(make_box: MakeBox) -> Box:
    """Return the box that serves."""
    return make_box()


@pytest.fixture
def neighbour(make_box: MakeBox, switch: Switch) -> Box:
    """Return a box in the same network, where clients are."""
    neighbour = make_box()
    neighbour.plug("eth0", switch, "10.9.0.100/24", "fd09::100/64 nodad")
    return neighbour


@pytest.fixture
def observe(_things: ExitStack) -> Observe:
    """Return a way to see what is announced in a network."""

    def start(box: Box, address: str) -> Observer:
        observer = Observer(box, address)
        _things.callback(observer.kill)
        return observer

    return start
