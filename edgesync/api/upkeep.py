"""Databases and their upkeep: create, verify, compact, backup and restore."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, Self, cast

import falcon
import gevent
import orjson

import edgesync
from edgesync import Database
from edgesync.api.answers import Step
from edgesync.api.box import Box
from edgesync.api.documents import Application
from edgesync.api.requests import (
    JSON_LINES,
    PIECE_BYTES,
    BoundedStream,
    answer,
    encoded,
    read_object,
    text_in,
)
from edgesync.api.service import all_databases, describe_database
from edgesync.api.statuses import refusal
from edgesync.errors import (
    EdgeSyncError,
    NameTakenError,
    RequestError,
    StoreDamagedError,
    StoreFullError,
)
from edgesync.limits import Limits

if TYPE_CHECKING:
    from hashlib import _Hash as Digest


log: Final = logging.getLogger(__name__)

TAR: Final = "application/x-tar"
STEP_S: Final = 0.2
WORK_FOLDER: Final = "work"
"""Below the state; what is left in it when the service starts may be removed."""
MANIFEST: Final = "edgesync-backup.json"
MANIFEST_FORMAT: Final = 1
SUMS: Final = "SHA256SUMS"
MAX_MANIFEST_BYTES: Final = 10_000
READ_BYTES: Final = 4 * PIECE_BYTES
MAX_BACKUP_BYTES: Final = 1 << 50
DATABASE_SUFFIX: Final = ".edgesync"
_BLOCK: Final = 512  # tar's
_Told = Callable[[int, int], None]
_Pieces = Generator[bytes, None, None]


def add_routes(application: Application, box: Box, limits: Limits) -> None:
    """Add the paths of this module."""
    for path, resource in (
        ("", _Databases(box, limits)),
        ("/{name}", _Database(box)),
        ("/{name}/verify", _Verify(box)),
        ("/{name}/compact", _Compact(box)),
        ("/{name}/backup", _Backup(box)),
        ("/{name}/restore", _Restore(box)),
    ):
        application.add_route(f"/_edgesync/databases{path}", resource)


def steps(work: Callable[[_Told], object]) -> Iterator[bytes]:
    """Do long work; yield a line for each step, and one with the result or the failure."""
    latest = (0, 0)

    def tell(done: int, total: int) -> None:  # in a thread of the store
        nonlocal latest
        latest = (done, total)

    def outcome() -> bytes:
        try:
            return encoded({"result": work(tell)})
        except EdgeSyncError as error:
            log.error("%s", error)
            return encoded(refusal(error)[1])

    job = gevent.spawn(outcome)
    try:
        job.join(STEP_S)
        while not job.ready():
            step: Step = {"done": latest[0], "total": latest[1]}
            yield encoded(step)
            job.join(STEP_S)
        yield job.get()
    finally:
        job.kill()


# --- the resources --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Databases:
    box: Box
    limits: Limits

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        answer(response, all_databases(self.box))

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        body = read_object(request, self.limits.max_api_body_bytes)
        name, collections = text_in(body, "name"), body.get("collections", ["_default"])
        if name in self.box.databases or name in self.box.closed_databases:
            raise NameTakenError("database", name)
        if not isinstance(collections, list) or not all(isinstance(c, str) for c in collections):
            raise RequestError('"collections" must be a list of texts')
        database = self.box.create_database(name, collections)
        self.box.events.tell("database_created", f'database "{name}" was created', database=name)
        answer(response, describe_database(database), falcon.HTTP_201)


@dataclass(frozen=True, slots=True)
class _Database:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        for database in all_databases(self.box):
            if database["name"] == name:
                answer(response, database)
                return
        self.box.database(name)


@dataclass(frozen=True, slots=True)
class _Verify:
    box: Box

    def on_post(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        database, events = self.box.database(name), self.box.events

        def work(tell: _Told) -> object:
            findings = list(database.verify(progress=tell))
            text = f'database "{name}" was verified: {len(findings) or "no"} findings'
            events.tell("database_verified", text, database=name, findings=len(findings))
            return findings

        response.content_type = JSON_LINES
        response.stream = steps(work)


@dataclass(frozen=True, slots=True)
class _Compact:
    box: Box

    def on_post(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        database = self.box.database(name)

        def work(_tell: _Told) -> object:
            before = describe_database(database)["bytes"]
            database.compact()
            after = describe_database(database)["bytes"]
            return {"bytes_before": before, "bytes_after": after}

        response.content_type = JSON_LINES
        response.stream = steps(work)


@dataclass(frozen=True, slots=True)
class _Backup:
    """A tar of the database as it is at one moment, made while it is served."""

    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        database = self.box.database(name)
        folder = _working_folder(self.box.state_folder)
        try:
            copy = folder / "copy"
            database.backup(copy, share_blobs=True)
            files = _files(copy)
        except BaseException:
            _remove(folder)
            raise
        manifest = orjson.dumps(
            {
                "format": MANIFEST_FORMAT,
                "database": name,
                "edgesync": edgesync.__version__,
                "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )
        response.content_type = TAR
        sums = sum(len(_sum_line(name, hashlib.sha256())) for name, _, _ in files)
        sizes = [len(manifest), *(size for _, _, size in files), sums]
        response.content_length = _tar_bytes(sizes)
        response.stream = _TarStream(folder, manifest, files)
        self.box.events.tell(
            "database_backed_up", f'database "{name}" is being backed up', database=name
        )


@dataclass(frozen=True, slots=True)
class _Restore:
    """Takes the tar of a backup, looks whether it is sound, and puts it in place."""

    box: Box

    def on_post(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        folder = _working_folder(self.box.state_folder)
        try:
            copy = folder / f"{name}{DATABASE_SUFFIX}"
            _unpack(request, copy)
        except BaseException:
            _remove(folder)
            raise
        response.content_type = JSON_LINES
        response.stream = self._steps(name, folder, copy)

    def _steps(self, name: str, folder: Path, copy: Path) -> Iterator[bytes]:
        try:
            yield from steps(lambda tell: self._put_in_place(name, copy, tell))
        finally:
            _remove(folder)

    def _put_in_place(self, name: str, copy: Path, tell: _Told) -> object:
        # To open it makes the copy a database of its own: its sequences go on above
        # all that the original gave out, and its checkpoints are those of its data.
        with Database.open(name, directory=copy.parent) as candidate:
            if findings := candidate.verify(progress=tell):
                raise StoreDamagedError(
                    f"the backup is damaged: {findings[0]}", hint="take another backup"
                )
        self.box.replace_database(name, copy)
        self.box.events.tell("database_restored", f'database "{name}" was restored', database=name)
        return describe_database(self.box.database(name))


# --- tar ------------------------------------------------------------------------------


class _TarStream:
    """The bytes of a tar, read from files in threads; removes the folder when it is closed."""

    def __init__(self, folder: Path, manifest: bytes, files: list[tuple[str, Path, int]]) -> None:
        self._folder = folder
        self._pieces = self._made(manifest, files)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._pieces.close()
        _remove(self._folder)

    def _made(self, manifest: bytes, files: list[tuple[str, Path, int]]) -> _Pieces:
        pool = gevent.get_hub().threadpool
        sums = b""
        yield _header(MANIFEST, len(manifest)) + manifest + _padding(len(manifest))
        for name, path, size in files:
            yield _header(name, size)
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as file:
                while data := pool.apply(_read, (file, digest)):
                    yield data
            yield _padding(size)
            sums += _sum_line(name, digest)
        yield _header(SUMS, len(sums)) + sums + _padding(len(sums)) + b"\0" * (2 * _BLOCK)


def _read(file: FileIO, digest: Digest) -> bytes:
    data = file.read(READ_BYTES)
    digest.update(data)
    return data


def _sum_line(name: str, digest: Digest) -> bytes:
    """Return a line as sha256sum(1) reads it."""
    return f"{digest.hexdigest()}  {name}\n".encode()


def _files(folder: Path) -> list[tuple[str, Path, int]]:
    """Return the files of a database's copy: name, path and size, the database first."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    found.sort(key=lambda path: (len(path.parts), path))
    return [(str(path.relative_to(folder)), path, path.stat().st_size) for path in found]


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


def _tar_bytes(sizes: list[int]) -> int:
    return sum(_BLOCK + size + -size % _BLOCK for size in sizes) + 2 * _BLOCK


def _unpack(request: falcon.Request, folder: Path) -> None:
    """Write the files of a backup into a new folder, in threads.

    Raises:
        RequestError: It is no backup, or not a whole one.
        StoreDamagedError: A file is not as it was backed up.
    """
    folder.mkdir()
    # cast: of a stream, only `read` is asked for.
    stream = cast(BinaryIO, _TarInput(BoundedStream(request, MAX_BACKUP_BYTES)))
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=READ_BYTES, tarinfo=_Entry) as tar:
            _unpack_all(tar, folder)
    except tarfile.TarError as error:
        raise RequestError(f"this is no whole backup of edgesync: {error}") from error
    except OSError as error:
        raise StoreFullError(
            f"the backup cannot be unpacked: {error.strerror or error}", hint="make room"
        ) from error


def _unpack_all(tar: tarfile.TarFile, folder: Path) -> None:
    sums, told = b"", b""
    entry, manifest = _next(tar)
    if entry != MANIFEST or manifest is None:
        raise RequestError("this is no backup of edgesync")
    _check_manifest(manifest.read(MAX_MANIFEST_BYTES))
    while not told:
        name, content = _next(tar)
        if content is None:
            raise RequestError("this is no whole backup of edgesync: its end is missing")
        if name == SUMS:
            told = content.read(len(sums) + 1)
        elif _is_expected(name):
            sums += _sum_line(name, _write(content, folder / name))
        else:
            raise RequestError(f'this is no backup of edgesync: it has "{name}"')
    if told != sums:
        raise StoreDamagedError(
            "the backup is damaged: it has not the checksums it says", hint="take another backup"
        )


def _next(tar: tarfile.TarFile) -> tuple[str, IO[bytes] | None]:
    """Return the next file of a tar, or ("", None)."""
    entry = tar.next()
    if entry is None:
        return "", None
    content = tar.extractfile(entry) if entry.isfile() else None
    return entry.name, content


def _check_manifest(text: bytes) -> None:
    try:
        manifest = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError("this is no backup of edgesync: it does not say what it is") from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise RequestError("a newer edgesync made this backup", hint="update edgesync")


def _is_expected(name: str) -> bool:
    """Tell whether a name is one that a backup has; nothing else is written anywhere."""
    parts = name.split("/")
    if len(parts) == 1:
        return name == "database.sqlite3"
    digits = "".join(parts[1:])
    is_hexadecimal = bool(digits) and set(digits) <= set("0123456789abcdef")
    return len(parts) == 3 and parts[0] == "blobs" and is_hexadecimal


class _Entry(tarfile.TarInfo):
    """An entry of a tar: a plain file, as all are in a backup.

    Of others tarfile reads headers of any size into memory before we see one.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise tarfile.HeaderError("it has an entry that is no file")
        return entry


class _TarInput:
    """A request's body for tarfile, which wants just as many bytes as it asked for."""

    def __init__(self, stream: BoundedStream) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < size and (data := self._stream.read(size - len(pieces))):
            pieces += data
        return bytes(pieces)


def _write(content: IO[bytes], path: Path) -> Digest:
    """Write a new file, durably; return the digest of what is in it."""
    pool = gevent.get_hub().threadpool
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb", buffering=0) as file:
        while data := content.read(READ_BYTES):
            pool.apply(_write_piece, (file, digest, data))
        pool.apply(os.fsync, (file.fileno(),))
    return digest


def _write_piece(file: FileIO, digest: Digest, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    digest.update(data)


def _working_folder(state_folder: Path) -> Path:
    """Return a new folder on the file system of the databases."""
    parent = state_folder / WORK_FOLDER
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent))


def _remove(folder: Path) -> None:
    gevent.get_hub().threadpool.apply(shutil.rmtree, (folder,), {"ignore_errors": True})
