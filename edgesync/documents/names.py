"""Names of documents, collections, scopes and databases. Spec: documents.md §7."""

from __future__ import annotations

import re
from typing import Final

from edgesync.errors import InvalidDocIDError, InvalidNameError

DATABASE_SUFFIX: Final = ".edgesync"
"""A database is the folder `<name>.edgesync`."""

MAX_DOC_ID_BYTES: Final = 240
DEFAULT_NAME: Final = "_default"
_DOC_ID: Final = re.compile(r"[^_\x00-\x1f\x7f][^\x00-\x1f\x7f]*")
_COLLECTION_NAME: Final = re.compile(r"[A-Za-z0-9-][A-Za-z0-9_%-]{0,250}")
_DATABASE_NAME: Final = re.compile(r"(?!_)[ -~]{1,240}")


def check_doc_id(text: str) -> None:
    """Check that a document may have this ID.

    Raises:
        InvalidDocIDError: It is empty, longer than 240 bytes, begins with "_",
            or has control characters.

    Spec: documents.md §7.
    """
    is_short = len(text) <= MAX_DOC_ID_BYTES
    if is_short and text.isascii() and text.isprintable() and text[:1] not in ("", "_"):
        return  # nearly all, at a fifth of the time
    is_short = is_short and (text.isascii() or _utf8_fits(text))
    if not is_short or _DOC_ID.fullmatch(text) is None:
        raise InvalidDocIDError(
            f"{text[:100]!r} is not a document ID: 1 to {MAX_DOC_ID_BYTES} bytes without "
            'control characters, not beginning with "_"'
        )


def _utf8_fits(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_DOC_ID_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def collection_path(name: str) -> str:
    """Return `scope.name` for what a client or a person wrote.

    Args:
        name: `scope.name`, or `name` alone in the default scope.

    Raises:
        InvalidNameError: No collection or scope may have that name.

    Spec: documents.md §7.
    """
    scope, dot, collection = name.rpartition(".")
    if not dot:
        scope = DEFAULT_NAME
    scope_is_valid = scope == DEFAULT_NAME or _COLLECTION_NAME.fullmatch(scope)
    is_default = scope == collection == DEFAULT_NAME
    if not scope_is_valid or not (is_default or _COLLECTION_NAME.fullmatch(collection)):
        raise InvalidNameError(
            f"{name[:100]!r} is not a collection: the scope and the name have 1 to 251 of "
            'A-Z a-z 0-9 _ - % and begin with neither "_" nor "%"'
        )
    return f"{scope}.{collection}"


def check_database_name(name: str) -> None:
    """Check that a database may have this name: it becomes a folder and a part of the URL.

    Raises:
        InvalidNameError: It may not.

    Spec: documents.md §7.
    """
    if _DATABASE_NAME.fullmatch(name) is None or "." in name or "/" in name:
        raise InvalidNameError(
            f"{name[:100]!r} is not a database name: 1 to 240 printable ASCII characters "
            'without "." and "/", not beginning with "_"'
        )
