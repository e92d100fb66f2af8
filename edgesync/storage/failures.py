"""What SQLite and the file system say when they fail, in our words."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping
from typing import Final

from edgesync.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
)

FREE_SPACE: Final = 'free some space on the card, or run "compact"'
FAILING_CARD: Final = 'free some space if there is none; else "dmesg" says if the card is worn out'
TRY_AGAIN: Final = "try again in a moment"
CHECK_CARD: Final = "verify the database and restore a backup; the card may be worn out"

_Kind = tuple[type[StoreError], str, str]
_FULL: Final[_Kind] = (StoreFullError, "the file system does not take writes", FREE_SPACE)
_NO_WRITES: Final[_Kind] = (StoreFullError, "the file system does not take writes", FAILING_CARD)
_BUSY: Final[_Kind] = (StoreBusyError, "the database is short of a resource", TRY_AGAIN)
_DAMAGED: Final[_Kind] = (StoreDamagedError, "the database cannot be read", CHECK_CARD)

_BY_SQLITE_CODE: Final[Mapping[int, _Kind]] = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _NO_WRITES,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_NOMEM: _BUSY,
    sqlite3.SQLITE_CANTOPEN: _BUSY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_IOERR: _DAMAGED,
    # Of an I/O error only the extended code says which way it went. A quota, or
    # a limit on the size of files, comes as a failed write.
    sqlite3.SQLITE_IOERR_WRITE: _NO_WRITES,
    sqlite3.SQLITE_IOERR_FSYNC: _NO_WRITES,
    sqlite3.SQLITE_IOERR_DIR_FSYNC: _NO_WRITES,
    sqlite3.SQLITE_IOERR_TRUNCATE: _NO_WRITES,
    sqlite3.SQLITE_IOERR_SHMSIZE: _FULL,
    sqlite3.SQLITE_IOERR_NOMEM: _BUSY,
}
_BY_ERRNO: Final[Mapping[int, _Kind]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _NO_WRITES,
    errno.EACCES: _FULL,
    errno.EPERM: _FULL,
    errno.EMFILE: _BUSY,
    errno.ENFILE: _BUSY,
    errno.ENOMEM: _BUSY,
    errno.EIO: _DAMAGED,
}


def store_error(cause: Exception, *, while_writing: bool = False) -> StoreError:
    """Return what to answer when something below us failed.

    Args:
        cause: What SQLite or the file system raised.
        while_writing: A file other than SQLite's: an I/O error does not say which way it
            went, and what cannot be written is tried again, what cannot be read is not.

    What is not in the tables is a bug of ours; it comes back as a plain
    `StoreError`, with the exception as its cause.
    """
    kind = _kind(cause)
    if while_writing and kind is _DAMAGED:
        kind = _NO_WRITES
    if kind is None:
        error = StoreError(f"the store failed: {cause!r}", hint="please report this")
    else:
        error_type, what, hint = kind
        error = error_type(f"{what}: {cause}", hint=hint)
    error.__cause__ = cause
    return error


def _kind(cause: Exception) -> _Kind | None:
    if isinstance(cause, sqlite3.Error):
        code: int | None = getattr(cause, "sqlite_errorcode", None)
        if code is None:  # raised by Python's module itself
            return None
        return _BY_SQLITE_CODE.get(code) or _BY_SQLITE_CODE.get(code & 0xFF)
    if isinstance(cause, OSError):
        return _BY_ERRNO.get(cause.errno or 0)
    return _BUSY if isinstance(cause, MemoryError) else None
