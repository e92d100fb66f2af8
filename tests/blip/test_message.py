"""Properties, and messages of ours. Spec: blip.md §2.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.blip.frame import decode_varint
from edgesync.blip.message import (
    IncomingMessage,
    OutgoingMessage,
    bool_property,
    decode_properties,
    encode_properties,
    int_property,
)
from edgesync.errors import ProtocolError

strings = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)


@given(st.dictionaries(strings, strings))
def test_decoding_undoes_encoding_properties(properties: dict[str, str]) -> None:
    head = encode_properties(properties)
    length, start = decode_varint(head, 0)
    assert start + length == len(head)
    assert list(decode_properties(head[start:], 256).items()) == list(properties.items())


def test_first_of_equal_keys_counts() -> None:
    assert decode_properties(b"a\x001\x00b\x002\x00a\x003\x00", 256) == {"a": "1", "b": "2"}


def test_empty_value_is_kept() -> None:
    assert decode_properties(b"rev\x00\x00", 256) == {"rev": ""}


@pytest.mark.parametrize(
    "block",
    [b"a", b"a\x00b", b"a\x00", b"a\x00b\x00c\x00", b"\xff\x00b\x00", b"\xed\xa0\x80\x00b\x00"],
    ids=repr,
)
def test_malformed_properties_are_refused(block: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_properties(block, 256)


def test_number_of_properties_is_limited() -> None:
    assert len(decode_properties(b"a\x00\x00b\x00\x00", 2)) == 2
    with pytest.raises(ProtocolError, match="limit 2"):
        decode_properties(b"a\x00\x00b\x00\x00a\x00\x00", 2)


@pytest.mark.parametrize("properties", [{"a\0": "b"}, {"a": "\0"}, {"a": "\ud800"}], ids=repr)
def test_unsendable_property_is_a_value_error(properties: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        encode_properties(properties)


@pytest.mark.parametrize("value", ["true", "TRUE", "yes", "YES", "1", "-1", "+7", "01"])
def test_property_is_true(value: str) -> None:
    assert bool_property({"flag": value}, "flag")


@pytest.mark.parametrize("value", ["false", "NO", "0", "-0", "", "on", "1x", " 1", "truest"])
def test_property_is_false(value: str) -> None:
    assert not bool_property({"flag": value}, "flag")


def test_missing_property_is_false() -> None:
    assert not bool_property({}, "flag")


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), ("200", 200), ("-5", -5), ("+5", 5), ("9223372036854775807", 2**63 - 1)],
)
def test_integer_property(value: str, number: int) -> None:
    assert int_property({"n": value}, "n") == number


@pytest.mark.parametrize(
    "value", ["", "-", "1.0", " 1", "1\n", "0x10", "1_000", "٣", "9223372036854775808", "9" * 9999]
)
def test_no_integer_counts_as_missing(value: str) -> None:
    assert int_property({"n": value}, "n") is None


def test_missing_integer_is_none() -> None:
    assert int_property({}, "n") is None


def test_error_reply_tells_domain_and_code() -> None:
    message = IncomingMessage(1, 2, None, 0)
    message.properties = {"Error-Domain": "HTTP", "Error-Code": "404"}
    assert (message.is_error, message.error_domain, message.error_code) == (True, "HTTP", 404)


def test_error_reply_without_domain_is_of_blip() -> None:
    message = IncomingMessage(1, 2, None, 0)
    assert (message.error_domain, message.error_code) == ("BLIP", 0)


def test_request_tells_its_profile() -> None:
    message = IncomingMessage(1, 0, None, 0)
    message.properties = {"Profile": "rev"}
    assert (message.profile, message.is_error) == ("rev", False)


def test_body_that_ended_takes_no_more() -> None:
    message = OutgoingMessage(1, 1, {}, b"", streamed=True)
    message.feed(b"end", True)
    with pytest.raises(RuntimeError, match="ended already"):
        message.feed(b"more", True)


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 60), min_size=300, max_size=300))
def test_payload_is_cut_without_loss(parts: list[bytes], sizes: list[int]) -> None:
    message = OutgoingMessage(1, 1, {"a": "b"}, b"", streamed=True)
    for part in parts:
        message.feed(part, False)
    message.feed(b"", True)
    payload, taken = b"", False
    for size in sizes:
        piece, taken = message.take(size)
        assert len(piece) <= size
        payload += piece
        if taken:
            break
    assert payload == encode_properties({"a": "b"}) + b"".join(parts)[: len(payload) - 5]
    assert taken == (not message.buffered_bytes)
