"""The near end of a real client in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.interop.cbl import Security
from tests.interop.cbl_library import CBLError

DEFAULT: Final = "_default._default"
STOP_TIMEOUT_S: Final = 20.0
Body = dict[str, object]


@dataclass(frozen=True, slots=True)
class Run:
    """What the application saw of a replication."""

    pushed: int
    pulled: int
    errors: list[tuple[str, str, int]]
    """Document, domain and code."""


class RemoteClient:
    """A database of Couchbase Lite 3.x or 4.x."""

    def __init__(self, generation: int, folder: Path, name: str) -> None:
        self.generation = generation
        self.folder = folder
        self._name = name
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.interop.client_process",
                os.environ[f"EDGESYNC_CBL_{generation}"],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._do("open", str(folder), name) == generation

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def _do(self, name: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the real client has ended at {name}"
        return json.loads(line)

    def save(
        self,
        doc_id: str,
        body: Body,
        *,
        path: str = DEFAULT,
        blob_bytes: int = 0,
        blob_seed: int = 0,
    ) -> None:
        """Make or replace a document, with a blob of that size under the key `blob`."""
        self._do("save", path, doc_id, body, blob_bytes, blob_seed)

    def save_all(self, bodies: Mapping[str, Body], *, path: str = DEFAULT) -> None:
        """Make or replace documents by their IDs, in one transaction."""
        self._do("save_all", path, bodies)

    def delete(self, doc_id: str, *, path: str = DEFAULT) -> None:
        """Make a tombstone."""
        self._do("delete", path, doc_id)

    def get(self, doc_id: str, *, path: str = DEFAULT) -> Body | None:
        """Return a body, None if there is no such document."""
        body: Body | None = self._do("get", path, doc_id)
        return body

    def rev_id(self, doc_id: str, *, path: str = DEFAULT) -> str:
        """Return the current revision."""
        return str(self._do("rev_id", path, doc_id))

    def lacks_blobs(self, path: str = DEFAULT) -> list[str]:
        """List the documents whose blob is not there or not whole."""
        found: list[str] = self._do("lacks_blobs", path)
        return found

    def digest(self, path: str = DEFAULT) -> str:
        """Return a hash over the live documents, to compare two databases by."""
        text = json.dumps(self._do("bodies", path), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def replicate(
        self,
        url: str,
        kind: str = "pushpull",
        *,
        paths: Sequence[str] = (DEFAULT,),
        resolver: str = "",
        security: Security = Security(),  # noqa: B008 - it is frozen
    ) -> Run:
        """Replicate once."""
        shown = {
            "pinned": security.pinned.decode(),
            "user": security.user,
            "password": security.password,
        }
        seen = self._do("replicate", url, kind, list(paths), resolver, shown)
        if "error" in seen:
            raise CBLError(*seen["error"])
        return Run(seen["pushed"], seen["pulled"], [tuple(error) for error in seen["errors"]])

    def close(self) -> None:
        """Close the database and end the process."""
        if self._process.poll() is None:
            self._do("close")
            self._process.communicate(timeout=STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        self._process.kill()
        self._process.communicate(timeout=STOP_TIMEOUT_S)
