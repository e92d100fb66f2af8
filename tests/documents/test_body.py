from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.body import (
    BlobDigest,
    BlobRef,
    Body,
    blob_digest,
    encode_body,
    is_blob_digest,
    parse_body,
)
from edgesync.errors import BodyTooLargeError, InvalidBodyError
from edgesync.limits import Limits

VECTORS = Path(__file__).parent.parent / "vectors"
KNOWN_DIGESTS = json.loads((VECTORS / "digests.json").read_bytes())["blob_digests"]

D1 = blob_digest(b"one")
D2 = blob_digest(b"two")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def parse(value: object, limits: Limits | None = None) -> Body:
    return parse_body(orjson.dumps(value), limits or Limits())


def blob(digest: str, **more: object) -> dict[str, object]:
    return {"@type": "blob", "digest": digest, **more}


def digests(value: object) -> list[str]:
    return sorted(ref.digest for ref in parse(value).blobs)


# --- what is stored -------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [b"{}", b' {"b": 1.0, "a": [1e2, "\\u0000", "\xc3\xa9"]}\n', b'{"a":"_x"}'],
)
def test_text_stays_as_it_came(text: bytes) -> None:
    assert parse_body(text, Limits()) == (text, ())


@given(st.dictionaries(st.text().filter(lambda name: not name.startswith("_")), json_values))
def test_value_stays_the_same(value: dict[str, object]) -> None:
    assert orjson.loads(parse(value).text) == value


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b"null", b'"x"', b"{", b"{}x", b"{a:1}", b'{"a":NaN}', b'{"a":1e999}',
     b'{"a":"\\ud800"}', b'{"a":"\xff"}', b"\xef\xbb\xbf{}", b'{"a":"\n"}'],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidBodyError):
        parse_body(text, Limits())


@given(st.binary())
def test_noise_is_refused(noise: bytes) -> None:
    try:
        parse_body(noise, Limits())
    except InvalidBodyError:
        return
    assert isinstance(orjson.loads(noise), dict)


def test_body_of_the_largest_size_is_taken() -> None:
    text = b'{"a":"xxx"}'
    assert parse_body(text, Limits(max_document_bytes=len(text))).text == text


def test_larger_body_is_refused() -> None:
    text = b'{"a":"xxx"}'
    with pytest.raises(BodyTooLargeError):
        parse_body(text, Limits(max_document_bytes=len(text) - 1))


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_hundred_levels_are_taken(opening: bytes, closing: bytes) -> None:
    text = b'{"a":' + opening * 99 + b"1" + closing * 99 + b"}"
    assert parse_body(text, Limits()).text == text


@pytest.mark.parametrize("levels", [100, 500, 1000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deeper_nesting_is_refused(opening: bytes, closing: bytes, levels: int) -> None:
    with pytest.raises(InvalidBodyError):
        parse_body(b'{"a":' + opening * levels + b"1" + closing * levels + b"}", Limits())


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert parse({"a": [[]] * 1000}).text


# --- what is stripped ------------------------------------------------------------


def test_reserved_properties_are_stripped() -> None:
    assert orjson.loads(parse({"_id": "x", "a": 1, "_rev": "1-a", "_": 0}).text) == {"a": 1}


def test_reserved_name_may_not_hide_in_an_escape() -> None:
    assert parse_body(b'{"\\u005Fid":1,"a":2}', Limits()).text == b'{"a":2}'


def test_blob_may_not_hide_in_an_escape() -> None:
    spelled = D1.replace("=", "\\u003d").encode()
    assert [
        blob.digest
        for blob in parse_body(
            b'{"digest":"","b":{"@type":"blob","digest":"%s"}}' % spelled, Limits()
        ).blobs
    ] == [D1]


def test_underscores_below_the_top_level_stay() -> None:
    text = b'{ "a": {"_id": 1} }'
    assert parse_body(text, Limits()).text == text


@pytest.mark.parametrize("name", ["blob_0", "blob_12x"])
def test_numbered_stand_ins_are_removed(name: str) -> None:
    assert parse({"a": 1, "_attachments": {name: {"digest": D1}}}).text == b'{"a":1}'


def test_stand_in_of_a_blob_is_removed() -> None:
    value = {"p": [blob(D1)], "_attachments": {"blob_/p/0": {"digest": D1, "stub": True}}}
    assert orjson.loads(parse(value).text) == {"p": [blob(D1)]}


def test_changed_stand_in_is_copied_into_its_blob() -> None:
    value = {
        "a/b": blob(D1, length=3, content_type="text/plain"),
        "_attachments": {"blob_/a~1b": {"digest": D2, "length": 5, "revpos": 3}},
    }
    body = parse(value)
    assert orjson.loads(body.text) == {"a/b": blob(D2, length=5)}
    assert [ref.digest for ref in body.blobs] == [D2]


@pytest.mark.parametrize(
    "pointer", ["/none", "/a", "/a/7", "/a/x", "/a/0/b", "/a/99999999999", "/"]
)
def test_stand_in_of_nothing_is_an_attachment(pointer: str) -> None:
    value = {"a": [1], "_attachments": {"blob_" + pointer: {"digest": D1}}}
    assert orjson.loads(parse(value).text) == value


def test_attachments_themselves_are_no_blob_that_something_stands_for() -> None:
    value = {"_attachments": {"@type": "blob", "blob_/_attachments": {"digest": D1}}}
    body = parse(value)
    assert orjson.loads(body.text) == value
    assert parse_body(body.text, Limits()) == body


def test_real_attachments_stay_as_they_came() -> None:
    text = b'{ "_attachments": {"notes.txt": {"digest": "%s"}} }' % D1.encode()
    body = parse_body(text, Limits())
    assert body.text == text
    assert [ref.digest for ref in body.blobs] == [D1]


@pytest.mark.parametrize("attachments", [{}, [], 1, None])
def test_attachments_without_entries_are_stripped(attachments: object) -> None:
    assert parse({"_attachments": attachments}).text == b"{}"


@pytest.mark.parametrize(
    "body",
    [{"a": 1, "_id": "x"}, {"a": float("nan")}, {"a": float("-inf")}, {"a": {1, 2}}, {"a": 2**64}],
)
def test_local_bodies_that_may_not_be_stored(body: dict[str, object]) -> None:
    with pytest.raises(InvalidBodyError):
        encode_body(body)


def test_local_bodies_may_hold_what_json_can() -> None:
    body = {"a": {"_id": 1}, "": 2, "c": [None, "null", 1.0, 2**64 - 1]}
    assert orjson.loads(encode_body(body)) == body


# --- blobs -------------------------------------------------------------------------


def test_blobs_are_found_at_any_depth() -> None:
    assert digests({"a": [{"b": blob(D1)}], "c": blob(D2)}) == sorted([D1, D2])


def test_each_digest_is_named_once() -> None:
    assert digests({"a": blob(D1), "b": [blob(D1)]}) == [D1]


def test_nothing_is_looked_for_inside_a_blob() -> None:
    assert digests({"a": blob(D1, inner=blob(D2))}) == [D1]


@pytest.mark.parametrize(
    "value",
    [{"digest": D1}, {"@type": "Blob", "digest": D1}, {"@type": "blob", "digest": 1},
     {"@type": "blob", "digest": "sha1-x"}, {"@type": "blob"}],
)  # fmt: skip
def test_other_objects_are_no_blobs(value: dict[str, object]) -> None:
    assert digests({"a": value, '"digest"': 1}) == []


def test_length_and_type_are_taken_from_the_body() -> None:
    refs = parse({"a": blob(D1, length=3, content_type="text/plain")}).blobs
    assert refs == (BlobRef(D1, 3, "text/plain", True),)


@pytest.mark.parametrize("length", [True, -1, "3", 3.0, None])
def test_length_that_is_none_is_unknown(length: object) -> None:
    assert parse({"a": blob(D1, length=length)}).blobs[0].length is None


@pytest.mark.parametrize(
    ("more", "compressible"),
    [
        ({}, False),
        ({"content_type": "text/plain"}, True),
        ({"content_type": "application/octet-stream"}, True),
        ({"content_type": "image/svg+xml"}, False),
        ({"content_type": "Image/PNG"}, False),
        ({"content_type": "audio/wav"}, False),
        ({"content_type": "application/x-gzip"}, False),
        ({"content_type": "application/x-rar"}, False),
        ({"content_type": "text/plain", "encoding": "gzip"}, False),
        ({"content_type": "text/plain", "encoding": "utf-8"}, True),
        ({"content_type": 7}, False),
    ],
)
def test_compression_is_worth_it_for_what_is_not_compressed(
    more: dict[str, object], compressible: bool
) -> None:
    assert parse({"a": blob(D1, **more)}).blobs[0].compressible is compressible


@pytest.mark.parametrize("answer", KNOWN_DIGESTS)
def test_digests_are_those_of_couchbase(answer: dict[str, str]) -> None:
    assert blob_digest(answer["content_text"].encode()) == answer["digest"]


@given(st.lists(st.binary()))
def test_digest_does_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    digest = BlobDigest()
    for piece in pieces:
        digest.update(piece)
    assert digest.text() == blob_digest(b"".join(pieces))


@given(st.binary())
def test_every_digest_is_one(content: bytes) -> None:
    assert is_blob_digest(blob_digest(content))


@pytest.mark.parametrize(
    "text",
    ["", "sha1-", D1 + "=", D1[:-1], D1.replace("sha1", "SHA1"), D1[:-2] + "B=", D1 + "\n",
     "md5-" + D1[5:], "sha1-../../../../../../../../x="],
)  # fmt: skip
def test_other_texts_are_no_digests(text: str) -> None:
    assert not is_blob_digest(text)
