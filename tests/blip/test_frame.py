"""Varints, headers, checksum, deflate. Spec: blip.md §2.1, §3."""

from __future__ import annotations

import os
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.blip.frame import (
    ACK_OF_REPLY,
    ACK_OF_REQUEST,
    COMPRESSED,
    PIECE_BYTES,
    TYPE_MASK,
    FrameDecoder,
    FrameEncoder,
    capacity,
    decode_varint,
    encode_ack,
    encode_varint,
    header_bytes,
    parse_header,
)
from edgesync.errors import ProtocolError
from edgesync.limits import Limits
from tests.blip.wire import FramePeer, vectors

VARINTS = vectors("varint.json")
SCENARIOS = vectors("blip_frames.json")["scenarios"]


def decode(decoder: FrameDecoder, frame: bytes) -> list[bytes]:
    pieces = [decoder.begin(frame, parse_header(frame))]
    while decoder.is_midway:
        pieces.append(decoder.go_on())
    return pieces


@pytest.mark.parametrize("case", VARINTS["valid"], ids=lambda case: case["value"])
def test_varint_of_the_vectors(case: Any) -> None:
    data = bytes.fromhex(case["hex"])
    assert encode_varint(int(case["value"])) == data
    assert decode_varint(data, 0) == (int(case["value"]), len(data))
    assert decode_varint(b"\xff" + data + b"\xff", 1) == (int(case["value"]), 1 + len(data))


@pytest.mark.parametrize("case", VARINTS["valid"], ids=lambda case: case["value"])
def test_varint_cut_anywhere_is_refused(case: Any) -> None:
    data = bytes.fromhex(case["hex"])
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_varint(data[:end], 0)


@pytest.mark.parametrize("case", VARINTS["invalid"], ids=lambda case: case["why"])
def test_invalid_varint_is_refused(case: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_varint(bytes.fromhex(case["hex"]), 0)


@given(st.integers(0, 2**64 - 1))
def test_decoding_undoes_encoding_a_varint(value: int) -> None:
    data = encode_varint(value)
    assert decode_varint(data, 0) == (value, len(data))
    assert header_bytes(value) == len(data) + 1


def test_varint_above_64_bits_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_varint(encode_varint(2**64), 0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_decoder_reads_the_frames_of_the_vectors(scenario: Any) -> None:
    decoder = FrameDecoder(Limits())
    for case in scenario["frames"]:
        frame = bytes.fromhex(case["hex"])
        header = parse_header(frame)
        assert (header.number, header.flags) == (case["number"], int(case["flags_hex"], 16))
        if header.flags & TYPE_MASK in (ACK_OF_REQUEST, ACK_OF_REPLY):
            count = case["ack_byte_count"]
            assert frame == encode_ack(header.number, header.flags & TYPE_MASK, count)
            continue
        assert b"".join(decode(decoder, frame)) == bytes.fromhex(case["payload_hex"])
        assert len(frame) - header.payload_start == case["flow_control_bytes"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_encoder_makes_the_frames_of_the_vectors(scenario: Any) -> None:
    encoder, decoder = FrameEncoder(), FrameDecoder(Limits())
    for case in scenario["frames"]:
        if "payload_hex" not in case:
            continue
        flags, payload = int(case["flags_hex"], 16), bytes.fromhex(case["payload_hex"])
        frame = encoder.encode(case["number"], flags, payload)
        assert decode(decoder, frame) == [payload]
        assert frame[-4:].hex() == case["crc_hex"]
        if not flags & COMPRESSED:
            assert frame.hex() == case["hex"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_frame_with_a_tail_or_cut_short_is_refused(scenario: Any) -> None:
    case = scenario["frames"][0]
    frame = bytes.fromhex(case["hex"])
    for damaged in [frame + b"\x00", *(frame[:end] for end in range(len(frame)))]:
        with pytest.raises(ProtocolError):
            decode(FrameDecoder(Limits()), damaged)


@pytest.mark.parametrize("flags", [0, COMPRESSED])
def test_payload_comes_in_pieces_of_64_kib(flags: int) -> None:
    payload = os.urandom(1000) * 300
    frame = FramePeer().frame(1, flags, payload)
    pieces = decode(FrameDecoder(Limits()), frame)
    assert b"".join(pieces) == payload
    assert {len(piece) for piece in pieces[:-1]} == {PIECE_BYTES}


@pytest.mark.parametrize("flags", [0, COMPRESSED])
@pytest.mark.parametrize("length", [PIECE_BYTES - 1, PIECE_BYTES])
def test_payload_of_64_kib_is_one_piece(flags: int, length: int) -> None:
    assert len(decode(FrameDecoder(Limits()), FramePeer().frame(1, flags, bytes(length)))) == 1


@pytest.mark.parametrize("times", [2, 3])
def test_payload_of_whole_pieces_has_no_empty_one(times: int) -> None:
    frame = FramePeer().frame(1, COMPRESSED, bytes(times * PIECE_BYTES))
    pieces = decode(FrameDecoder(Limits()), frame)
    assert [len(piece) for piece in pieces] == [PIECE_BYTES] * times


def test_compressed_frame_above_64_kib_is_read() -> None:
    payload = os.urandom(500_000)
    frame = FramePeer().frame(1, COMPRESSED, payload)
    assert b"".join(decode(FrameDecoder(Limits()), frame)) == payload


def test_flushes_within_a_frame_are_read() -> None:
    deflater = zlib.compressobj(6, wbits=-15)
    parts = [deflater.compress(b"part") + deflater.flush(zlib.Z_SYNC_FLUSH) for _ in range(3)]
    frame = b"\x01\x08" + b"".join(parts)[:-4] + zlib.crc32(b"part" * 3).to_bytes(4, "big")
    assert decode(FrameDecoder(Limits()), frame) == [b"part" * 3]


def test_end_of_the_deflate_stream_is_refused() -> None:
    deflater = zlib.compressobj(6, wbits=-15)
    data = deflater.compress(b"the end") + deflater.flush(zlib.Z_FINISH)
    with pytest.raises(ProtocolError, match="ends the deflate stream"):
        decode(
            FrameDecoder(Limits()), b"\x01\x08" + data + zlib.crc32(b"the end").to_bytes(4, "big")
        )


def test_checksum_of_a_long_frame_is_checked_at_its_end() -> None:
    frame = FramePeer().frame(1, COMPRESSED, bytes(PIECE_BYTES + 1))
    decoder = FrameDecoder(Limits())
    damaged = frame[:-1] + bytes([frame[-1] ^ 1])
    decoder.begin(damaged, parse_header(damaged))
    with pytest.raises(ProtocolError, match="checksum"):
        decoder.go_on()


def test_frame_above_the_limit_is_refused() -> None:
    peer, limits = FramePeer(), Limits(max_frame_bytes=1000)
    decoder = FrameDecoder(limits)
    assert decode(decoder, peer.frame(1, 0, bytes(994)))
    with pytest.raises(ProtocolError, match="limit 1000"):
        decode(decoder, peer.frame(1, 0, bytes(995)))


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=300)), max_size=20))
def test_decoder_undoes_encoder(frames: list[tuple[bool, bytes]]) -> None:
    encoder, decoder = FrameEncoder(), FrameDecoder(Limits())
    for compressed, payload in frames:
        frame = encoder.encode(1, COMPRESSED * compressed, payload)
        assert decode(decoder, frame) == [payload]


def test_stream_goes_on_after_a_rest() -> None:
    encoder, decoder = FrameEncoder(), FrameDecoder(Limits())
    for number in range(1, 5):
        payload = b"boiler valve pump " * 20 * number
        assert decode(decoder, encoder.encode(number, COMPRESSED, payload)) == [payload]
        if number % 2:
            encoder.rest()


@pytest.mark.parametrize("frame_bytes", [4096, 16384])
def test_random_data_fits_a_compressed_frame(frame_bytes: int) -> None:
    encoder = FrameEncoder()
    number = 2**64 - 1
    for _ in range(20):
        payload = os.urandom(capacity(number, COMPRESSED, frame_bytes))
        assert len(encoder.encode(number, COMPRESSED, payload)) <= frame_bytes
