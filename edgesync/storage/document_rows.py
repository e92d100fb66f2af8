"""The rows of a document: its current revision, the others, and its references to blobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

import orjson

from edgesync.documents.body import stored_blobs
from edgesync.documents.rev_id import RevID
from edgesync.documents.rev_tree import Rev
from edgesync.storage.blobs import BlobFiles

_CURRENT: Final = """SELECT id, rev_id, sequence, parent, deleted, leaves, revisions, expires_at,
    vector, body_bytes FROM document WHERE collection = ? AND doc_id = ?"""
_CURRENT_OF_MANY: Final = """SELECT id, rev_id, sequence, parent, deleted, leaves, revisions,
    expires_at, vector, body_bytes, doc_id FROM document
    WHERE collection = ? AND doc_id IN (SELECT value FROM json_each(?))"""
_ADD_DOCUMENT: Final = """INSERT INTO document (collection, doc_id, sequence, rev_id, parent,
    deleted, leaves, revisions, vector, body_bytes, body) VALUES """
_NEW_DOCUMENT: Final = "(?, ?, ?, ?, ?, ?, 1, ?, ?, ?, CAST(? AS TEXT))"
_ADD_DOCUMENTS: Final = {
    count: _ADD_DOCUMENT + ", ".join([_NEW_DOCUMENT] * count) for count in (64, 16, 4, 1)
}
_REPLACE_CURRENT: Final = """UPDATE document SET sequence = ?, rev_id = ?, parent = ?,
    deleted = ?, leaves = ?, revisions = ?, vector = ?, body_bytes = ?,
    body = CAST(? AS TEXT) WHERE id = ?"""
_KEEP_ANCESTOR: Final = """INSERT INTO revision
    SELECT id, rev_id, parent, deleted, NULL FROM document WHERE id = ?"""
_KEEP_LEAF: Final = """INSERT INTO revision
    SELECT id, rev_id, parent, deleted, body FROM document WHERE id = ?"""
_ADD_REVISION: Final = """INSERT INTO revision (document, rev_id, parent, deleted, body)
    VALUES (?, ?, ?, ?, CAST(? AS TEXT))"""
_RESTORE: Final = """UPDATE document SET vector = ?3, (rev_id, parent, deleted, body, body_bytes)
    = (SELECT rev_id, parent, deleted, body, length(CAST(body AS BLOB))
       FROM revision WHERE document = ?1 AND rev_id = ?2) WHERE id = ?1"""
_TREE: Final = """SELECT rev_id, parent, deleted FROM document WHERE id = ?1
    UNION ALL SELECT rev_id, parent, deleted FROM revision WHERE document = ?1"""
_COUNT_TREE: Final = "UPDATE document SET sequence = ?, leaves = ?, revisions = ? WHERE id = ?"
_DROP_REVISION: Final = "DELETE FROM revision WHERE document = ? AND rev_id = ?"
_DROP_BODY: Final = "UPDATE revision SET body = NULL WHERE document = ? AND rev_id = ?"
_LEAF_BODIES: Final = """SELECT CAST(body AS BLOB) FROM document
    WHERE id = ?1 AND instr(body, '"digest"')
    UNION ALL SELECT CAST(body AS BLOB) FROM revision
    WHERE document = ?1 AND instr(body, '"digest"')"""
_LET_GO: Final = "DELETE FROM blob_reference WHERE document = ? RETURNING digest"
_REFERENCE: Final = "SELECT 1 FROM blob_reference WHERE digest = ? LIMIT 1"


class CurrentRow(NamedTuple):
    """A row of `document`, without the body."""

    id: int
    rev_id: RevID
    sequence: int
    parent: RevID | None
    deleted: int
    leaves: int
    revisions: int
    expires_at: float | None
    vector: str
    body_bytes: int


class PlacedRev(NamedTuple):
    """A revision on its way into the tree, with the vector it will have."""

    history: tuple[RevID, ...]  # newest first, with the revision itself
    vector: str
    body: bytes
    deleted: bool
    blobs: tuple[str, ...]

    @property
    def parent(self) -> RevID | None:
        """The revision it replaces."""
        return self.history[1] if len(self.history) > 1 else None


_NewDocument = tuple[
    int, str, int, RevID, RevID | None, bool, int, str, int, bytes
]  # as in `_NEW_DOCUMENT`


class DocumentRows:
    """What can be done to the rows, without a question whether it may; the writer's.

    For many new documents at once there are two shortcuts, between `look_ahead` and
    `add_waiting`: rows that will be asked for are read by one statement, and new ones
    wait for each other. Each statement that runs gives Python's lock away, and to get it
    back from a busy hub takes longer than most statements do.
    """

    def __init__(self, connection: sqlite3.Connection, blobs: BlobFiles) -> None:
        self._execute = connection.cursor().execute
        self._execute_many = connection.executemany
        self._blobs = blobs
        self._ahead: dict[tuple[int, str], CurrentRow | None] = {}
        self._waiting: list[_NewDocument] | None = None

    # --- many at once ----------------------------------------------------------------

    def look_ahead(self, collection: int, doc_ids: Sequence[str]) -> None:
        """Read the rows of documents that will be asked for, before anything else is done."""
        self._waiting = []
        ahead = self._ahead
        ahead.update(((collection, doc_id), None) for doc_id in doc_ids)
        for row in self._execute(_CURRENT_OF_MANY, (collection, orjson.dumps(doc_ids))).fetchall():
            ahead[collection, row[-1]] = CurrentRow._make(row[:-1])

    def add_waiting(self) -> None:
        """Add the new documents that wait, and let no more wait."""
        waiting, self._waiting = self._waiting or [], None
        self._ahead.clear()
        start = 0
        for count, statement in _ADD_DOCUMENTS.items():
            while len(waiting) - start >= count:
                rows = waiting[start : start + count]
                self._execute(statement, list(chain.from_iterable(rows)))
                start += count

    def roll_back(self) -> None:
        """Forget what was looked at, and what waits."""
        self._ahead.clear()
        self._waiting = None

    # --- the current revision --------------------------------------------------------

    def find(self, collection: int, doc_id: str) -> CurrentRow | None:
        """Return a document's row."""
        if self._waiting is not None:
            key = collection, doc_id
            if key in self._ahead:
                return self._ahead.pop(key)  # what follows changes it
            self.add_waiting()  # it may be among these
        row = self._execute(_CURRENT, (collection, doc_id)).fetchone()
        return CurrentRow._make(row) if row is not None else None

    def body(self, document: int) -> bytes:
        """Return the body of a document's current revision."""
        (body,) = self._execute(
            "SELECT CAST(body AS BLOB) FROM document WHERE id = ?", (document,)
        ).fetchone()
        assert isinstance(body, bytes)
        return body

    def add(self, collection: int, doc_id: str, sequence: int, rev: PlacedRev) -> None:
        """Add a document, with all of the history that is given."""
        row: _NewDocument = (
            collection,
            doc_id,
            sequence,
            rev.history[0],
            rev.parent,
            rev.deleted,
            len(rev.history),
            rev.vector,
            len(rev.body),
            rev.body,
        )
        if self._waiting is not None and len(rev.history) == 1 and not rev.blobs:
            self._waiting.append(row)
            return
        document = self._execute(_ADD_DOCUMENTS[1], row).lastrowid
        assert document is not None
        if len(rev.history) > 1:
            self.add_ancestors(document, rev.history[1:], None)
        if rev.blobs:
            self.refer_to(document, rev.blobs)

    def replace_current(
        self, document: int, sequence: int, rev: PlacedRev, leaves: int, revisions: int
    ) -> None:
        """Put a revision in the place of the current one, which was set aside."""
        self._execute(
            _REPLACE_CURRENT,
            (
                sequence,
                rev.history[0],
                rev.parent,
                rev.deleted,
                leaves,
                revisions,
                rev.vector,
                len(rev.body),
                rev.body,
                document,
            ),
        )

    # --- the other revisions -----------------------------------------------------------

    def set_aside(self, document: int, is_leaf: bool) -> None:
        """Copy the current revision to the others; a leaf keeps its body."""
        self._execute(_KEEP_LEAF if is_leaf else _KEEP_ANCESTOR, (document,))

    def add_ancestors(
        self, document: int, rev_ids: Sequence[RevID], parent_of_last: RevID | None
    ) -> None:
        """Add revisions of which nothing is known but their place, newest first."""
        parents = (*rev_ids[1:], parent_of_last)
        self._execute_many(
            _ADD_REVISION,
            [
                (document, rev_id, parent, 0, None)
                for rev_id, parent in zip(rev_ids, parents, strict=False)
            ],
        )
        if parent_of_last is not None:  # it may have been a leaf
            self._execute(_DROP_BODY, (document, parent_of_last))

    def add_leaf(self, document: int, rev: PlacedRev) -> None:
        """Add a revision that is not current."""
        row = (document, rev.history[0], rev.parent, rev.deleted, rev.body)
        self._execute(_ADD_REVISION, row)

    def restore(self, document: int, rev_id: RevID, vector: str) -> None:
        """Make a leaf current again, in the place of the current one, which was set aside."""
        self._execute(_RESTORE, (document, rev_id, vector))
        self._execute(_DROP_REVISION, (document, rev_id))

    def tree(self, document: int) -> list[Rev]:
        """Return all revisions."""
        rows = self._execute(_TREE, (document,)).fetchall()
        return [Rev(rev_id, parent, deleted == 1) for rev_id, parent, deleted in rows]

    def count_tree(self, document: int, sequence: int, leaves: int, revisions: int) -> None:
        """Write how large the tree is, and the sequence of its latest change."""
        self._execute(_COUNT_TREE, (sequence, leaves, revisions, document))

    def drop_revisions(self, document: int, rev_ids: Iterable[RevID]) -> None:
        """Remove revisions that are not current."""
        self._execute_many(_DROP_REVISION, [(document, rev_id) for rev_id in rev_ids])

    # --- blobs -------------------------------------------------------------------------

    def refer_to(self, document: int, digests: Iterable[str]) -> None:
        """Refer to blobs."""
        self._execute_many(
            "INSERT OR IGNORE INTO blob_reference VALUES (?, ?)",
            [(document, digest) for digest in digests],
        )

    def refer_anew(self, document: int) -> None:
        """Refer to the blobs of all leaves, which are few, and but for one tombstones."""
        bodies = self._execute(_LEAF_BODIES, (document,)).fetchall()
        self.let_go_of_blobs(document)
        self.refer_to(document, [blob.digest for (body,) in bodies for blob in stored_blobs(body)])

    def let_go_of_blobs(self, document: int) -> None:
        """Refer to no blobs; who has read of them may fetch them yet."""
        digests = self._execute(_LET_GO, (document,)).fetchall()
        if digests:
            self._blobs.let_go(digest for (digest,) in digests)

    # --- the end -----------------------------------------------------------------------

    def remove(self, document: int) -> None:
        """Remove all rows."""
        self._execute("DELETE FROM revision WHERE document = ?", (document,))
        self.let_go_of_blobs(document)
        self._execute("DELETE FROM document WHERE id = ?", (document,))

    def set_expiration(self, document: int, at_s: float | None) -> None:
        """Set when a document expires, in seconds since 1970; None: never."""
        self._execute("UPDATE document SET expires_at = ? WHERE id = ?", (at_s, document))

    def expired(self, now: float, limit: int) -> list[int]:
        """Return documents whose time has come, some of them."""
        rows = self._execute(
            "SELECT id FROM document WHERE expires_at <= ? LIMIT ?", (now, limit)
        ).fetchall()
        return [document for (document,) in rows]

    def next_expiry(self) -> float | None:
        """Return when the next document expires; None: none does."""
        (at_s,) = self._execute(
            "SELECT min(expires_at) FROM document WHERE expires_at IS NOT NULL"
        ).fetchone()
        return None if at_s is None else float(at_s)


def is_referred_to(connection: sqlite3.Connection, digest: str) -> bool:
    """Tell whether a document refers to a blob."""
    return connection.execute(_REFERENCE, (digest,)).fetchone() is not None
