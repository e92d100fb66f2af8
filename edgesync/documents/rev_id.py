"""Tree revision IDs: `<generation>-<digest in lower-case hex>`.

On the wire, in the store and in every value here they are text; what they
mean is in these functions. The order of two IDs is by generation, then by
digest. Spec: documents.md §1.
"""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from typing import Final, NewType

import orjson

from edgesync.errors import InvalidRevIDError

RevID = NewType("RevID", str)

MAX_GENERATION: Final = 2**32 - 1
# The digest in one run of characters: in pairs it takes three times as long.
_SYNTAX: Final = re.compile(r"([1-9][0-9]{0,9})-[0-9a-f]{2,82}", re.ASCII)
_SURE_DIGITS: Final = 9  # of any generation in range


def parse_rev_id(text: str) -> RevID:
    """Check a revision ID of a peer.

    Raises:
        InvalidRevIDError: It is not of the form above.

    Spec: documents.md §1.
    """
    match = _SYNTAX.fullmatch(text)
    if match is not None:
        digits = match.end(1)
        is_whole = (len(text) - digits) % 2 == 1  # bytes, behind the hyphen
        if is_whole and (digits <= _SURE_DIGITS or int(match[1]) <= MAX_GENERATION):
            return RevID(text)
    raise InvalidRevIDError(f'"{text[:100]}" is not a revision ID')


def generation(rev_id: RevID) -> int:
    """Return the first part: 1 for a document's first revision, rising by one."""
    return int(rev_id[: rev_id.index("-")])


def order(rev_id: RevID) -> tuple[int, str]:
    """Return a key that sorts revision IDs; the higher one wins. Spec: documents.md §1."""
    number, _, digest = rev_id.partition("-")
    return int(number), digest


def new_rev_id(parent: RevID | None, deleted: bool, body: bytes) -> RevID:
    """Return the ID of a revision of our own, derived from its content.

    Two peers that make the same edit of the same parent thus make the same
    revision, and no conflict.

    Args:
        parent: The revision it replaces, None for the first.
        body: The JSON object.

    Spec: documents.md §1, the formula of LiteCore 3.3.
    """
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    ancestor = (parent or "").encode("ascii")
    digest = hashlib.sha1(
        bytes([len(ancestor)]) + ancestor + bytes([deleted]) + canonical, usedforsecurity=False
    ).hexdigest()
    return RevID(f"{generation(parent) + 1 if parent else 1}-{digest}")


def parse_history(rev: str, history: str) -> tuple[RevID, ...]:
    """Return a revision and its ancestors, newest first, as a `rev` message gives them.

    Args:
        rev: The property `rev`.
        history: The property `history`, comma separated, possibly empty.

    Raises:
        InvalidRevIDError: An ID is malformed, or the generations do not descend.

    Spec: replication.md §3.7.3; documents.md §3 step 1.
    """
    if not history:
        return (parse_rev_id(rev),)
    chain = (parse_rev_id(rev), *(parse_rev_id(text.strip()) for text in history.split(",")))
    generations = [generation(rev_id) for rev_id in chain]
    if any(older >= newer for newer, older in pairwise(generations)):
        raise InvalidRevIDError(f"the history of {rev} does not descend")
    return chain
