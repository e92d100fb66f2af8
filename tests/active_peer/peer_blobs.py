"""Blobs of a peer: small ones in memory, all as files if there is a folder."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

PIECE_BYTES: Final = 64 * 1024
_COMPRESSED_ENCODINGS: Final = ("zip", "zlib", "pkcs", "mpeg", "mp4", "crypt", ".rar", "-rar")
_COMPRESSED_TYPES: Final = ("image/", "audio/", "video/")


class BlobReference(NamedTuple):
    """A blob that a document names."""

    digest: str
    length: int | None
    is_compressible: bool


class PeerBlobs:
    """Keep blobs by digest. Spec: documents.md §5."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep them as files in `folder`, or in memory without one."""
        self._folder = folder
        self._in_memory: dict[str, bytes] = {}

    def add(self, source: bytes | Path) -> tuple[str, int]:
        """Store content, or a copy of a file; return digest and length."""
        writer = BlobWriter(self._folder)
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                writer.write(piece)
        self._keep(writer)
        return writer.digest, writer.length

    def writer(self) -> BlobWriter:
        """Begin a blob whose bytes are to come."""
        return BlobWriter(self._folder)

    def finish(self, writer: BlobWriter, wanted: BlobReference) -> bool:
        """Keep a written blob if it is the wanted one; say whether it was."""
        if writer.digest != wanted.digest or wanted.length not in (None, writer.length):
            writer.close()
            return False
        self._keep(writer)
        return True

    def _keep(self, writer: BlobWriter) -> None:
        if self._folder is None:
            self._in_memory[writer.digest] = writer.content()
        else:
            writer.move_to(self._path(writer.digest))

    def open(self, digest: str) -> tuple[BinaryIO, int] | None:
        """Return a stream of the content and its length, None if the blob is not here."""
        if self._folder is None:
            content = self._in_memory.get(digest)
            return None if content is None else (io.BytesIO(content), len(content))
        path = self._path(digest)
        if not path.exists():
            return None
        return path.open("rb"), path.stat().st_size

    def read(self, digest: str) -> bytes:
        """Return the content.

        Raises:
            KeyError: The blob is not here.
        """
        opened = self.open(digest)
        if opened is None:
            raise KeyError(digest)
        with opened[0] as stream:
            return stream.read()

    def remove(self, digest: str) -> None:
        """Forget a blob, as a damaged store would."""
        self._in_memory.pop(digest, None)
        if self._folder is not None:
            self._path(digest).unlink(missing_ok=True)

    def __contains__(self, digest: str) -> bool:
        if self._folder is None:
            return digest in self._in_memory
        return self._path(digest).exists()

    def _path(self, digest: str) -> Path:
        assert self._folder is not None
        return self._folder / digest.replace("/", "_")


class BlobWriter:
    """A blob that is being written."""

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            self._stream: BinaryIO = io.BytesIO()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix="incoming-")
            self._stream = os.fdopen(handle, "wb")
            self._path = Path(name)
        self._folder = folder
        self._sha1 = hashlib.sha1()
        self.length = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self._stream.write(data)
        self._sha1.update(data)
        self.length += len(data)

    @property
    def digest(self) -> str:
        """The digest of what was written. Spec: documents.md §5.1."""
        return "sha1-" + base64.b64encode(self._sha1.digest()).decode()

    def content(self) -> bytes:
        """Return all that was written to memory."""
        assert isinstance(self._stream, io.BytesIO)
        return self._stream.getvalue()

    def move_to(self, path: Path) -> None:
        """End the file and give it its name."""
        self._stream.close()
        shutil.move(self._path, path)

    def close(self) -> None:
        """Throw away what was written."""
        self._stream.close()
        if self._folder is not None:
            self._path.unlink(missing_ok=True)


def blob_properties(digest: str, length: int, content_type: str) -> dict[str, object]:
    """Return what a document holds in place of a blob. Spec: documents.md §5.1."""
    return {"@type": "blob", "digest": digest, "length": length, "content_type": content_type}


def find_blobs(body: bytes) -> list[BlobReference]:
    """List the blobs that a body names, each once. Spec: documents.md §5.2."""
    if b'"digest"' not in body:
        return []
    root = json.loads(body)
    found: dict[str, BlobReference] = {}
    for properties in _blobs_in(root):
        digest = properties.get("digest")
        if isinstance(digest, str):
            found.setdefault(digest, _reference(digest, properties))
    return list(found.values())


def proof(nonce: bytes, content: bytes) -> bytes:
    """Return what shows that a peer has a blob. Spec: replication.md §3.9."""
    sha1 = hashlib.sha1(bytes([len(nonce)]) + nonce + content)
    return b"sha1-" + base64.b64encode(sha1.digest())


def _blobs_in(value: object, depth: int = 0) -> Iterator[Mapping[str, object]]:
    if isinstance(value, dict):
        if value.get("@type") == "blob":
            yield value
            return
        attachments = value.get("_attachments") if depth == 0 else None
        if isinstance(attachments, dict):
            yield from (entry for entry in attachments.values() if isinstance(entry, dict))
        for entry in value.values():
            yield from _blobs_in(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            yield from _blobs_in(entry, depth + 1)


def _reference(digest: str, properties: Mapping[str, object]) -> BlobReference:
    length = properties.get("length")
    return BlobReference(
        digest, length if isinstance(length, int) else None, _is_compressible(properties)
    )


def _is_compressible(properties: Mapping[str, object]) -> bool:
    """Guess whether a transfer should be compressed. Spec: documents.md §5.4."""
    content_type = properties.get("content_type")
    encoding = properties.get("encoding")
    if not isinstance(content_type, str) or not content_type:
        return False
    lower = content_type.lower()
    words = lower + (f" {encoding}".lower() if isinstance(encoding, str) else "")
    return not lower.startswith(_COMPRESSED_TYPES) and not any(
        word in words for word in _COMPRESSED_ENCODINGS
    )
