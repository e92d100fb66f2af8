"""Documents by keyspace: one, many, all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import falcon
import orjson

from edgesync import Collection, Document, Edit
from edgesync.api.answers import SavedAnswer
from edgesync.api.box import Box, keyspace_of
from edgesync.api.requests import (
    JSON,
    answer,
    flag,
    number,
    parent_rev,
    query_text,
    read_object,
)
from edgesync.api.statuses import refusal
from edgesync.errors import ConflictError, EdgeSyncError, NotFoundError, RequestError
from edgesync.limits import Limits

PAGE_BYTES = 64 * 1024
_OURS = ("_id", "_rev", "_deleted")
Application: TypeAlias = "falcon.App[falcon.Request, falcon.Response]"  # a string for falcon 3


def add_routes(application: Application, box: Box, limits: Limits) -> None:
    """Add the paths of this module."""
    application.add_route("/{keyspace}", _Keyspace(box, limits))
    application.add_route("/{keyspace}/_bulk_docs", _BulkDocs(box, limits))
    application.add_route("/{keyspace}/_all_docs", _AllDocs(box, limits))
    application.add_route("/{keyspace}/{doc_id}", _Document(box, limits))


def with_metadata(document: Document) -> dict[str, object]:
    """Return a body with `_id` and `_rev`, as the REST APIs of Couchbase give it."""
    head: dict[str, object] = {"_id": document.id, "_rev": document.revision_id}
    if document.deleted:
        head["_deleted"] = True
    return {**head, **document.body}


def saved(document: Document) -> SavedAnswer:
    """Return what tells of a stored revision."""
    return {"id": document.id, "rev": document.revision_id, "ok": True}


@dataclass(frozen=True, slots=True)
class _Keyspace:
    box: Box
    limits: Limits

    def on_get(self, _request: falcon.Request, response: falcon.Response, keyspace: str) -> None:
        collection = self.box.collection(keyspace)
        answer(
            response,
            {
                "keyspace": keyspace_of(collection),
                "db_name": collection.database.name,
                "doc_count": collection.count,
            },
        )

    def on_post(self, request: falcon.Request, response: falcon.Response, keyspace: str) -> None:
        collection = self.box.collection(keyspace)
        body = read_object(request, self.limits.max_document_bytes)
        doc_id = body.get("_id")
        if doc_id is not None and not isinstance(doc_id, str):
            raise RequestError('"_id" is not a text')
        document = collection.save(doc_id, _content(body), parent=parent_rev(request, body))
        answer(response, saved(document), falcon.HTTP_201)


@dataclass(frozen=True, slots=True)
class _Document:
    box: Box
    limits: Limits

    def on_get(
        self, request: falcon.Request, response: falcon.Response, keyspace: str, doc_id: str
    ) -> None:
        document = find(self.box.collection(keyspace), doc_id, query_text(request, "rev"))
        response.etag = document.revision_id
        answer(response, with_metadata(document))

    on_head = on_get

    def on_put(
        self, request: falcon.Request, response: falcon.Response, keyspace: str, doc_id: str
    ) -> None:
        collection = self.box.collection(keyspace)
        body = read_object(request, self.limits.max_document_bytes)
        if body.get("_id", doc_id) != doc_id:
            raise RequestError(f'the path names "{doc_id}", and "_id" names "{body["_id"]}"')
        parent = parent_rev(request, body)
        if body.get("_deleted") is True:
            answer(response, saved(_delete(collection, doc_id, parent)))
            return
        document = collection.save(doc_id, _content(body), parent=parent)
        response.etag = document.revision_id
        answer(response, saved(document), falcon.HTTP_201)

    def on_delete(
        self, request: falcon.Request, response: falcon.Response, keyspace: str, doc_id: str
    ) -> None:
        collection = self.box.collection(keyspace)
        answer(response, saved(_delete(collection, doc_id, parent_rev(request))))


@dataclass(frozen=True, slots=True)
class _BulkDocs:
    box: Box
    limits: Limits

    def on_post(self, request: falcon.Request, response: falcon.Response, keyspace: str) -> None:
        collection = self.box.collection(keyspace)
        bodies = read_object(request, self.limits.max_api_body_bytes).get("docs")
        if not isinstance(bodies, list) or not all(isinstance(body, dict) for body in bodies):
            raise RequestError('"docs" must be a list of objects')
        edits = [_edit(body) for body in bodies]
        results: list[object] = []
        for edit, result in zip(edits, collection.save_all(edits), strict=True):
            if isinstance(result, EdgeSyncError):
                status, told = refusal(result)
                results.append({"id": edit.doc_id, "status": int(status[:3]), **told})
            else:
                results.append(saved(result))
        answer(response, results, falcon.HTTP_201)


@dataclass(frozen=True, slots=True)
class _AllDocs:
    box: Box
    limits: Limits

    def on_get(self, request: falcon.Request, response: falcon.Response, keyspace: str) -> None:
        collection = self.box.collection(keyspace)
        start = query_text(request, "startkey") or query_text(request, "start_key") or ""
        end = query_text(request, "endkey") or query_text(request, "end_key")
        documents = islice(
            _up_to(collection.documents(start), end), number(request, "limit", 2**62)
        )
        response.content_type = JSON
        response.stream = _rows(
            collection.count, documents, with_bodies=flag(request, "include_docs")
        )


def find(collection: Collection, doc_id: str, rev: str | None) -> Document:
    """Return a document's current revision.

    Raises:
        NotFoundError: There is no such document, or another revision is current.
    """
    document = collection.get(doc_id)
    if document is None:
        raise NotFoundError(f'there is no document "{doc_id}"')
    if rev is not None and rev != document.revision_id:
        raise NotFoundError(
            f'revision {rev} of "{doc_id}" is not there',
            hint=f"the current one is {document.revision_id}",
        )
    return document


def _delete(collection: Collection, doc_id: str, parent: str | None) -> Document:
    if parent is None:
        raise ConflictError(doc_id, find(collection, doc_id, None).revision_id)
    return collection.delete(doc_id, parent=parent)


def _content(body: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in body.items() if key not in _OURS}


def _edit(body: Mapping[str, object]) -> Edit:
    doc_id, rev = body.get("_id"), body.get("_rev")
    return Edit(
        doc_id if isinstance(doc_id, str) else None,
        _content(body),
        rev if isinstance(rev, str) else None,
        body.get("_deleted") is True,
    )


def _up_to(documents: Iterator[Document], end: str | None) -> Iterator[Document]:
    for document in documents:
        # In the order of the store: by UTF-8, as Python's differs for some characters.
        if end is not None and document.id.encode() > end.encode():
            return
        yield document


def _rows(total: int, documents: Iterator[Document], *, with_bodies: bool) -> Iterator[bytes]:
    """Yield the answer in pieces, so that only a page of documents is in memory."""
    piece = bytearray(b'{"total_rows":%d,"rows":[' % total)
    separator = b"\n"
    for document in documents:
        row: dict[str, object] = {
            "id": document.id,
            "key": document.id,
            "value": {"rev": document.revision_id},
        }
        if with_bodies:
            row["doc"] = with_metadata(document)
        piece += separator + orjson.dumps(row)
        separator = b",\n"
        if len(piece) > PAGE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + b"\n]}\n")
