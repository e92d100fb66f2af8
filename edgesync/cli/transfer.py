"""Export and import: documents with their blobs, as lines of JSON.

A line is a document with its `_id`, or a piece of a blob: `{"_blob": digest,
"content_type": ..., "data": base64, "last": bool}`. The pieces of a blob follow each
other and come before the first document that refers to it, so that both sides need
memory for one line only. Lines of documents alone, written by hand, are fine, too.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from edgesync.api.client import ApiClient, path_of
from edgesync.cli.output import Output, Told, plural
from edgesync.errors import EdgeSyncError, InvalidBodyError

PIECE_BYTES: Final = 48 * 1024  # 64 KiB in base64
PAGE: Final = 200
BATCH_DOCUMENTS: Final = 200
BATCH_BYTES: Final = 4 * 1024 * 1024
BINARY: Final = "application/octet-stream"


@dataclass(slots=True)
class Outcome:
    """What became of an import."""

    stored: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)


# --- listing ----------------------------------------------------------------------------


def rows(
    client: ApiClient, keyspace: str, start: str = "", limit: int = 0, *, bodies: bool = False
) -> Iterator[dict[str, object]]:
    """Yield the rows of all documents from an ID on, page by page."""
    left = limit or 2**62
    query = {"include_docs": bodies}
    while left > 0:
        page = client.get(
            path_of(keyspace, "_all_docs"),
            {
                **query,
                "startkey": json.dumps(start) if start else None,
                "limit": min(left, PAGE) + 1,
            },
        )
        found: list[dict[str, object]] = page["rows"] if isinstance(page, dict) else []
        yield from found[: min(left, PAGE)]
        if len(found) <= PAGE:
            return
        left -= PAGE
        start = str(found[PAGE]["id"])


# --- export ------------------------------------------------------------------------------


def export(client: ApiClient, keyspace: str, target: str, out: Output) -> int:
    """Write all documents of a keyspace to a file; return how many.

    Raises:
        ApiError: The service is not there, or refuses.
        EdgeSyncError: The file exists.
    """
    info = client.get(path_of(keyspace))
    total = int(info["doc_count"]) if isinstance(info, dict) else 0
    written: set[str] = set()
    count = 0
    with _writable(target) as file, out.progress(f"export of {keyspace}", "documents") as told:
        for row in rows(client, keyspace, bodies=True):
            document = row["doc"]
            for blob in blobs_in(document):
                if blob["digest"] not in written:
                    written.add(blob["digest"])
                    _write_blob(client, keyspace, blob, file)
            _write_line(file, document)
            count += 1
            told(count, max(total, count))
    return count


def blobs_in(value: object) -> Iterator[dict[str, str]]:
    """Yield digest and content type of all blobs that a body refers to."""
    if isinstance(value, dict):
        digest = value.get("digest")
        if value.get("@type") == "blob" and isinstance(digest, str):
            yield {"digest": digest, "content_type": str(value.get("content_type") or BINARY)}
            return
        for item in value.values():
            yield from blobs_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from blobs_in(item)


def _write_blob(client: ApiClient, keyspace: str, blob: Mapping[str, str], file: IO[bytes]) -> None:
    database = keyspace.partition(".")[0]
    path = path_of("_edgesync", "databases", database, "blobs", blob["digest"])
    head = {"_blob": blob["digest"], "content_type": blob["content_type"]}
    rest = b""
    with client.open("GET", path) as answer:
        for piece in answer.pieces():
            rest += piece
            while len(rest) > PIECE_BYTES:
                data, rest = rest[:PIECE_BYTES], rest[PIECE_BYTES:]
                _write_line(file, {**head, "data": _base64(data), "last": False})
    _write_line(file, {**head, "data": _base64(rest), "last": True})


def _write_line(file: IO[bytes], value: object) -> None:
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextmanager
def _writable(target: str) -> Iterator[IO[bytes]]:
    if target == "-":
        yield sys.stdout.buffer
        return
    path = Path(target)
    if path.exists():
        raise EdgeSyncError(f"{path} exists already", hint="name a new file")
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


# --- import ------------------------------------------------------------------------------


def import_file(
    client: ApiClient, keyspace: str, source: str, out: Output, *, replace: bool
) -> Outcome:
    """Store the documents and blobs of a file.

    Args:
        client: The service.
        keyspace: Where the documents go.
        source: The file; "-" is standard input.
        out: Shows how far it is.
        replace: Whether documents that are there get a new revision.

    Raises:
        ApiError: The service is not there, or refuses all.
        InvalidBodyError: A line is neither a document nor a blob.
    """
    outcome = Outcome()
    with _readable(source) as file, out.progress(f"import into {keyspace}") as told:
        batch = _Batch(client, keyspace, outcome, replace=replace)
        lines = _values(file, told)
        try:
            for number, value in lines:
                if "_blob" in value:
                    _send_blob(client, keyspace, number, value, lines)
                else:
                    batch.add(value)
        except InvalidBodyError as error:
            done = plural(outcome.stored, "document") if outcome.stored else "nothing"
            hint = f"stored so far: {done}; correct the line and import the file again"
            raise InvalidBodyError(str(error), hint=hint) from error
        batch.send()
    return outcome


class _Batch:
    """Documents that are sent together."""

    def __init__(
        self, client: ApiClient, keyspace: str, outcome: Outcome, *, replace: bool
    ) -> None:
        self._client = client
        self._keyspace = keyspace
        self._outcome = outcome
        self._replace = replace
        self._documents: list[dict[str, object]] = []
        self._bytes = 0

    def add(self, document: dict[str, object]) -> None:
        document.pop("_rev", None)  # of another database, as a rule
        self._documents.append(document)
        self._bytes += len(json.dumps(document))
        if len(self._documents) >= BATCH_DOCUMENTS or self._bytes >= BATCH_BYTES:
            self.send()

    def send(self) -> None:
        documents, self._documents, self._bytes = self._documents, [], 0
        if not documents:
            return
        conflicts = self._post(documents, keep_conflicts=self._replace)
        if conflicts:
            for document in conflicts:
                document["_rev"] = self._current(str(document["_id"]))
            self._post(conflicts, keep_conflicts=False)

    def _post(
        self, documents: list[dict[str, object]], *, keep_conflicts: bool
    ) -> list[dict[str, object]]:
        """Store documents; return those that are in conflict if they shall be kept."""
        kept: list[dict[str, object]] = []
        results = self._client.send(
            "POST", path_of(self._keyspace, "_bulk_docs"), {"docs": documents}, patient=True
        )
        assert isinstance(results, list)
        for document, result in zip(documents, results, strict=True):
            if "error" not in result:
                self._outcome.stored += 1
            elif keep_conflicts and result["error"] == "conflict":
                kept.append(document)
            else:
                name = str(result.get("id") or "a document without ID")
                self._outcome.refused.append({"id": name, "reason": str(result["reason"])})
        return kept

    def _current(self, doc_id: str) -> str:
        found = self._client.get(path_of(self._keyspace, doc_id))
        return str(found["_rev"]) if isinstance(found, dict) else ""


def _send_blob(
    client: ApiClient,
    keyspace: str,
    number: int,
    first: dict[str, object],
    lines: Iterator[tuple[int, dict[str, object]]],
) -> None:
    """Send a blob, whose further pieces are the next lines."""

    def pieces() -> Iterator[bytes]:
        line, piece = number, first
        while True:
            if piece.get("_blob") != first["_blob"]:
                raise InvalidBodyError(f"line {line}: the rest of blob {first['_blob']} is missing")
            yield _decoded(line, piece.get("data"))
            if piece.get("last", True):
                return
            line, piece = next(lines, (line + 1, {}))

    path = path_of("_edgesync", "databases", keyspace.partition(".")[0], "blobs")
    kind = first.get("content_type")
    if not isinstance(kind, str) or not kind.isascii() or not kind.isprintable():
        kind = BINARY  # whoever made the document may have called it anything
    with client.open("POST", path, body=pieces(), content_type=kind, patient=True) as answer:
        digest = json.loads(answer.read())["digest"]
    if digest != first["_blob"]:
        raise InvalidBodyError(f"line {number}: the content of blob {first['_blob']} is another")


def _decoded(number: int, data: object) -> bytes:
    try:
        return base64.b64decode(str(data), validate=True)
    except ValueError as error:  # binascii.Error is one, too
        raise InvalidBodyError(f"line {number}: the blob's data is not base64") from error


def _values(file: IO[bytes], told: Told) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield number and value of each line that is not empty."""
    try:
        total = os.fstat(file.fileno()).st_size
    except OSError:
        total = 0
    done = 0
    for number, line in enumerate(file, 1):
        done += len(line)
        told(done, max(total, done))
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:  # it would name another line: ours is its first
            what = f"{error.msg} at character {error.pos + 1}"
            raise InvalidBodyError(f"line {number} is not JSON: {what}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidBodyError(f"line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidBodyError(f"line {number} is not a JSON object")
        yield number, value


@contextmanager
def _readable(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    with open(source, "rb") as file:
        yield file
