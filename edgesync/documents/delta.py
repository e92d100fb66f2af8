"""Deltas: a document's changes against a revision that the receiver has.

A delta mirrors the document: an object in it edits an object or, by indexes,
an array; a scalar is the new value; any other new value stands in an array of
its own, `[value]`, and `[]` removes a key. Long strings are patched byte-wise.

Knows parsed JSON only. There is no checksum over the result, so whoever
applies a delta must take the very revision that it was made against; what can
be seen not to fit is refused, and the whole document comes instead.

Spec: documents.md §8.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from edgesync.errors import InvalidDeltaError

JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None
JSONObject = dict[str, JSON]

MAX_DEPTH: Final = 100
"""Nested levels that a delta may edit; no document has more. Spec: documents.md §6."""
MIN_PATCHED_BYTES: Final = 60
"""A shorter string is sent whole. Spec: documents.md §8."""

_ITEM: Final = re.compile(r"(0|[1-9][0-9]{0,8})(-?)", re.ASCII)
_OPERATION: Final = re.compile(rb"([0-9]{1,10})([=+-])")
_PATCH: Final = 2
_REMOVE: Final = 0
_PATCH_BRACKET_BYTES: Final = len(b"[,0,2]")


class _Nothing(Enum):
    """What stands in for a value where there is none."""

    ABSENT = auto()  # no such key, before or after
    UNCHANGED = auto()  # no delta is needed


_ABSENT: Final = _Nothing.ABSENT
_UNCHANGED: Final = _Nothing.UNCHANGED


# --- applying ------------------------------------------------------------------


def apply_delta(old: JSONObject, delta: JSONObject) -> JSONObject:
    """Return what the delta makes of a document.

    The result shares the parts that did not change with `old` and the new ones
    with `delta`; neither is changed.

    Raises:
        InvalidDeltaError: The delta is malformed, or visibly made against
            another document.

    Spec: documents.md §8.
    """
    return _apply_to_object(old, delta, 1)


def _apply(old: JSON | _Nothing, delta: JSON, depth: int) -> JSON | _Nothing:
    match delta:
        case dict():
            return _apply_edits(old, delta, depth)
        case list():
            return _apply_replacement(old, delta)
        case _:
            return delta


def _apply_edits(old: JSON | _Nothing, delta: JSONObject, depth: int) -> JSON | _Nothing:
    if depth >= MAX_DEPTH:
        raise InvalidDeltaError(f"the delta edits more than {MAX_DEPTH} nested levels")
    match old:
        case dict():
            return _apply_to_object(old, delta, depth + 1)
        case list():
            return _apply_to_array(old, delta, depth + 1)
        case _ if old is _ABSENT or delta:
            raise InvalidDeltaError("the delta edits inside of what is no object and no array")
        case _:
            return old


def _apply_to_object(old: JSONObject, delta: JSONObject, depth: int) -> JSONObject:
    new = dict(old)
    for key, change in delta.items():
        value = _apply(old.get(key, _ABSENT), change, depth)
        if isinstance(value, _Nothing):
            del new[key]
        else:
            new[key] = value
    return new


def _apply_to_array(old: list[JSON], delta: JSONObject, depth: int) -> list[JSON]:
    items, end, rest = _array_edits(delta, len(old))
    new = old[:end]
    for index, change in items.items():
        value = _apply(new[index], change, depth)
        if isinstance(value, _Nothing):
            raise InvalidDeltaError("the delta removes a single item of an array")
        new[index] = value
    return new + rest


def _array_edits(delta: JSONObject, length: int) -> tuple[dict[int, JSON], int, list[JSON]]:
    """Return the edits of items, the index from which all are replaced, and by what.

    A key that has no effect is refused: the delta was made for another array.
    """
    items: dict[int, JSON] = {}
    rests: dict[int, JSON] = {}
    for key, change in delta.items():
        match = _ITEM.fullmatch(key)
        if match is None:
            raise InvalidDeltaError(f'"{key[:100]}" is no index of an array')
        (rests if match[2] else items)[int(match[1])] = change
    end, rest = rests.popitem() if rests else (length, [])
    if rests or end > length or max(items, default=-1) >= end:
        raise InvalidDeltaError(f"the delta edits items beyond the {min(end, length)} of an array")
    if not isinstance(rest, list):
        raise InvalidDeltaError("what replaces the rest of an array is no array")
    return items, end, rest


def _apply_replacement(old: JSON | _Nothing, delta: list[JSON]) -> JSON | _Nothing:
    if len(delta) == 1:
        return delta[0]
    if old is _ABSENT:
        raise InvalidDeltaError("the delta removes or replaces what is not there")
    match delta:
        case []:
            return _ABSENT
        case [_, value]:
            return value
        case [operand, zero, code] if type(zero) is type(code) is int and zero == 0:
            if code == _REMOVE:
                return _ABSENT
            if code == _PATCH:
                return _patched(old, operand)
    raise InvalidDeltaError("the delta has an array of unknown meaning")


def _patched(old: JSON | _Nothing, patch: JSON) -> str:
    """Apply a string patch. Spec: documents.md §8.1."""
    if not isinstance(old, str) or not isinstance(patch, str) or not patch:
        raise InvalidDeltaError("a string patch is empty, or is applied to what is no string")
    try:
        return _patched_bytes(old.encode(), patch.encode()).decode()
    except UnicodeError as error:
        raise InvalidDeltaError("a string patch cuts a character") from error


def _patched_bytes(old: bytes, patch: bytes) -> bytes:
    new: list[bytes] = []
    taken = at = 0
    while at < len(patch):
        match = _OPERATION.match(patch, at)
        if match is None:
            raise InvalidDeltaError("a string patch has an unknown operation")
        count, operation, at = int(match[1]), match[2], match.end()
        if operation == b"+":
            new.append(patch[at : at + count])
            at += count + 1
            if patch[at - 1 : at] != b"|":
                raise InvalidDeltaError("an insertion of a string patch does not end in a bar")
            continue
        if operation == b"=":
            new.append(old[taken : taken + count])
        taken += count
    if taken != len(old):
        raise InvalidDeltaError(f"a string patch for {taken} bytes is applied to {len(old)}")
    return b"".join(new)


# --- making --------------------------------------------------------------------


def make_delta(old: JSONObject, new: JSONObject) -> JSONObject:
    """Return the delta that makes `new` of `old`; empty if they are equal.

    A blob that differs is replaced as a whole, never edited: most clients
    look into the delta alone to see whether there is a blob to fetch.
    `1`, `1.0` and `true` are different values. The result shares parts of `new`.

    Spec: documents.md §8, §8.3.
    """
    delta = _object_difference(old, new, 1)
    if delta and (_is_blob(old) or _is_blob(new)):
        # The document itself cannot be wrapped; `@type` among the edits does it.
        return {key: _replacement(value) for key, value in new.items()} | _removals(old, new)
    return delta


def _difference(old: JSON, new: JSON, depth: int) -> JSON | _Nothing:
    match old, new:
        case (dict(), dict()) if depth < MAX_DEPTH:
            edits = _object_difference(old, new, depth + 1)
            if not edits:
                return _UNCHANGED
            return [new] if _is_blob(old) or _is_blob(new) else edits
        case (list(), list()) if old and new and depth < MAX_DEPTH:
            return _array_difference(old, new, depth + 1) or _UNCHANGED
        case (list(), list()) if not old and not new:
            return _UNCHANGED
        case (str(), str()):
            return _UNCHANGED if old == new else _string_difference(old, new)
        case _:
            return _UNCHANGED if _is_same_scalar(old, new) else _replacement(new)


def _object_difference(old: JSONObject, new: JSONObject, depth: int) -> JSONObject:
    delta: JSONObject = {}
    for key, value in new.items():
        if key not in old:
            delta[key] = _replacement(value)
        elif not isinstance(change := _difference(old[key], value, depth), _Nothing):
            delta[key] = change
    return delta | _removals(old, new)


def _removals(old: JSONObject, new: JSONObject) -> JSONObject:
    return {key: [] for key in old if key not in new}


def _array_difference(old: list[JSON], new: list[JSON], depth: int) -> JSONObject:
    delta: JSONObject = {}
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        change = _difference(before, after, depth)
        if not isinstance(change, _Nothing):
            delta[str(index)] = change
    if len(old) != len(new):
        shorter = min(len(old), len(new))
        delta[f"{shorter}-"] = new[shorter:]
    return delta


def _replacement(value: JSON) -> JSON:
    return [value] if isinstance(value, dict | list) else value


def _is_same_scalar(old: JSON, new: JSON) -> bool:
    """Tell whether they are the same in kind and value, down to the sign of zero."""
    if isinstance(old, float) and isinstance(new, float):
        return old.hex() == new.hex()
    return type(old) is type(new) and not isinstance(new, dict | list) and old == new


def _is_blob(value: JSONObject) -> bool:
    return value.get("@type") == "blob"


def _string_difference(old: str, new: str) -> JSON:
    """Return a patch that replaces what lies between the common ends, if it is worth it.

    The ends are counted in characters, so that no character is cut.
    """
    size = len(new.encode())
    if size < MIN_PATCHED_BYTES:
        return new
    start = _common_start(old, new)
    old, new_rest = old[start:], new[start:]
    end = _common_start(old[::-1], new_rest[::-1])
    head = new[:start]
    inserted, tail = new_rest[: len(new_rest) - end], new_rest[len(new_rest) - end :]
    patch = (
        _operation(head, "=")
        + _operation(old[: len(old) - end], "-")
        + _operation(inserted, f"+{inserted}|")
        + _operation(tail, "=")
    )
    return [patch, 0, _PATCH] if len(patch.encode()) + _PATCH_BRACKET_BYTES < size else new


def _operation(text: str, operation: str) -> str:
    return f"{len(text.encode())}{operation}" if text else ""


def _common_start(a: str, b: str) -> int:
    """Return the number of characters that both begin with, comparing by halves."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
