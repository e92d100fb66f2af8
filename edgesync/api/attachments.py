"""Attachments: blobs of documents, streamed in and out."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import falcon

from edgesync import Database
from edgesync.api.answers import BlobAnswer
from edgesync.api.box import Box
from edgesync.api.documents import Application, find, saved
from edgesync.api.requests import BoundedStream, answer, parent_rev, pieces_of, query_text
from edgesync.errors import BlobNotFoundError, ConflictError, NotFoundError, RequestError
from edgesync.limits import Limits

BINARY: Final = "application/octet-stream"


def add_routes(application: Application, box: Box, limits: Limits) -> None:
    """Add the paths of this module."""
    application.add_route("/{keyspace}/{doc_id}/{attachment}", _Attachment(box, limits))
    application.add_route("/_edgesync/databases/{name}/blobs", _Blobs(box, limits))
    application.add_route("/_edgesync/databases/{name}/blobs/{digest}", _Blob(box))


@dataclass(frozen=True, slots=True)
class _Attachment:
    """A property of a document: a blob is given as its content, another value as JSON."""

    box: Box
    limits: Limits

    def on_get(
        self,
        request: falcon.Request,
        response: falcon.Response,
        keyspace: str,
        doc_id: str,
        attachment: str,
    ) -> None:
        collection = self.box.collection(keyspace)
        document = find(collection, doc_id, query_text(request, "rev"))
        value = _property(document.body, doc_id, attachment)
        if not isinstance(value, dict) or value.get("@type") != "blob":
            answer(response, value)
            return
        _stream(response, collection.database, value)

    on_head = on_get

    def on_put(
        self,
        request: falcon.Request,
        response: falcon.Response,
        keyspace: str,
        doc_id: str,
        attachment: str,
    ) -> None:
        collection = self.box.collection(keyspace)
        parent = parent_rev(request)
        document = collection.get(doc_id)
        current = document.revision_id if document is not None else ""
        if current and parent != current:  # before the content comes, which may be large
            raise ConflictError(doc_id, current)
        blob = _saved_blob(request, collection.database, self.limits)
        body = dict(document.body) if document is not None else {}
        document = collection.save(doc_id, {**body, attachment: blob}, parent=parent)
        response.etag = document.revision_id
        answer(response, saved(document), falcon.HTTP_201)

    def on_delete(
        self,
        request: falcon.Request,
        response: falcon.Response,
        keyspace: str,
        doc_id: str,
        attachment: str,
    ) -> None:
        collection = self.box.collection(keyspace)
        document = find(collection, doc_id, None)
        _property(document.body, doc_id, attachment)
        parent = parent_rev(request)
        if parent is None:
            raise ConflictError(doc_id, document.revision_id)
        body = {key: value for key, value in document.body.items() if key != attachment}
        answer(response, saved(collection.save(doc_id, body, parent=parent)))


@dataclass(frozen=True, slots=True)
class _Blobs:
    """Takes a blob before the documents that refer to it, as an import needs."""

    box: Box
    limits: Limits

    def on_post(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        blob = _saved_blob(request, self.box.database(name), self.limits)
        answer(response, blob, falcon.HTTP_201)


@dataclass(frozen=True, slots=True)
class _Blob:
    box: Box

    def on_get(
        self, _request: falcon.Request, response: falcon.Response, name: str, digest: str
    ) -> None:
        found = self.box.database(name).get_blob({"digest": digest})
        if found is None:
            raise BlobNotFoundError(digest)
        response.content_type = BINARY
        response.stream = pieces_of(found)


def _saved_blob(request: falcon.Request, database: Database, limits: Limits) -> BlobAnswer:
    if request.content_length is None and not request.env.get("HTTP_TRANSFER_ENCODING"):
        raise RequestError("there is no content")
    stream = BoundedStream(request, limits.max_blob_bytes)
    # cast: of a stream, only `read` is asked for.
    blob = database.save_blob(cast(BinaryIO, stream), request.content_type or BINARY)
    return cast(BlobAnswer, blob)  # cast: what `save_blob` promises


def _stream(
    response: falcon.Response, database: Database, properties: Mapping[str, object]
) -> None:
    content = database.get_blob(properties)
    if content is None:
        raise BlobNotFoundError(str(properties.get("digest")))
    # What the document says of it, any client may have written.
    kind = properties.get("content_type")
    is_fit = isinstance(kind, str) and kind.isascii() and kind.isprintable()
    response.content_type = str(kind) if is_fit and kind else BINARY
    response.etag = str(properties.get("digest"))
    response.content_length = content.seek(0, io.SEEK_END)
    content.seek(0)
    response.stream = pieces_of(content)


def _property(body: Mapping[str, object], doc_id: str, name: str) -> object:
    if name not in body:
        raise NotFoundError(f'document "{doc_id}" has no property "{name}"')
    return body[name]
