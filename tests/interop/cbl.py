"""Drive a native Couchbase Lite 3.x (libcblite.so, Community Edition) through ctypes.

Only what the interoperability tests need: databases, documents, blobs,
replicators. The structures are those of the C API's headers of 3.1 to 3.3.
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
from pathlib import Path
from types import TracebackType
from typing import Final, Self

Body = dict[str, object]
Resolver = Callable[[str, Body | None, Body | None], Body | None]

ACTIVITIES: Final = ("stopped", "offline", "connecting", "idle", "busy")
DOMAINS: Final = {1: "CBL", 2: "POSIX", 3: "SQLite", 4: "Fleece", 5: "Network", 6: "WebSocket"}
KINDS: Final = {"pushpull": 0, "push": 1, "pull": 2}
SILENT: Final = 5  # a log level
N1QL: Final = 1
DEFAULT: Final = "_default"


# --- structures --------------------------------------------------------------------


class Slice(c.Structure):
    _fields_ = (("buf", c.c_void_p), ("size", c.c_size_t))

    def content(self) -> bytes:
        return c.string_at(self.buf, self.size) if self.buf else b""

    def text(self) -> str:
        return self.content().decode()


class CError(c.Structure):
    _fields_ = (("domain", c.c_uint8), ("code", c.c_int), ("info", c.c_uint))


class DatabaseConfig(c.Structure):
    _fields_ = (("directory", Slice), ("full_sync", c.c_bool), ("mmap_disabled", c.c_bool))


class Progress(c.Structure):
    _fields_ = (("complete", c.c_float), ("document_count", c.c_uint64))


class Status(c.Structure):
    _fields_ = (("activity", c.c_uint8), ("progress", Progress), ("error", CError))


class ReplicatedDocument(c.Structure):
    _fields_ = (
        ("id", Slice),
        ("flags", c.c_uint),
        ("error", CError),
        ("scope", Slice),
        ("collection", Slice),
    )


class ReplicatedCollection(c.Structure):
    _fields_ = (
        ("collection", c.c_void_p),
        ("conflict_resolver", c.c_void_p),
        ("push_filter", c.c_void_p),
        ("pull_filter", c.c_void_p),
        ("channels", c.c_void_p),
        ("document_ids", c.c_void_p),
    )


class ReplicatorConfig(c.Structure):
    _fields_ = (
        ("database", c.c_void_p),
        ("endpoint", c.c_void_p),
        ("kind", c.c_uint8),
        ("continuous", c.c_bool),
        ("disable_auto_purge", c.c_bool),
        ("max_attempts", c.c_uint),
        ("max_attempt_wait_s", c.c_uint),
        ("heartbeat_s", c.c_uint),
        ("authenticator", c.c_void_p),
        ("proxy", c.c_void_p),
        ("headers", c.c_void_p),
        ("pinned_certificate", Slice),
        ("trusted_roots", Slice),
        ("channels", c.c_void_p),
        ("document_ids", c.c_void_p),
        ("push_filter", c.c_void_p),
        ("pull_filter", c.c_void_p),
        ("conflict_resolver", c.c_void_p),
        ("context", c.c_void_p),
        ("collections", c.POINTER(ReplicatedCollection)),
        ("collection_count", c.c_size_t),
        ("accept_parent_domain_cookies", c.c_bool),
    )


class ConsoleSink(c.Structure):
    _fields_ = (("level", c.c_uint8), ("domains", c.c_uint16))


STATUS_CALLBACK: Final = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.POINTER(Status))
DOCUMENTS_CALLBACK: Final = c.CFUNCTYPE(
    None, c.c_void_p, c.c_void_p, c.c_bool, c.c_uint, c.POINTER(ReplicatedDocument)
)
RESOLVER_CALLBACK: Final = c.CFUNCTYPE(c.c_void_p, c.c_void_p, Slice, c.c_void_p, c.c_void_p)

_P, _B, _E, _S = c.c_void_p, c.c_bool, c.POINTER(CError), Slice
SIGNATURES: Final[Mapping[str, tuple[object, list[object]]]] = {
    "CBLError_Message": (_S, [_E]),
    "CBL_Release": (None, [_P]),
    "_FLBuf_Release": (None, [_P]),
    "CBLDatabase_Open": (_P, [_S, _P, _E]),
    "CBLDatabase_Close": (_B, [_P, _E]),
    "CBLDatabase_Path": (_S, [_P]),
    "CBLDatabase_BeginTransaction": (_B, [_P, _E]),
    "CBLDatabase_EndTransaction": (_B, [_P, _B, _E]),
    "CBLDatabase_CreateCollection": (_P, [_P, _S, _S, _E]),
    "CBLDatabase_DefaultCollection": (_P, [_P, _E]),
    "CBLCollection_GetDocument": (_P, [_P, _S, _E]),
    "CBLCollection_GetMutableDocument": (_P, [_P, _S, _E]),
    "CBLCollection_SaveDocument": (_B, [_P, _P, _E]),
    "CBLCollection_DeleteDocument": (_B, [_P, _P, _E]),
    "CBLDocument_CreateWithID": (_P, [_S]),
    "CBLDocument_MutableCopy": (_P, [_P]),
    "CBLDocument_SetJSON": (_B, [_P, _S, _E]),
    "CBLDocument_CreateJSON": (_S, [_P]),
    "CBLDocument_RevisionID": (_S, [_P]),
    "CBLDocument_MutableProperties": (_P, [_P]),
    "CBLBlob_CreateWithData": (_P, [_S, _S]),
    "FLSlot_SetBlob": (None, [_P, _P]),
    "FLMutableDict_Set": (_P, [_P, _S]),
    "FLValue_ToJSON": (_S, [_P]),
    "CBLDatabase_CreateQuery": (_P, [_P, c.c_uint32, _S, _P, _E]),
    "CBLQuery_Execute": (_P, [_P, _E]),
    "CBLResultSet_Next": (_B, [_P]),
    "CBLResultSet_ResultArray": (_P, [_P]),
    "CBLEndpoint_CreateWithURL": (_P, [_S, _E]),
    "CBLEndpoint_Free": (None, [_P]),
    "CBLReplicator_Create": (_P, [_P, _E]),
    "CBLReplicator_Start": (None, [_P, _B]),
    "CBLReplicator_Stop": (None, [_P]),
    "CBLReplicator_Status": (Status, [_P]),
    "CBLReplicator_AddChangeListener": (_P, [_P, STATUS_CALLBACK, _P]),
    "CBLReplicator_AddDocumentReplicationListener": (_P, [_P, DOCUMENTS_CALLBACK, _P]),
    "CBLListener_Remove": (None, [_P]),
    "CBLLogSinks_SetConsole": (None, [ConsoleSink]),
}


class CBLError(Exception):
    """An error of the library."""

    def __init__(self, domain: str, code: int, text: str) -> None:
        super().__init__(f"{domain} {code}: {text}")
        self.domain = domain
        self.code = code


class Library:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        handle = c.CDLL(str(path))
        self._functions = {name: getattr(handle, name) for name in SIGNATURES}
        for name, (result, arguments) in SIGNATURES.items():
            self._functions[name].restype = result
            self._functions[name].argtypes = arguments
        # The level in force counts as set already, while the library still logs: set another first.
        self.do("CBLLogSinks_SetConsole", ConsoleSink(SILENT - 1, 0xFF))
        self.do("CBLLogSinks_SetConsole", ConsoleSink(SILENT, 0xFF))

    def do(self, name: str, *arguments: object) -> None:
        """Call a function without a result."""
        self._functions[name](*arguments)

    def call(self, name: str, *arguments: object) -> int:
        """Call a function that gives a pointer or a truth value; its last argument is an error."""
        error = CError()
        result = self._functions[name](*arguments, c.byref(error))
        if not result and error.code:
            raise self.error(error)
        return int(result or 0)

    def get(self, name: str, *arguments: object) -> int:
        """Call a function that cannot fail; return its pointer or number."""
        return int(self._functions[name](*arguments) or 0)

    def text(self, name: str, *arguments: object) -> str:
        """Call a function that gives a string that belongs to its object."""
        result = self._functions[name](*arguments)
        assert isinstance(result, Slice)
        return result.text()

    def take(self, name: str, *arguments: object) -> bytes:
        """Call a function that gives a string of our own; release that."""
        result = self._functions[name](*arguments)
        assert isinstance(result, Slice)
        content = result.content()
        if result.buf:
            self.do("_FLBuf_Release", result.buf)
        return content

    def error(self, error: CError) -> CBLError:
        """Return an exception for an error of the library."""
        text = self.take("CBLError_Message", c.byref(error)).decode("utf-8", "replace")
        return CBLError(DOMAINS.get(error.domain, str(error.domain)), error.code, text)

    def status(self, replicator: int) -> Status:
        """Return where a replicator stands."""
        result = self._functions["CBLReplicator_Status"](replicator)
        assert isinstance(result, Status)
        return result


class Strings:
    """Slices over Python's bytes, which live as long as this does."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def __call__(self, value: str | bytes) -> Slice:
        data = value.encode() if isinstance(value, str) else value
        self._kept.append(data)
        return Slice(c.cast(c.c_char_p(data), c.c_void_p), len(data))


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
        self._config = ReplicatorConfig(
            endpoint=self._endpoint,
            kind=KINDS[kind],
            continuous=continuous,
            max_attempts=max_attempts,
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
    timeout_s: float = 60.0,
) -> ClientReplicator:
    """Replicate once.

    Raises:
        CBLError: It ended with an error.
        TimeoutError: It does not end.
    """
    made = ClientReplicator(database, url, kind, collections=collections, resolver=resolver)
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
