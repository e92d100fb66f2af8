from __future__ import annotations

import errno
import sqlite3

import pytest

from edgesync.errors import StoreBusyError, StoreDamagedError, StoreError, StoreFullError
from edgesync.storage.failures import store_error


def sqlite_failure(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StoreFullError),
        (sqlite3.SQLITE_READONLY, StoreFullError),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreFullError),
        (sqlite3.SQLITE_IOERR_WRITE, StoreFullError),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreFullError),
        (sqlite3.SQLITE_BUSY, StoreBusyError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusyError),
        (sqlite3.SQLITE_LOCKED, StoreBusyError),
        (sqlite3.SQLITE_NOMEM, StoreBusyError),
        (sqlite3.SQLITE_CORRUPT, StoreDamagedError),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreDamagedError),
        (sqlite3.SQLITE_NOTADB, StoreDamagedError),
        (sqlite3.SQLITE_IOERR_READ, StoreDamagedError),
        (sqlite3.SQLITE_MISUSE, StoreError),
    ],
)
def test_codes_of_sqlite_have_their_errors(code: int, kind: type[StoreError]) -> None:
    assert type(store_error(sqlite_failure(code))) is kind


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EROFS, StoreFullError),
        (errno.EMFILE, StoreBusyError),
        (errno.EIO, StoreDamagedError),
        (errno.EINVAL, StoreError),
    ],
)
def test_errors_of_the_file_system_have_theirs(number: int, kind: type[StoreError]) -> None:
    assert type(store_error(OSError(number, "it failed"))) is kind


def test_what_cannot_be_written_is_tried_again() -> None:
    failed = OSError(errno.EIO, "it failed")
    assert type(store_error(failed, while_writing=True)) is StoreFullError


def test_lack_of_memory_is_transient() -> None:
    assert isinstance(store_error(MemoryError()), StoreBusyError)


def test_bug_keeps_its_cause() -> None:
    bug = KeyError("x")
    assert store_error(bug).__cause__ is bug
