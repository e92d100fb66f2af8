"""What the libraries alone take for a document that is pushed, and for one that is pulled."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from isal import isal_zlib

from bench.bodies import bodies
from bench.harness import Measurement

DOCUMENTS_PER_COMMIT = 100
LEVEL_OF_CLIENTS = 6
FASTEST = 1
PIECE_BYTES = 64 * 1024


def push_floor(count: int) -> Measurement:
    """Inflate, check, parse and insert documents, durably, 100 at a time."""
    deflate = zlib.compressobj(LEVEL_OF_CLIENTS, wbits=-zlib.MAX_WBITS)
    frames = [
        deflate.compress(orjson.dumps(body)) + deflate.flush(zlib.Z_SYNC_FLUSH)
        for body in bodies(count)
    ]
    inflate = isal_zlib.decompressobj(wbits=-isal_zlib.MAX_WBITS)
    checksum = 0
    with _database() as database, _timed(count) as result:
        for first in range(0, count, DOCUMENTS_PER_COMMIT):
            database.execute("BEGIN IMMEDIATE")
            for number in range(first, min(first + DOCUMENTS_PER_COMMIT, count)):
                body = inflate.decompress(frames[number])
                checksum = isal_zlib.crc32(body, checksum)
                orjson.loads(body)
                _insert(database, number, body)
            database.execute("COMMIT")
    return result[0]


def pull_floor(count: int) -> Measurement:
    """Read documents, check and deflate them."""
    deflate = isal_zlib.compressobj(FASTEST, wbits=-isal_zlib.MAX_WBITS)
    checksum = 0
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")
        for number, body in enumerate(bodies(count)):
            _insert(database, number, orjson.dumps(body))
        database.execute("COMMIT")
        with _timed(count) as result:
            for number in range(count):
                query = "SELECT body FROM document WHERE doc_id = ?"
                (body,) = database.execute(query, (str(number),)).fetchone()
                checksum = isal_zlib.crc32(body, checksum)
                deflate.compress(body)
                deflate.flush(isal_zlib.Z_SYNC_FLUSH)
    return result[0]


def push_blob_floor(blobs: list[bytes]) -> Measurement:
    """Check and digest blobs, and write them to files, durably."""
    checksum = 0
    with TemporaryDirectory(prefix="edgesync-bench-") as folder, _timed(len(blobs)) as result:
        for number, blob in enumerate(blobs):
            digest = hashlib.sha1()  # noqa: S324 - what names a blob
            with (Path(folder) / str(number)).open("wb") as file:
                for start in range(0, len(blob), PIECE_BYTES):
                    piece = blob[start : start + PIECE_BYTES]
                    checksum = isal_zlib.crc32(piece, checksum)
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
    return result[0]


def pull_blob_floor(blobs: list[bytes]) -> Measurement:
    """Read blobs from files and check them."""
    checksum = 0
    with TemporaryDirectory(prefix="edgesync-bench-") as folder:
        for number, blob in enumerate(blobs):
            (Path(folder) / str(number)).write_bytes(blob)
        with _timed(len(blobs)) as result:
            for number in range(len(blobs)):
                with (Path(folder) / str(number)).open("rb") as file:
                    while piece := file.read(PIECE_BYTES):
                        checksum = isal_zlib.crc32(piece, checksum)
    return result[0]


def _insert(database: sqlite3.Connection, number: int, body: bytes) -> None:
    database.execute("INSERT INTO document VALUES (?, ?, ?)", (number, str(number), body))
    database.execute("INSERT INTO revision VALUES (?, ?)", (number, "1-abcdef"))


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    with TemporaryDirectory(prefix="edgesync-bench-") as folder:
        path = Path(folder) / "floor.sqlite3"
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(
                "CREATE TABLE document (sequence INTEGER PRIMARY KEY, doc_id TEXT UNIQUE, body)"
            )
            database.execute("CREATE TABLE revision (document INTEGER, rev_id TEXT)")
            yield database


@contextmanager
def _timed(count: int) -> Iterator[list[Measurement]]:
    """Give a list that holds the measurement afterwards."""
    result: list[Measurement] = []
    cpu, wall = time.process_time(), time.perf_counter()
    yield result
    result.append(Measurement(count, time.process_time() - cpu, time.perf_counter() - wall))
