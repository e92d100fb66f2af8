"""The collections of a database, and the numbers the tables know them by."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from edgesync.documents.names import collection_path
from edgesync.documents.store_calls import DEFAULT_COLLECTION
from edgesync.errors import CollectionNotFoundError, InvalidNameError

_LET_GO: Final = """DELETE FROM blob_reference WHERE document IN
    (SELECT id FROM document WHERE collection = ?) RETURNING digest"""
_DELETE_COLLECTION: Final = (
    """DELETE FROM revision WHERE document IN
        (SELECT id FROM document WHERE collection = ?)""",
    """DELETE FROM kept_body WHERE document IN
        (SELECT id FROM document WHERE collection = ?)""",
    "DELETE FROM document WHERE collection = ?",
    "DELETE FROM collection WHERE id = ?",
)


class Catalog:
    """The collections as the writer sees them, and as they are committed.

    Any thread may look at `committed`; the rest is the writer's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read the table."""
        self._connection = connection
        self.committed: Mapping[str, int] = self._load()
        """Numbers by path; replaced, never changed."""
        self._numbers: Mapping[str, int] = self.committed

    def _load(self) -> dict[str, int]:
        rows = self._connection.execute("SELECT scope, name, id FROM collection ORDER BY id")
        return {f"{scope}.{name}": number for scope, name, number in rows}

    def number(self, path: str) -> int:
        """Return the number of a collection within the transaction.

        Raises:
            CollectionNotFoundError: There is none.
        """
        return find_collection(self._numbers, path)

    def create(self, path: str) -> None:
        """Make a collection unless it is there.

        Raises:
            InvalidNameError: No collection may have that name.
        """
        path = collection_path(path)
        if path not in self._numbers:
            self._connection.execute(
                "INSERT INTO collection (scope, name) VALUES (?, ?)", path.split(".")
            )
            self._numbers = self._load()

    def delete(self, path: str) -> frozenset[str]:
        """Remove a collection with all its documents.

        Returns:
            The digests of the blobs that they referred to.

        Raises:
            CollectionNotFoundError: There is none.
            InvalidNameError: It is the default collection.
        """
        if path == DEFAULT_COLLECTION:
            raise InvalidNameError("the default collection cannot be deleted")
        number = (self.number(path),)
        digests = frozenset(digest for (digest,) in self._connection.execute(_LET_GO, number))
        for statement in _DELETE_COLLECTION:
            self._connection.execute(statement, number)
        self._numbers = self._load()
        return digests

    def publish(self) -> None:
        """Show readers what was committed."""
        self.committed = self._numbers

    def forget(self) -> None:
        """Go back to what is committed."""
        self._numbers = self.committed


def find_collection(numbers: Mapping[str, int], path: str) -> int:
    """Return the number of a collection.

    Raises:
        CollectionNotFoundError: There is none.
    """
    number = numbers.get(path)
    if number is None:
        raise CollectionNotFoundError(path)
    return number
