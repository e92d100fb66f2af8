"""Document bodies as they come in: checked, stripped, and searched for blobs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import orjson

from edgesync.errors import BodyTooLargeError, InvalidBodyError
from edgesync.limits import Limits

_DIGEST: Final = re.compile(r"sha1-[A-Za-z0-9+/]{26}[AEIMQUYcgkosw048]=")
_NUMBERED_STAND_IN: Final = re.compile(r"blob_[0-9]", re.ASCII)
_STAND_IN_OF_POINTER: Final = "blob_/"
# Of what is stripped, the attachments themselves among it, nothing can be a blob.
_STAND_IN_OF_RESERVED: Final = "blob_/_"
_COMPRESSED_WORDS: Final = ("zip", "zlib", "pkcs", "mpeg", "mp4", "crypt", ".rar", "-rar")
_COMPRESSED_TYPES: Final = ("image/", "audio/", "video/")


class BlobRef(NamedTuple):
    """A blob that a body refers to."""

    digest: str
    length: int | None  # bytes, if the body says
    content_type: str | None
    compressible: bool  # worth compressing on the wire


class Body(NamedTuple):
    """A document body fit to be stored."""

    text: bytes  # JSON object in UTF-8
    blobs: tuple[BlobRef, ...]  # each digest once


NO_BLOBS: Final[tuple[BlobRef, ...]] = ()


def parse_body(data: bytes, limits: Limits) -> Body:
    """Check a body and take from it what is not to be stored.

    The text stays as it came unless something had to go.

    Args:
        data: The JSON object as received, or as our own application made it.
        limits: `max_document_bytes` and `max_json_depth` count.

    Raises:
        BodyTooLargeError: It has too many bytes.
        InvalidBodyError: It is not JSON in UTF-8, not an object, or too deep.

    Spec: documents.md §5.3, §6.
    """
    if len(data) > limits.max_document_bytes:
        raise BodyTooLargeError(limits.max_document_bytes)
    try:
        root: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidBodyError(f"the body is not JSON: {error}") from None
    if not isinstance(root, dict):
        raise InvalidBodyError("the body is not a JSON object")
    if data.count(b"{") + data.count(b"[") > limits.max_json_depth:  # else it cannot be deeper
        _check_depth(root, limits.max_json_depth)
    # To look for one character takes a tenth of what it takes to look for several. What
    # is looked for may also hide in an escape.
    has_escapes = b"\\" in data
    if (has_escapes or b"_" in data) and _strip(root):
        data = orjson.dumps(root)
    has_blobs = (has_escapes or b"=" in data) and b'"digest"' in data  # digests end with "="
    return Body(data, _find_blobs(root) if has_blobs else NO_BLOBS)


def encode_body(body: Mapping[str, object]) -> bytes:
    """Return the JSON text of a body that our own application wants to store.

    Raises:
        InvalidBodyError: It holds what JSON cannot, or a top-level name begins
            with "_", which is reserved.

    Spec: documents.md §6.
    """
    for name in body:
        if isinstance(name, str) and name.startswith("_"):
            raise InvalidBodyError(f'the property "{name}" begins with "_", which is reserved')
    try:
        text = orjson.dumps(body)
        if b"null" in text:  # orjson writes it for NaN, too, silently
            json.dumps(body, allow_nan=False, default=str)
    except (TypeError, ValueError) as error:
        raise InvalidBodyError(f"the body is not what JSON can hold: {error}") from None
    return text


def _check_depth(root: dict[str, object], max_depth: int) -> None:
    level: list[object] = [root]
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise InvalidBodyError(f"the body is nested deeper than {max_depth} levels")
        level = [child for node in level for child in _children(node) if _is_nested(child)]


def _children(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        return iter(node.values())
    return iter(node) if isinstance(node, list) else iter(())


def _is_nested(value: object) -> bool:
    return isinstance(value, dict | list)


# --- what the protocol strips --------------------------------------------------


def _strip(root: dict[str, object]) -> bool:
    """Remove reserved top-level properties; return whether anything changed.

    Spec: documents.md §5.3.
    """
    reserved = [name for name in root if name[:1] == "_"]
    if not reserved:
        return False
    attachments = root.get("_attachments")
    kept = _without_stand_ins(root, attachments) if isinstance(attachments, dict) else {}
    if reserved == ["_attachments"] and kept and kept == attachments:
        return False
    for name in reserved:
        del root[name]
    if kept:
        root["_attachments"] = kept
    return True


def _without_stand_ins(
    root: dict[str, object], attachments: dict[str, object]
) -> dict[str, object]:
    """Return the attachments that do not stand for a blob in the body.

    One that differs from its blob was changed through Sync Gateway, so the blob
    takes its content.
    """
    kept: dict[str, object] = {}
    for name, entry in attachments.items():
        if _NUMBERED_STAND_IN.match(name):
            continue
        is_stand_in = name.startswith(_STAND_IN_OF_POINTER)
        is_stand_in = is_stand_in and not name.startswith(_STAND_IN_OF_RESERVED)
        blob = _at_pointer(root, name[5:]) if is_stand_in else None
        if not isinstance(blob, dict) or blob.get("@type") != "blob":
            kept[name] = entry
        elif isinstance(entry, dict) and "digest" in entry:
            _take_content(blob, entry)
    return kept


def _take_content(blob: dict[str, object], entry: dict[str, object]) -> None:
    if entry["digest"] == blob.get("digest"):
        return
    for name in ("digest", "length", "content_type"):
        blob.pop(name, None)
        if name in entry:
            blob[name] = entry[name]


def _at_pointer(root: object, pointer: str) -> object:
    """Return what a JSON pointer (RFC 6901) points at, None if nothing."""
    node = root
    for step in pointer.split("/")[1:]:
        if isinstance(node, dict):
            node = node.get(step.replace("~1", "/").replace("~0", "~"))
        elif isinstance(node, list) and step.isdecimal() and step.isascii():
            place = int(step) if len(step) < 10 else len(node)
            node = node[place] if place < len(node) else None
        else:
            return None
    return node


# --- blobs -----------------------------------------------------------------------


def _find_blobs(root: dict[str, object]) -> tuple[BlobRef, ...]:
    """Return the blobs a body refers to, each digest once.

    Spec: documents.md §5.1, §5.2.
    """
    found: dict[str, BlobRef] = {}
    attachments = root.get("_attachments")
    if isinstance(attachments, dict):
        for entry in attachments.values():
            _note_blob(entry, found)
    nested: list[object] = [root]
    while nested:
        node = nested.pop()
        if isinstance(node, dict) and node.get("@type") == "blob":
            _note_blob(node, found)
        else:
            nested.extend(child for child in _children(node) if _is_nested(child))
    return tuple(found.values())


def stored_blobs(text: bytes) -> tuple[BlobRef, ...]:
    """Return the blobs a stored body refers to, each digest once; none if it is damaged.

    Spec: documents.md §5.1, §5.2.
    """
    if b'"digest"' not in text:
        return NO_BLOBS
    try:
        root: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return NO_BLOBS
    return _find_blobs(root) if isinstance(root, dict) else NO_BLOBS


def _note_blob(properties: object, found: dict[str, BlobRef]) -> None:
    if not isinstance(properties, dict):
        return
    digest = properties.get("digest")
    if not isinstance(digest, str) or digest in found or not is_blob_digest(digest):
        return
    length = properties.get("length")
    content_type = properties.get("content_type")
    found[digest] = BlobRef(
        digest,
        length if type(length) is int and length >= 0 else None,
        content_type if isinstance(content_type, str) else None,
        _is_compressible(content_type, properties.get("encoding")),
    )


def _is_compressible(content_type: object, encoding: object) -> bool:
    """Guess whether compressing the content is worth it. Spec: documents.md §5.4."""
    if isinstance(encoding, str) and _has_compressed_word(encoding.lower()):
        return False
    if not isinstance(content_type, str) or not content_type:
        return False
    kind = content_type.lower()
    return not kind.startswith(_COMPRESSED_TYPES) and not _has_compressed_word(kind)


def _has_compressed_word(text: str) -> bool:
    return any(word in text for word in _COMPRESSED_WORDS)


def is_blob_digest(text: str) -> bool:
    """Tell whether a text is `sha1-` and the base64 of 20 bytes. Spec: documents.md §5.1."""
    return _DIGEST.fullmatch(text) is not None


class BlobDigest:
    """Compute the digest that names a blob from pieces of its content.

    Spec: documents.md §5.1.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha1(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Take the next piece."""
        self._hash.update(data)

    def text(self) -> str:
        """Return the digest of all that was taken so far."""
        return "sha1-" + base64.b64encode(self._hash.digest()).decode("ascii")


def blob_digest(data: bytes) -> str:
    """Return the digest of a small blob. Spec: documents.md §5.1."""
    digest = BlobDigest()
    digest.update(data)
    return digest.text()
