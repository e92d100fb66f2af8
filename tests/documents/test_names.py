from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.names import check_database_name, check_doc_id, collection_path
from edgesync.errors import InvalidDocIDError, InvalidNameError


@pytest.mark.parametrize(
    "text", ["a", "-x", "Ä", "a b", "a/b", "~" + "x" * 22, "é" * 120, "x" * 240]
)
def test_document_ids_that_may_be_stored(text: str) -> None:
    check_doc_id(text)


@pytest.mark.parametrize(
    "text", ["", "_a", "x" * 241, "é" * 121, "a\n", "a\x00", "\x1f", "a\x7f", "\ud800"]
)
def test_document_ids_that_may_not(text: str) -> None:
    with pytest.raises(InvalidDocIDError):
        check_doc_id(text)


@given(st.text(max_size=300))
def test_document_ids_are_limited_in_bytes(text: str) -> None:
    try:
        check_doc_id(text)
    except InvalidDocIDError:
        return
    assert 1 <= len(text.encode()) <= 240


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("_default", "_default._default"),
        ("_default._default", "_default._default"),
        ("items", "_default.items"),
        ("_default.items", "_default.items"),
        ("inventory.items", "inventory.items"),
        ("-a%_.9", "-a%_.9"),
        ("s" * 251 + "." + "c" * 251, "s" * 251 + "." + "c" * 251),
    ],
)
def test_collection_path_names_the_scope(name: str, path: str) -> None:
    assert collection_path(name) == path


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a.b.c", "_a", "%a", "a._default", "_b.a", "a b", "ä", "c" * 252, "a\n"],
)
def test_names_that_no_collection_may_have(name: str) -> None:
    with pytest.raises(InvalidNameError):
        collection_path(name)


@pytest.mark.parametrize("name", ["db", "Db-1_x", "a b", "x" * 240, "-"])
def test_database_names_that_may_be(name: str) -> None:
    check_database_name(name)


@pytest.mark.parametrize("name", ["", "_db", "a/b", "a.b", "..", "é", "x" * 241, "a\n", "\x7f"])
def test_database_names_that_may_not(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_database_name(name)
