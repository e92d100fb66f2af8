"""Remove what nobody needs any more: blobs without a document, checkpoints of lost clients.

Blobs are found by going through their files, on the thread of upkeep, and removed on
the writer's: it alone decides what documents refer to, so that none comes to refer to
a blob that is just being removed. As removing a file takes a while on a card, the
writer is asked for few at a time, and revisions go in between.

The obvious other design, to count references and remove a blob with its last one,
would still need all of this: a blob is there before the document that refers to it,
and is read after the document has let go of it.

Spec: documents.md §5.1; replication.md §7.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Final

from edgesync.errors import StoreClosedError
from edgesync.storage.blobs import BlobFiles
from edgesync.storage.commits import Commits
from edgesync.storage.document_rows import is_referred_to
from edgesync.storage.schema import open_reader

REMOVED_AT_A_TIME: Final = 10
POLL_S: Final = 0.05
"""How soon it gives up when the database closes."""

MIN_INTERVAL_S: Final = 0.05
"""Between two rounds, whatever the grace of blobs is."""

AskWriter = Callable[[Callable[[], int]], Future[int]]
"""Has a function called by the writer between two transactions."""


class Housekeeping:
    """Runs on the thread of upkeep."""

    def __init__(
        self,
        database: Path,
        blobs: BlobFiles,
        commits: Commits,
        ask_writer: AskWriter,
        should_stop: Callable[[], bool],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._commits = commits
        self._ask_writer = ask_writer
        self._should_stop = should_stop

    def tidy_up(self) -> int:
        """Remove what nobody needs; return how many blobs that were.

        Raises:
            StoreClosedError: The database was closed meanwhile.
            sqlite3.Error, OSError: SQLite or the file system failed.
        """
        self._blobs.forget_old_uses()
        removed = 0
        for digests in self._unneeded():
            removed += self._on_writer(lambda digests=digests: self._commits.remove_blobs(digests))  # type: ignore[misc]
        self._on_writer(self._commits.drop_old_checkpoints)
        return removed

    def _unneeded(self) -> Iterator[list[str]]:
        found: list[str] = []
        with closing(open_reader(self._database)) as connection:
            for digest in self._blobs.digests():
                self._check_stop()
                if self._blobs.is_idle(digest) and not is_referred_to(connection, digest):
                    found.append(digest)
                if len(found) == REMOVED_AT_A_TIME:
                    yield found
                    found = []
        if found:
            yield found

    def _on_writer(self, do: Callable[[], int]) -> int:
        done = self._ask_writer(do)
        while True:
            try:
                return done.result(POLL_S)
            except TimeoutError:  # a writer that has ended does not answer
                self._check_stop()

    def _check_stop(self) -> None:
        if self._should_stop():
            raise StoreClosedError("the database was closed meanwhile")
