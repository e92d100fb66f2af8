"""A real client in a process of its own, as two libraries do not go into one.

Reads commands from standard input and answers on standard output, a JSON array or
object a line. `RemoteClient` is the other end.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.interop.cbl import (
    Body,
    ClientCollection,
    ClientDatabase,
    Resolver,
    Security,
    replicate,
)
from tests.interop.cbl_library import CBLError, Library

JSONObject = dict[str, Any]


def unite(_doc_id: str, ours: Body | None, theirs: Body | None) -> Body | None:
    """Keep the keys of both sides, ours before theirs."""
    return {**(theirs or {}), **(ours or {})}


def keep_ours(_doc_id: str, ours: Body | None, _theirs: Body | None) -> Body | None:
    return ours


def keep_theirs(_doc_id: str, _ours: Body | None, theirs: Body | None) -> Body | None:
    return theirs


RESOLVERS: Mapping[str, Resolver | None] = {
    "": None,
    "unite": unite,
    "ours": keep_ours,
    "theirs": keep_theirs,
}


class Worker:
    """Carries out the commands: each is a method, its arguments those of the command."""

    def __init__(self, library: Path) -> None:
        self._library = Library(library)
        self._database: ClientDatabase | None = None

    @property
    def database(self) -> ClientDatabase:
        assert self._database is not None
        return self._database

    def _collection(self, path: str) -> ClientCollection:
        return self.database.collection(path)

    def open(self, folder: str, name: str) -> int:
        self._database = ClientDatabase(self._library, Path(folder), name)
        return self._library.generation

    def save(self, path: str, doc_id: str, body: Body, blob_bytes: int, blob_seed: int) -> None:
        """Save a document, with a blob of made-up content if it has a size."""
        content = random.Random(blob_seed).randbytes(blob_bytes)
        blob = ("application/octet-stream", content) if blob_bytes else None
        self._collection(path).save(doc_id, body, blob)

    def save_all(self, path: str, bodies: dict[str, Body]) -> None:
        """Save documents in one transaction."""
        self._collection(path).save_all(bodies)

    def delete(self, path: str, doc_id: str) -> None:
        self._collection(path).delete(doc_id)

    def get(self, path: str, doc_id: str) -> Body | None:
        return self._collection(path).get(doc_id)

    def rev_id(self, path: str, doc_id: str) -> str:
        return self._collection(path).rev_id(doc_id)

    def bodies(self, path: str) -> dict[str, Body | None]:
        collection = self._collection(path)
        return {doc_id: collection.get(doc_id) for doc_id in collection.ids()}

    def lacks_blobs(self, path: str) -> list[str]:
        """List the documents whose blob is not there or not whole."""
        bodies = self.bodies(path)
        return [
            doc_id
            for doc_id, body in bodies.items()
            if body is not None
            and isinstance(body.get("blob"), dict)
            and not self.database.blob_is_whole(body["blob"])  # type: ignore[arg-type]
        ]

    def replicate(
        self, url: str, kind: str, paths: list[str], resolver: str, security: dict[str, str]
    ) -> JSONObject:
        """Replicate once; return what the application would see."""
        try:
            done = replicate(
                self.database,
                url,
                kind,
                collections=paths,
                resolver=RESOLVERS[resolver],
                security=Security(
                    security["pinned"].encode(), security["user"], security["password"]
                ),
            )
        except CBLError as error:
            return {"error": [error.domain, error.code, str(error)]}
        errors = [[doc_id, e.domain, e.code] for doc_id, e in done.document_errors]
        return {"pushed": done.pushed, "pulled": done.pulled, "errors": errors}

    def close(self) -> None:
        self.database.close()
        self._database = None


def main() -> None:
    """Serve until standard input ends."""
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        command: Callable[..., object] = getattr(worker, name)
        print(json.dumps(command(*arguments)), flush=True)


if __name__ == "__main__":
    main()
