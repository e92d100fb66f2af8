"""What the gate before a responder lets in."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from edgesync.limits import Limits
from edgesync.net.mdns_gate import Address, Allowance, Gate

SENDER = ("10.9.0.9", 5353)
HEADER = bytes(12)
OURS = HEADER + b"\x09_edgesync\x04_tcp\x05local\0\0\x0c\0\x01"
LIMITS = replace(
    Limits(), max_mdns_bytes_per_s=1000, max_mdns_burst_bytes=3000, max_mdns_remembered_bytes=1000
)


class Responder(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.forgot = 0
        self.now_s = 0.0
        allowance = Allowance(LIMITS.max_mdns_bytes_per_s, LIMITS.max_mdns_burst_bytes)
        self.gate = Gate(self, allowance, self.forget, LIMITS, lambda: self.now_s, "wlan0")

    def datagram_received(self, data: bytes, addr: Address) -> None:
        assert addr == SENDER
        if data.endswith(b"BREAKS"):
            raise RecursionError
        self.heard.append(data)

    def forget(self) -> None:
        self.forgot += 1

    def send(self, data: bytes) -> None:
        self.gate.datagram_received(data, SENDER)


@pytest.fixture
def responder() -> Responder:
    return Responder()


@pytest.mark.parametrize(
    "packet",
    [
        OURS,
        OURS.upper(),
        HEADER + b"\x09_services\x07_dns-sd\x04_udp\x05local\0\0\x0c\0\x01",
        HEADER + b"\x19edgesync-0123456789abcdef\x05local\0\0\x01\0\x01",
    ],
)
def test_what_concerns_us_passes(responder: Responder, packet: bytes) -> None:
    responder.send(packet)
    assert responder.heard == [packet]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        HEADER[:-1],
        HEADER,
        HEADER + b"\x08_airplay\x04_tcp\x05local\0\0\x0c\0\x01",
        OURS + bytes(9000 - len(OURS) + 1),
    ],
)
def test_what_does_not_concern_us_is_dropped(responder: Responder, packet: bytes) -> None:
    responder.send(packet)
    assert responder.heard == []


def test_the_largest_packet_there_is_passes_if_the_allowance_is_enough() -> None:
    responder = Responder()
    limits = Limits()
    allowance = Allowance(limits.max_mdns_bytes_per_s, limits.max_mdns_burst_bytes)
    gate = Gate(responder, allowance, responder.forget, limits, lambda: 0.0, "wlan0")
    gate.datagram_received(OURS + bytes(9000 - len(OURS)), SENDER)
    assert len(responder.heard) == 1


def test_a_truncated_question_is_answered_at_once_and_not_kept(responder: Responder) -> None:
    responder.send(OURS[:2] + b"\x02" + OURS[3:])
    assert responder.heard == [OURS]


def test_a_packet_that_breaks_the_parser_is_dropped(responder: Responder) -> None:
    responder.send(OURS + b"BREAKS")
    responder.send(OURS)
    assert responder.heard == [OURS]


def test_no_more_passes_than_the_allowance(responder: Responder) -> None:
    for _ in range(1000):
        responder.send(OURS)
    assert len(responder.heard) == LIMITS.max_mdns_burst_bytes // len(OURS)
    heard_before = len(responder.heard)
    responder.now_s = 1.0
    for _ in range(1000):
        responder.send(OURS)
    passed = (len(responder.heard) - heard_before) * len(OURS)
    assert 0 <= LIMITS.max_mdns_bytes_per_s + len(OURS) - passed <= 2 * len(OURS)


def test_a_flood_is_told_of_once(responder: Responder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            responder.send(OURS)
    assert caplog.messages == ["too much mDNS traffic on wlan0; some is not looked at"]


def test_what_was_heard_is_forgotten_after_so_much(responder: Responder) -> None:
    sent = 0
    while len(responder.heard) * len(OURS) <= LIMITS.max_mdns_remembered_bytes:
        assert responder.forgot == 0
        responder.send(OURS)
        sent += 1
    assert responder.forgot == 1
    assert len(responder.heard) == sent
