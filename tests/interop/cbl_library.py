"""The C API of Couchbase Lite 3.x and 4.x: structures, functions, errors. What `cbl.py` needs.

The structures are those of the headers of 3.1 to 3.3, and of 4.0.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DOMAINS: Final = {1: "CBL", 2: "POSIX", 3: "SQLite", 4: "Fleece", 5: "Network", 6: "WebSocket"}
SILENT: Final = 5
"""A log level."""


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


class ReplicatorConfig4(c.Structure):
    """The same of 4.0."""

    _fields_ = (
        ("collections", c.POINTER(ReplicatedCollection)),
        ("collection_count", c.c_size_t),
        ("endpoint", c.c_void_p),
        ("kind", c.c_uint8),
        ("continuous", c.c_bool),
        ("authenticator", c.c_void_p),
        ("context", c.c_void_p),
        ("pinned_certificate", Slice),
        ("disable_auto_purge", c.c_bool),
        ("max_attempts", c.c_uint),
        ("max_attempt_wait_s", c.c_uint),
        ("heartbeat_s", c.c_uint),
        ("headers", c.c_void_p),
        ("proxy", c.c_void_p),
        ("accept_parent_domain_cookies", c.c_bool),
        ("trusted_roots", Slice),
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
    "CBLAuth_CreatePassword": (_P, [_S, _S]),
    "CBLAuth_Free": (None, [_P]),
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
    """The loaded library.

    Attributes:
        generation: 3 or 4.
    """

    def __init__(self, path: Path) -> None:
        handle = c.CDLL(str(path))
        # There from 4.0 on, where the structures changed.
        self.generation = 4 if hasattr(handle, "CBLDocument_Timestamp") else 3
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
