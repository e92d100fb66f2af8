"""What a request says, checked: JSON, query parameters, the revision it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol, TypeVar

import falcon
import orjson

from edgesync.errors import BodyTooLargeError, InvalidBodyError, RequestError

JSON: Final = "application/json"
JSON_LINES: Final = "application/x-ndjson"
PIECE_BYTES: Final = 64 * 1024
C = TypeVar("C", bound=str)


class Readable(Protocol):
    """What pieces can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most that many bytes, none at the end."""


class BoundedStream:
    """A request's body, up to a limit: one that comes in chunks does not say its length.

    Raises:
        BodyTooLargeError: There is more.
        RequestError: It ends before its announced end.
    """

    def __init__(self, request: falcon.Request, limit_bytes: int) -> None:
        if (request.content_length or 0) > limit_bytes:
            raise BodyTooLargeError(limit_bytes)
        self._stream = request.stream
        self._limit = limit_bytes
        self._read = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""
        try:
            data: bytes = self._stream.read(size)
        except (OSError, ValueError) as error:  # ValueError: a chunk without a length
            raise RequestError(f"the request's content ended early: {error}") from error
        self._read += len(data)
        if self._read > self._limit:
            raise BodyTooLargeError(self._limit)
        return data


def pieces_of(stream: Readable) -> Iterator[bytes]:
    """Yield what a stream gives, piece by piece."""
    while data := stream.read(PIECE_BYTES):
        yield data


def read_object(request: falcon.Request, limit_bytes: int) -> dict[str, object]:
    """Return the JSON object in a request, whatever its content type says; nothing: empty.

    Raises:
        InvalidBodyError: It is no JSON object.
        BodyTooLargeError: It is larger.
    """
    text = b"".join(pieces_of(BoundedStream(request, limit_bytes)))
    try:
        value = orjson.loads(text or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidBodyError(f"the request's content is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidBodyError("the request's content is not a JSON object")
    return value


def text_in(value: Mapping[str, object], key: str) -> str:
    """Return a text that must be in an object.

    Raises:
        RequestError: It is not there, or something else.
    """
    found = value.get(key)
    if not isinstance(found, str) or not found:
        raise RequestError(f'"{key}" is missing or not a text')
    return found


def number(request: falcon.Request, name: str, default: int, *, maximum: int = 2**63 - 1) -> int:
    """Return a whole number from the query.

    Raises:
        RequestError: It is not one, or negative.
    """
    text = request.params.get(name)
    if text is None:
        return default
    if not isinstance(text, str) or not text.isdecimal() or len(text) > 19:
        raise RequestError(f'"{name}" must be a whole number, not "{text}"')
    return min(int(text), maximum)


def flag(request: falcon.Request, name: str, *, default: bool = False) -> bool:
    """Return a yes or no from the query.

    Raises:
        RequestError: It is neither.
    """
    return choice(request, name, ("true", "false"), "true" if default else "false") == "true"


def choice(request: falcon.Request, name: str, known: tuple[C, ...], default: C) -> C:
    """Return one of several words from the query.

    Raises:
        RequestError: It is another.
    """
    text = request.params.get(name, default)
    for word in known:
        if text == word:
            return word
    raise RequestError(f'"{name}" must be one of {", ".join(known)}, not "{text}"')


def query_text(request: falcon.Request, name: str) -> str | None:
    """Return a text from the query, also one in JSON's quotes, as CouchDB's keys are."""
    text = request.params.get(name)
    if not isinstance(text, str):
        return None
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def parent_rev(request: falcon.Request, body: Mapping[str, object] | None = None) -> str | None:
    """Return the revision that a change replaces: `?rev=`, `If-Match`, or `_rev` in the body.

    Raises:
        RequestError: They differ.
    """
    given = {
        value
        for value in (
            query_text(request, "rev"),
            (request.get_header("If-Match") or "").strip().strip('"'),
            (body or {}).get("_rev"),
        )
        if isinstance(value, str) and value
    }
    if len(given) > 1:
        raise RequestError(f"the request names several revisions: {', '.join(sorted(given))}")
    return given.pop() if given else None


def encoded(value: object) -> bytes:
    """Return JSON with a newline, which a person at a terminal needs."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def answer(response: falcon.Response, value: object, status: str = falcon.HTTP_200) -> None:
    """Answer with JSON."""
    response.status = status
    response.content_type = JSON
    response.data = encoded(value)
