"""Deltas, as a client makes and applies them. Spec: documents.md §8."""

from __future__ import annotations

import re
from typing import Final

MIN_BODY_BYTES: Final = 200
_OPERATION: Final = re.compile(rb"([0-9]+)([=+-])")
_ABSENT: Final = object()


def make(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """Return what turns one object into another: natural edits, down into blobs too."""
    delta: dict[str, object] = {}
    for key, value in new.items():
        before = old.get(key, _ABSENT)
        if before is _ABSENT or not _same(before, value):
            delta[key] = _edit(before, value)
    delta.update({key: [] for key in old if key not in new})
    return delta


def _edit(old: object, new: object) -> object:
    if isinstance(old, dict) and isinstance(new, dict):
        return make(old, new)
    if isinstance(old, list) and isinstance(new, list) and old and new:
        both = min(len(old), len(new))
        edits: dict[str, object] = {
            str(place): _edit(old[place], new[place])
            for place in range(both)
            if not _same(old[place], new[place])
        }
        if len(old) != len(new):
            edits[f"{both}-"] = new[both:]
        return edits
    return [new] if isinstance(new, dict | list) else new


def _same(one: object, other: object) -> bool:
    """Whether two values are equal, and of one kind: 1, 1.0 and true differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def apply(old: dict[str, object], delta: object) -> dict[str, object]:
    """Return the new object.

    Raises:
        ValueError: The delta is malformed, or was made against another object.
    """
    if not isinstance(delta, dict):
        raise ValueError("a delta is an object")
    new = _apply(old, delta)
    assert isinstance(new, dict)
    return new


def _apply(old: object, delta: object) -> object:
    if isinstance(delta, list):
        return _replace(old, delta)
    if not isinstance(delta, dict):
        return delta
    if isinstance(old, dict):
        new = dict(old)
        for key, edit in delta.items():
            value = _apply(old.get(key, _ABSENT), edit)
            if value is _ABSENT:
                del new[key]
            else:
                new[key] = value
        return new
    if isinstance(old, list):
        return _apply_to_array(old, delta)
    if delta or old is _ABSENT:
        raise ValueError("a delta edits what is no object or array")
    return old


def _replace(old: object, delta: list[object]) -> object:
    if len(delta) == 1:
        return delta[0]
    if old is _ABSENT:
        raise ValueError("a delta changes a key that is not there")
    match delta:
        case [] | [_, 0, 0]:
            return _ABSENT
        case [_, value]:
            return value
        case [str(patch), 0, 2] if isinstance(old, str) and patch:
            return _patch(old.encode(), patch.encode()).decode()
        case _:
            raise ValueError("a delta has a list that means nothing")


def _apply_to_array(old: list[object], delta: dict[str, object]) -> list[object]:
    new: list[object] = []
    for place in range(len(old) + 1):
        rest = delta.get(f"{place}-", _ABSENT)
        if place < len(old) and str(place) in delta:
            value = _apply(old[place], delta[str(place)])
            if value is _ABSENT:
                raise ValueError("a delta removes an item of an array")
            new.append(value)
        elif rest is not _ABSENT:
            if not isinstance(rest, list):
                raise ValueError("a delta ends an array with no array")
            return new + rest
        elif place < len(old):
            new.append(old[place])
    return new


def _patch(old: bytes, patch: bytes) -> bytes:
    new, at, place = b"", 0, 0
    while place < len(patch):
        operation = _OPERATION.match(patch, place)
        if operation is None:
            raise ValueError("a delta has a malformed string patch")
        count, place = int(operation[1]), operation.end()
        if operation[2] == b"+":
            new += patch[place : place + count]
            place += count
            if patch[place : place + 1] != b"|":
                raise ValueError("a delta's insertion has no end")
            place += 1
            continue
        if operation[2] == b"=":
            new += old[at : at + count]
        at += count
    if at != len(old):
        raise ValueError("a delta patches another string")
    return new
