"""Drive a native Couchbase Lite 3.x or 4.x (libcblite.so, Community Edition) through ctypes.

Only what the interoperability tests need: databases, documents, blobs,
replicators.
"""

from __future__ import annotations

import base64
import ctypes as c
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.interop.cbl_library import (
    DOCUMENTS_CALLBACK,
    RESOLVER_CALLBACK,
    STATUS_CALLBACK,
    CBLError,
    DatabaseConfig,
    Library,
    ReplicatedCollection,
    ReplicatedDocument,
    ReplicatorConfig,
    ReplicatorConfig4,
    Slice,
    Status,
    Strings,
)

Body = dict[str, object]
Resolver = Callable[[str, Body | None, Body | None], Body | None]

ACTIVITIES: Final = ("stopped", "offline", "connecting", "idle", "busy")
KINDS: Final = {"pushpull": 0, "push": 1, "pull": 2}
N1QL: Final = 1
DEFAULT: Final = "_default"


# --- databases ---------------------------------------------------------------------


class ClientDatabase:
    """A database of the real client."""

    def __init__(self, library: Library, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.library = library
        s = Strings()
        config = DatabaseConfig(s(str(folder.resolve())), False, False)
        self.ref = library.call("CBLDatabase_Open", s(name), c.byref(config))
        self.path = Path(library.take("CBLDatabase_Path", self.ref).decode())
        self._collections: dict[str, ClientCollection] = {}

    def collection(self, path: str = f"{DEFAULT}.{DEFAULT}") -> ClientCollection:
        """Return a collection by `scope.name`, made if it is missing."""
        if path not in self._collections:
            self._collections[path] = ClientCollection(self, path)
        return self._collections[path]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do several changes at once."""
        self.library.call("CBLDatabase_BeginTransaction", self.ref)
        is_good = False
        try:
            yield
            is_good = True
        finally:
            self.library.call("CBLDatabase_EndTransaction", self.ref, is_good)

    def query(self, text: str) -> list[list[object]]:
        """Return the rows of a SQL++ query."""
        library, s = self.library, Strings()
        query = library.call("CBLDatabase_CreateQuery", self.ref, N1QL, s(text), None)
        results = library.call("CBLQuery_Execute", query)
        rows: list[list[object]] = []
        while library.get("CBLResultSet_Next", results):
            row = library.get("CBLResultSet_ResultArray", results)
            rows.append(json.loads(library.take("FLValue_ToJSON", row)))
        library.do("CBL_Release", results)
        library.do("CBL_Release", query)
        return rows

    def blob_is_whole(self, properties: Mapping[str, object]) -> bool:
        """Whether a blob's file is there and has its digest and length."""
        digest = str(properties["digest"])
        name = digest.removeprefix("sha1-").replace("/", "_") + ".blob"
        try:
            content = (self.path / "Attachments" / name).read_bytes()
        except FileNotFoundError:
            return False
        found = "sha1-" + base64.b64encode(hashlib.sha1(content).digest()).decode()
        return found == digest and len(content) == properties["length"]

    def close(self) -> None:
        """Close it."""
        for collection in self._collections.values():
            self.library.do("CBL_Release", collection.ref)
        self.library.call("CBLDatabase_Close", self.ref)
        self.library.do("CBL_Release", self.ref)


class ClientCollection:
    """A collection of the real client."""

    def __init__(self, database: ClientDatabase, path: str) -> None:
        self.library = database.library
        self.path = path
        self._database = database
        self._s = Strings()
        scope, _, name = path.partition(".")
        if scope == name == DEFAULT:
            self.ref = self.library.call("CBLDatabase_DefaultCollection", database.ref)
            self._sql = "_"
        else:
            names = self._s(name), self._s(scope)
            self.ref = self.library.call("CBLDatabase_CreateCollection", database.ref, *names)
            self._sql = f"`{scope}`.`{name}`"

    def get(self, doc_id: str) -> Body | None:
        """Return a body, None if there is no such document."""
        document = self.library.call("CBLCollection_GetDocument", self.ref, self._s(doc_id))
        if not document:
            return None
        body = json.loads(self.library.take("CBLDocument_CreateJSON", document))
        assert isinstance(body, dict)
        self.library.do("CBL_Release", document)
        return body

    def rev_id(self, doc_id: str) -> str:
        """Return the current revision of a document."""
        document = self.library.call("CBLCollection_GetDocument", self.ref, self._s(doc_id))
        rev_id = self.library.text("CBLDocument_RevisionID", document)
        self.library.do("CBL_Release", document)
        return rev_id

    def save(
        self, doc_id: str, body: Mapping[str, object], blob: tuple[str, bytes] | None = None
    ) -> None:
        """Make or replace a document.

        Args:
            doc_id: Its ID.
            body: Its content.
            blob: Content type and bytes of a blob, to go under the key `blob`.
        """
        library, s = self.library, Strings()
        document = library.call("CBLCollection_GetMutableDocument", self.ref, s(doc_id))
        if not document:
            document = library.get("CBLDocument_CreateWithID", s(doc_id))
        library.call("CBLDocument_SetJSON", document, s(json.dumps(body)))
        made = 0
        if blob is not None:
            made = library.get("CBLBlob_CreateWithData", s(blob[0]), s(blob[1]))
            properties = library.get("CBLDocument_MutableProperties", document)
            library.do(
                "FLSlot_SetBlob", library.get("FLMutableDict_Set", properties, s("blob")), made
            )
        library.call("CBLCollection_SaveDocument", self.ref, document)
        if made:
            library.do("CBL_Release", made)
        library.do("CBL_Release", document)

    def save_all(self, bodies: Mapping[str, Mapping[str, object]]) -> None:
        """Make or replace documents in one transaction."""
        with self._database.transaction():
            for doc_id, body in bodies.items():
                self.save(doc_id, body)

    def delete(self, doc_id: str) -> None:
        """Make a tombstone."""
        document = self.library.call("CBLCollection_GetDocument", self.ref, self._s(doc_id))
        self.library.call("CBLCollection_DeleteDocument", self.ref, document)
        self.library.do("CBL_Release", document)

    def ids(self, *, deleted: bool = False) -> list[str]:
        """List the documents, or the tombstones."""
        where = " WHERE META().deleted = true" if deleted else ""
        rows = self._database.query(f"SELECT META().id FROM {self._sql}{where} ORDER BY META().id")
        return [str(row[0]) for row in rows]

    def digest(self) -> str:
        """Return a hash over IDs, revision IDs and bodies, to compare two databases by."""
        sha256 = hashlib.sha256()
        for doc_id in self.ids():
            line = [doc_id, self.rev_id(doc_id), self.get(doc_id)]
            sha256.update(json.dumps(line, sort_keys=True).encode() + b"\n")
        return sha256.hexdigest()


@dataclass(frozen=True, slots=True)
class Security:
    """Whom a client trusts, and who it says it is."""

    pinned: bytes = b""
    """The only certificate of a server to accept, as PEM; empty: what a public authority signed."""
    user: str = ""
    """Empty: it says nothing."""
    password: str = ""


# --- replication -------------------------------------------------------------------


class ClientReplicator:
    """A replicator of the real client, in use within a `with`."""

    def __init__(
        self,
        database: ClientDatabase,
        url: str,
        kind: str = "pushpull",
        *,
        collections: Sequence[str] = (f"{DEFAULT}.{DEFAULT}",),
        continuous: bool = False,
        resolver: Resolver | None = None,
        max_attempts: int = 1,
        security: Security = Security(),
    ) -> None:
        """Make one.

        Args:
            database: Of the client.
            url: Of the server.
            kind: A key of `KINDS`.
            collections: Paths.
            continuous: Whether it goes on until `stop`.
            resolver: (ID, our body, the server's) -> the body to keep; None: the library's.
            max_attempts: Connections that may fail, one after another.
            security: Whom it trusts, and who it is.
        """
        self._library = library = database.library
        self._s = Strings()
        self._changed = threading.Condition()
        self._activity = ""
        self.pushed = 0
        self.pulled = 0
        self.document_errors: list[tuple[str, CBLError]] = []
        self._endpoint = library.call("CBLEndpoint_CreateWithURL", self._s(url))
        self._resolver = RESOLVER_CALLBACK(self._resolve)
        self._decide = resolver
        array = (ReplicatedCollection * len(collections))()
        for entry, path in zip(array, collections, strict=True):
            entry.collection = database.collection(path).ref
            if resolver is not None:
                entry.conflict_resolver = c.cast(self._resolver, c.c_void_p)
        self._auth = 0
        if security.user:
            credentials = self._s(security.user), self._s(security.password)
            self._auth = library.get("CBLAuth_CreatePassword", *credentials)
        make_config = ReplicatorConfig4 if library.generation >= 4 else ReplicatorConfig
        self._config = make_config(
            endpoint=self._endpoint,
            kind=KINDS[kind],
            continuous=continuous,
            max_attempts=max_attempts,
            authenticator=self._auth or None,
            pinned_certificate=self._s(security.pinned) if security.pinned else Slice(),
            collections=array,
            collection_count=len(collections),
        )
        self.ref = library.call("CBLReplicator_Create", c.byref(self._config))
        self._on_status = STATUS_CALLBACK(self._take_status)
        self._on_documents = DOCUMENTS_CALLBACK(self._take_documents)
        self._tokens = [
            library.get("CBLReplicator_AddChangeListener", self.ref, self._on_status, None),
            library.get(
                "CBLReplicator_AddDocumentReplicationListener", self.ref, self._on_documents, None
            ),
        ]

    def __enter__(self) -> Self:
        self._activity = ""
        self._library.do("CBLReplicator_Start", self.ref, False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.do("CBLReplicator_Stop", self.ref)
        self.wait("stopped", 20.0)
        for token in self._tokens:
            self._library.do("CBLListener_Remove", token)
        self._library.do("CBL_Release", self.ref)
        self._library.do("CBLEndpoint_Free", self._endpoint)
        if self._auth:
            self._library.do("CBLAuth_Free", self._auth)

    def wait(self, activity: str, timeout_s: float) -> None:
        """Wait until it is idle, or stopped.

        Raises:
            TimeoutError: It is not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._activity == activity, timeout_s):
                raise TimeoutError(f"the real client is {self._activity}, not {activity}")

    @property
    def error(self) -> CBLError | None:
        """What ended it, or the last thing that went wrong."""
        error = self._library.status(self.ref).error
        return self._library.error(error) if error.code else None

    def _take_status(self, _context: object, _ref: object, status: Sequence[Status]) -> None:
        with self._changed:
            self._activity = ACTIVITIES[status[0].activity]
            self._changed.notify_all()

    def _take_documents(
        self,
        _context: object,
        _ref: object,
        is_push: bool,
        count: int,
        documents: Sequence[ReplicatedDocument],
    ) -> None:
        with self._changed:
            for place in range(count):
                document = documents[place]
                if document.error.code:
                    error = self._library.error(document.error)
                    self.document_errors.append((document.id.text(), error))
                elif is_push:
                    self.pushed += 1
                else:
                    self.pulled += 1

    def _resolve(
        self, _context: object, doc_id: Slice, ours: int | None, theirs: int | None
    ) -> int | None:
        assert self._decide is not None
        library, s = self._library, Strings()
        kept = self._decide(doc_id.text(), self._body(ours), self._body(theirs))
        if kept is None:
            return None
        merged = library.get("CBLDocument_MutableCopy", ours or theirs)
        library.call("CBLDocument_SetJSON", merged, s(json.dumps(kept)))
        return merged

    def _body(self, document: int | None) -> Body | None:
        if not document:
            return None
        body = json.loads(self._library.take("CBLDocument_CreateJSON", document))
        assert isinstance(body, dict)
        return body


def replicate(
    database: ClientDatabase,
    url: str,
    kind: str = "pushpull",
    *,
    collections: Sequence[str] = (f"{DEFAULT}.{DEFAULT}",),
    resolver: Resolver | None = None,
    security: Security = Security(),
    timeout_s: float = 60.0,
) -> ClientReplicator:
    """Replicate once.

    Raises:
        CBLError: It ended with an error.
        TimeoutError: It does not end.
    """
    made = ClientReplicator(
        database, url, kind, collections=collections, resolver=resolver, security=security
    )
    with made as replicator:
        replicator.wait("stopped", timeout_s)
        if (error := replicator.error) is not None:
            raise error
    return made


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It does not.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s")
        time.sleep(0.02)
