"""Backup and verification, beside the serving of peers."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import orjson

from edgesync.documents.body import BlobDigest
from edgesync.documents.store_calls import Backup, Progress, StoreCall, StoreResult, Verify
from edgesync.errors import StoreClosedError, StoreError
from edgesync.storage.blobs import BlobFiles, sync_folder
from edgesync.storage.schema import open_reader, write_info

DATABASE_FILE: Final = "database.sqlite3"
BLOB_FOLDER: Final = "blobs"
PAGES_AT_A_TIME: Final = 256
PIECE_BYTES: Final = 256 * 1024
MAX_FINDINGS: Final = 100

_Check = Callable[[sqlite3.Connection], Iterator[str]]


class Maintenance:
    """Long work on connections of its own; gives up soon after it is told to stop."""

    def __init__(self, folder: Path, blobs: BlobFiles, should_stop: Callable[[], bool]) -> None:
        self._database = folder / DATABASE_FILE
        self._blobs = blobs
        self._should_stop = should_stop

    def answer(self, call: StoreCall) -> StoreResult:
        """Carry out a call."""
        match call:
            case Backup():
                self.backup(call.target, call.share_blobs, call.progress)
                return None
            case Verify():
                return self.verify(call.progress)
            case _:
                raise RuntimeError(f"{type(call).__name__} is not upkeep")

    def _check_stop(self) -> None:
        if self._should_stop():
            raise StoreClosedError("the database was closed meanwhile")

    # --- backup ------------------------------------------------------------------------

    def backup(
        self, target: Path, share_blobs: bool = False, progress: Progress | None = None
    ) -> None:
        """Copy the database, as it is now, into a new folder that can be opened as one.

        The folder gets its name when all is copied and durable.

        Args:
            target: The new folder.
            share_blobs: Whether blobs are hard links to those of the database.
            progress: Told the bytes.

        Raises:
            StoreError: The target exists, or the database was closed meanwhile.
        """
        if target.exists():
            raise StoreError(f"{target} exists already", hint="name a new folder")
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self._copy_into(partial, share_blobs, _Tally(progress))
            sync_folder(str(partial))
            partial.rename(target)
            sync_folder(str(target.parent))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _copy_into(self, folder: Path, share_blobs: bool, tally: _Tally) -> None:
        with closing(sqlite3.connect(folder / DATABASE_FILE, isolation_level=None)) as copy:
            with closing(open_reader(self._database)) as source:
                # With the snapshot held, commits meanwhile do not make it start again.
                source.execute("BEGIN")
                digests = self._digests(source)
                (page_bytes,) = source.execute("PRAGMA page_size").fetchone()
                tally.expect(os.stat(self._database).st_size)
                if not share_blobs:
                    tally.expect(sum(self._blobs.size(digest) for digest in digests))

                def copied(_status: int, remaining: int, total: int) -> None:
                    self._check_stop()
                    tally.reach((total - remaining) * page_bytes)

                source.backup(copy, pages=PAGES_AT_A_TIME, progress=copied, sleep=0)
            write_info(copy, "is_copy", 1)
            # A file in WAL mode would need its folder to be writable, only to be read.
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()
        self._copy_blobs(folder / BLOB_FOLDER, digests, share_blobs, tally)

    def _digests(self, connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute("SELECT DISTINCT digest FROM blob_reference").fetchall()
        # A blob that is lost here does not spoil the rest; `verify` finds it.
        return [digest for (digest,) in rows if self._blobs.has(digest)]

    def _copy_blobs(
        self, folder: Path, digests: list[str], share_blobs: bool, tally: _Tally
    ) -> None:
        files = BlobFiles(folder)
        for digest in digests:
            if share_blobs:
                self._check_stop()
                path = files.path(digest)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.link(self._blobs.path(digest), path)
                continue
            sink = files.new_sink()
            for piece in self._pieces(digest):
                sink.append(piece)
                tally.add(len(piece))
            sink.store_as(files, digest)

    def _pieces(self, digest: str) -> Iterator[bytes]:
        with open(self._blobs.path(digest), "rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                self._check_stop()
                yield piece

    # --- verification --------------------------------------------------------------------

    def verify(self, progress: Progress | None = None) -> tuple[str, ...]:
        """Return what is damaged, in words; nothing if all is well.

        Args:
            progress: Told the bytes.

        Raises:
            StoreClosedError: The database was closed meanwhile.
        """
        findings: list[str] = []
        tally = _Tally(progress)
        size = os.stat(self._database).st_size
        # Pages are looked at twice; how far SQLite is within a check it does not tell.
        tally.expect(2 * size + sum(self._blobs.size(each) for each in self._blobs.digests()))
        with closing(open_reader(self._database)) as connection:
            connection.set_progress_handler(self._should_stop, 10_000)
            checks: tuple[tuple[int, _Check], ...] = (
                (size, _damaged_pages),
                (size, _damaged_bodies),
                (0, lambda _: self._damaged_blobs(tally)),
                (0, self._lost_blobs),
            )
            for weight, check in checks:
                try:
                    for finding in check(connection):
                        findings.append(finding)
                        if len(findings) == MAX_FINDINGS:
                            return (*findings, "there is more")
                except sqlite3.DatabaseError as error:
                    self._check_stop()
                    findings.append(f"the database cannot be read: {error}")
                tally.add(weight)
        return tuple(findings)

    def _damaged_blobs(self, tally: _Tally) -> Iterator[str]:
        for name in self._blobs.digests():
            digest = BlobDigest()
            try:
                for piece in self._pieces(name):
                    digest.update(piece)
                    tally.add(len(piece))
            except FileNotFoundError:  # removed meanwhile; if a document needs it, see below
                continue
            except OSError as error:
                yield f"blob {name} cannot be read: {error}"
                continue
            if digest.text() != name:
                yield f"blob {name} has another content"

    def _lost_blobs(self, connection: sqlite3.Connection) -> Iterator[str]:
        rows = connection.execute("SELECT DISTINCT digest FROM blob_reference")
        for (digest,) in rows:
            if not os.path.exists(self._blobs.path(digest)):
                yield f"blob {digest} is missing"


class _Tally:
    """Counts what is done of long work, and tells it."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = 0

    def expect(self, amount: int) -> None:
        self._total += amount
        self.add(0)

    def add(self, amount: int) -> None:
        self.reach(self._done + amount)

    def reach(self, done: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(min(done, self._total), self._total)


def _damaged_pages(connection: sqlite3.Connection) -> Iterator[str]:
    for (finding,) in connection.execute(f"PRAGMA integrity_check({MAX_FINDINGS})"):
        if finding != "ok":
            yield f"database: {finding}"


def _damaged_bodies(connection: sqlite3.Connection) -> Iterator[str]:
    rows = connection.execute("SELECT doc_id, CAST(body AS BLOB) FROM document")
    for doc_id, body in rows:
        try:
            is_object = isinstance(orjson.loads(body), dict)
        except orjson.JSONDecodeError:
            is_object = False
        if not is_object:
            yield f'document "{doc_id}" is not a JSON object'
