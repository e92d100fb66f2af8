"""A folder of JSON files as a database: each file is a document."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from tests.active_peer.peer_database import (
    PeerCollection,
    PeerDatabase,
    PeerDocument,
    RemoteState,
    ServerRev,
    decode_body,
    encode_body,
)
from tests.active_peer.progress import Checkpoint
from tests.active_peer.revision import Revision

STATE_NAME: Final = ".active_peer.json"
BLOBS_NAME: Final = ".active_peer.blobs"
FORMAT: Final = 2
MAX_NAME_BYTES: Final = 240
SUFFIX: Final = ".json"
_UNSAFE: Final = re.compile(r'^\.|[\x00-\x1f\x7f/%\\:*?"<>|]')


class FolderError(Exception):
    """A file or folder that cannot be used."""


class Folder:
    """Mirror one collection: files become documents, pulled documents become files.

    A file's name without `.json` is the document ID, percent-decoded. What was
    synchronised is kept in `.active_peer.json`: an edited file becomes the next
    revision, a file that is gone becomes a tombstone. Blobs lie beside, by digest.
    """

    def __init__(self, path: Path, collection: str, *, versions: bool = False) -> None:
        """Open a folder.

        Args:
            path: Of it.
            collection: The one to mirror.
            versions: Whether its revisions are version vectors, or are to be from now on.

        Raises:
            FolderError: It is none, or its state is unreadable or another collection's, or
                has version vectors already where they are not wanted.
        """
        if not path.is_dir():
            raise FolderError(f"{path} is no folder")
        self._path = path
        self._state_path = path / STATE_NAME
        state = self._read_state()
        if state.get("versions") and not versions:
            raise FolderError(f"{path} has version vectors: it was synchronised in protocol 4")
        self._versions = versions
        self.database = PeerDatabase(
            path / BLOBS_NAME, identity=str(state.get("identity", "")), versions=versions
        )
        self._collection: PeerCollection = self.database.collection(collection)
        known = state.get("collection", self._collection.path)
        if known != self._collection.path:
            raise FolderError(f"{path} holds documents of {known}, not of {self._collection.path}")
        self._names: dict[str, str] = {}  # of files, by document ID
        self._restore(state)

    @property
    def collection(self) -> str:
        """The path of the collection that the folder mirrors."""
        return self._collection.path

    # --- files ------------------------------------------------------------------------

    def take_edits(self) -> int:
        """Save what is new, edited or gone in the folder; return how many documents.

        Raises:
            FolderError: A file is no JSON object, or two files are the same document.
        """
        files = self._files_by_id()
        count = 0
        for doc_id, file in files.items():
            body = encode_body(self._read(file))
            document = self._collection.document(doc_id)
            if document is None or document.deleted or not _same(document.body, body):
                self._collection.save(doc_id, decode_body(body))
                count += 1
        for doc_id in self._collection.ids():
            if doc_id not in files:
                self._collection.delete(doc_id)
                count += 1
        return count

    def write_back(self) -> int:
        """Make the files what the documents are; return how many were written or removed."""
        count = 0
        for document in self._collection.documents():
            file = self._path / self._name_of(document.doc_id)
            if document.deleted:
                count += file.exists()
                file.unlink(missing_ok=True)
            elif not file.exists() or not _same(encode_body(self._read(file)), document.body):
                text = json.dumps(decode_body(document.body), ensure_ascii=False, indent=2)
                _replace(file, text + "\n")
                count += 1
        return count

    def _files(self) -> list[Path]:
        return [
            file
            for file in sorted(self._path.glob(f"*{SUFFIX}"))
            if not file.name.startswith(".") and file.is_file()
        ]

    def _files_by_id(self) -> dict[str, Path]:
        ids = {name: doc_id for doc_id, name in self._names.items()}
        files: dict[str, Path] = {}
        for file in self._files():
            doc_id = ids.get(file.name) or unquote(file.name.removesuffix(SUFFIX))
            if doc_id in files:
                raise FolderError(f'{file} and {files[doc_id]} are both document "{doc_id}"')
            files[doc_id] = file
            self._names[doc_id] = file.name
        return files

    def _name_of(self, doc_id: str) -> str:
        return self._names.setdefault(doc_id, file_name(doc_id))

    def _read(self, file: Path) -> Mapping[str, object]:
        try:
            return decode_body(file.read_bytes())
        except ValueError as error:
            raise FolderError(f"{file} is no JSON object: {error}") from error

    # --- state ------------------------------------------------------------------------

    def save(self) -> None:
        """Keep revisions and checkpoints for the next run."""
        state = {
            "format": FORMAT,
            "identity": self.database.identity,
            "collection": self._collection.path,
            "versions": self._versions,
            "documents": [
                [
                    d.doc_id,
                    d.sequence,
                    [d.revision.rev_id, d.revision.older, d.revision.merged],
                    d.deleted,
                    d.body.decode(),
                ]
                for d in self._collection.documents()
            ],
            "names": self._names,
            "remotes": {
                remote_id: {
                    "revs": {
                        doc_id: known.rev_id
                        for doc_id, known in remote.of(self._collection.path).items()
                    },
                    "checkpoints": {
                        name: [c.seen, sorted(c.pending), c.remote]
                        for name, c in remote.checkpoints.items()
                    },
                }
                for remote_id, remote in self.database.remotes.items()
            },
        }
        _replace(self._state_path, json.dumps(state))

    def _read_state(self) -> dict[str, object]:
        try:
            state = decode_body(self._state_path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise FolderError(
                f"{self._state_path} is damaged; remove it to start over: {error}"
            ) from error
        if state.get("format") != FORMAT:
            raise FolderError(f"{self._state_path} is of another version; remove it to start over")
        return state

    def _restore(self, state: dict[str, object]) -> None:
        documents, remotes = state.get("documents", []), state.get("remotes", {})
        names = state.get("names", {})
        assert isinstance(documents, list)
        assert isinstance(remotes, dict)
        assert isinstance(names, dict)
        self._names.update(names)
        self._collection.restore(
            [
                PeerDocument(
                    doc_id,
                    sequence,
                    Revision(rev_id, tuple(older), tuple(merged)),
                    deleted,
                    body.encode(),
                )
                for doc_id, sequence, (rev_id, older, merged), deleted, body in documents
            ]
        )
        for remote_id, entry in remotes.items():
            self.database.remotes[remote_id] = RemoteState(
                {
                    self._collection.path: {
                        doc_id: self._server_rev(doc_id, rev_id)
                        for doc_id, rev_id in entry["revs"].items()
                    }
                },
                {
                    name: Checkpoint(seen, frozenset(pending), remote)
                    for name, (seen, pending, remote) in entry["checkpoints"].items()
                },
            )

    def _server_rev(self, doc_id: str, rev_id: str) -> ServerRev:
        """Return what the server has, with its body if that is the document's."""
        document = self._collection.document(doc_id)
        is_same = document is not None and document.rev_id == rev_id and not document.deleted
        return ServerRev(rev_id, document.body if document is not None and is_same else None)


def file_name(doc_id: str) -> str:
    """Return the name for a document's file; what is unsafe in it is percent-encoded."""
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", doc_id)
    if len(name.encode()) > MAX_NAME_BYTES:
        digest = hashlib.sha256(doc_id.encode()).hexdigest()
        name = f"{name.encode()[:100].decode(errors='ignore')}-{digest}"
    return name + SUFFIX


def _same(one: bytes, other: bytes) -> bool:
    """Whether two bodies are the same JSON value; 1 and 1.0 are not."""
    return one == other or encode_body(decode_body(one)) == encode_body(decode_body(other))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name[:100]}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
