from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.rev_id import (
    RevID,
    generation,
    new_rev_id,
    order,
    parse_history,
    parse_rev_id,
)
from edgesync.errors import InvalidRevIDError

VECTORS = Path(__file__).parent.parent / "vectors"
KNOWN_ANSWERS = json.loads((VECTORS / "digests.json").read_bytes())["rev_tree_ids"]

digests = st.binary(min_size=1, max_size=41).map(bytes.hex)
rev_ids = st.builds("{}-{}".format, st.integers(1, 2**32 - 1), digests)


@pytest.mark.parametrize("answer", KNOWN_ANSWERS["canonical_json_3_3_and_later"])
def test_new_ids_are_those_of_litecore(answer: dict[str, str]) -> None:
    parent = RevID(answer["parent"]) if answer["parent"] else None
    deleted = bool(answer["deleted"])
    assert new_rev_id(parent, deleted, answer["body"].encode()) == answer["rev"]


def test_new_id_does_not_depend_on_the_spelling_of_the_body() -> None:
    assert new_rev_id(None, False, b'{"a":1,"b":2}') == new_rev_id(
        None, False, b'{ "b" : 2, "a" : 1 }'
    )


@given(rev_ids)
def test_well_formed_ids_are_taken(text: str) -> None:
    assert parse_rev_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "1", "1-", "-ab", "0-ab", "01-ab", "1-abc", "1-AB", "1-ag", "4294967296-ab", "1-ab ",
     "1-" + "ab" * 42, "1@ab", "\u0661-ab"],
)  # fmt: skip
def test_malformed_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidRevIDError):
        parse_rev_id(text)


def test_order_is_by_generation_then_by_digest() -> None:
    mixed = [RevID(text) for text in ("10-ac", "10-00", "9-ff", "10-abcd", "10-ab")]
    assert sorted(mixed, key=order) == ["9-ff", "10-00", "10-ab", "10-abcd", "10-ac"]


def test_generation_is_the_number_in_front() -> None:
    assert generation(RevID("12-ab")) == 12


def test_history_is_the_revision_and_its_ancestors() -> None:
    assert parse_history("3-cc", "2-bb, 1-aa") == ("3-cc", "2-bb", "1-aa")


def test_history_may_have_gaps() -> None:
    assert parse_history("30-cc", "2-bb") == ("30-cc", "2-bb")


def test_history_that_does_not_descend_is_refused() -> None:
    with pytest.raises(InvalidRevIDError):
        parse_history("3-cc", "1-aa,2-bb")
