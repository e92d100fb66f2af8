"""Deltas of documents. Spec: documents.md §8."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.delta import JSON, MAX_DEPTH, JSONObject, apply_delta, make_delta
from edgesync.errors import InvalidDeltaError

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS = json.loads((FOLDER / "deltas.json").read_text())
# What we write otherwise: item by item, or cut where more characters agree; or never.
WRITTEN_DIFFERENTLY = {
    "replace the tail",
    "text diff",
    "text diff counts UTF-8 bytes",
    "text diff, insertion holds operator characters",
    "JsonDiffPatch replace",
    "JsonDiffPatch delete",
    "changed blob edited in place: must be accepted, must not be sent",
}
WRITTEN_AS_WE_DO = [case for case in VECTORS["valid"] if case["name"] not in WRITTEN_DIFFERENTLY]
TEXT = "The pump in hall four ran warm this morning; the crew has changed the filter."


def exact(value: JSON) -> bytes:
    """Tell apart what Python does not: 1, 1.0 and true; 0.0 and -0.0."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def blob(digest: str, length: int = 5) -> JSONObject:
    return {"@type": "blob", "digest": f"sha1-{digest}", "length": length}


# --- strategies: small alphabets, so that old and new have much in common --------

keys = st.sampled_from(["a", "b", "0", "1-", "@type", "digest", "Größe"])
scalars: st.SearchStrategy[JSON] = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**63, 0.0, -0.0, 1.0, "", "1", "blob", "sha1-x", [], {}]
)
words = st.lists(st.sampled_from(["Brücke", "Straße", "🚲🚑", " und ", "e\u0301", "|5=", "x"]))
texts = words.map(lambda found: "".join(found) + TEXT) | words.map("".join) | st.text()
blobs = st.builds(blob, st.sampled_from("xyz"), st.integers(0, 2))


def deeper(values: st.SearchStrategy[JSON]) -> st.SearchStrategy[JSON]:
    lists: st.SearchStrategy[JSON] = st.lists(values, max_size=5)
    objects: st.SearchStrategy[JSON] = st.dictionaries(keys, values, max_size=4)
    return lists | objects


values: st.SearchStrategy[JSON] = st.recursive(scalars | texts | blobs, deeper, max_leaves=12)
documents: st.SearchStrategy[JSONObject] = st.dictionaries(keys, values, max_size=5)


@st.composite
def edits(draw: st.DrawFn) -> tuple[JSONObject, JSONObject]:
    """A document, and what came of it by changes here and there."""
    old = draw(documents)
    return old, {key: draw(edited(value)) for key, value in old.items()} | draw(documents)


def edited(value: JSON) -> st.SearchStrategy[JSON]:
    same = st.just(value)
    if isinstance(value, dict) and value:
        inside = st.fixed_dictionaries({}, optional={k: edited(v) for k, v in value.items()})
        return same | inside | blobs
    if isinstance(value, list) and value:
        items = st.tuples(*map(edited, value)).map(list)
        return same | items | st.builds(lambda a, b: a + b, items, st.lists(values)) | st.just([])
    if isinstance(value, str):
        return same | st.builds(lambda cut, new: value[:cut] + new + value[cut + 3 :], cuts, texts)
    return same | values


cuts = st.integers(0, 80)


# --- the vectors -----------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["name"])
def test_delta_of_the_vectors_is_applied(case: Any) -> None:
    assert exact(apply_delta(case["old"], case["delta"])) == exact(case["new"])


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["name"])
def test_invalid_delta_of_the_vectors_is_refused(case: Any) -> None:
    with pytest.raises(InvalidDeltaError):
        apply_delta(case["old"], case["delta"])


@pytest.mark.parametrize("case", WRITTEN_AS_WE_DO, ids=lambda case: case["name"])
def test_delta_of_the_vectors_is_made(case: Any) -> None:
    assert exact(make_delta(case["old"], case["new"])) == exact(case["delta"])


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["name"])
def test_change_of_the_vectors_is_made_and_applied(case: Any) -> None:
    delta = make_delta(case["old"], case["new"])
    assert exact(apply_delta(case["old"], delta)) == exact(case["new"])


@pytest.mark.parametrize("client", ["3.2.4", "4.0.3"])
def test_delta_of_a_real_client_is_applied(client: str) -> None:
    recording = json.loads((FOLDER / "recorded" / f"push-delta.cbl-{client}.json").read_text())
    (document,) = recording["after"]["documents"]["_default"]
    connection = recording["connections"][-1]
    (base,) = connection["before"]["documents"]["_default"]
    (delta,) = (
        orjson.loads(message["body"])
        for frame in connection["frames"]
        if "deltaSrc" in dict((message := frame["decoded"]).get("properties", []))
    )
    assert exact(apply_delta(base["body"], delta)) == exact(document["body"])
    assert exact(make_delta(base["body"], document["body"])) == exact(delta)


# --- properties ------------------------------------------------------------------


@given(edits())
def test_applying_undoes_making(edit: tuple[JSONObject, JSONObject]) -> None:
    old, new = edit
    delta: JSONObject = orjson.loads(orjson.dumps(make_delta(old, new)))
    assert exact(apply_delta(old, delta)) == exact(new)


@given(documents, documents)
def test_applying_undoes_making_of_strangers(old: JSONObject, new: JSONObject) -> None:
    assert exact(apply_delta(old, make_delta(old, new))) == exact(new)


@given(edits())
def test_neither_changes_its_arguments(edit: tuple[JSONObject, JSONObject]) -> None:
    before = copy.deepcopy(edit)
    delta = make_delta(*edit)
    delta_before = copy.deepcopy(delta)
    apply_delta(edit[0], delta)
    assert exact([*edit, delta]) == exact([*before, delta_before])


@given(documents)
def test_delta_of_equal_documents_is_empty(document: JSONObject) -> None:
    assert make_delta(document, copy.deepcopy(document)) == {}


@given(edits())
def test_digest_never_changes_without_its_blob(edit: tuple[JSONObject, JSONObject]) -> None:
    """Each blob object that is new in the document stands in the delta whole."""
    old, new = edit
    known = set(map(exact, whole_blobs(old)))
    sent = set(map(exact, whole_blobs(make_delta(old, new))))
    moved = {exact(found) for found in whole_blobs(new)} - known
    assert moved <= sent or (new.get("@type") == "blob" and moved - sent == {exact(new)})


def whole_blobs(value: JSON) -> list[JSON]:
    found: list[JSON] = [value] if isinstance(value, dict) and value.get("@type") == "blob" else []
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found + [item for part in inside for item in whole_blobs(part)]


noise_values: st.SearchStrategy[JSON] = st.recursive(
    scalars | st.sampled_from(["1=", "3=2+ab|", "5-", "99=", 2, 3]), deeper, max_leaves=10
)
index_keys = st.sampled_from(["a", "b", "0", "1", "2-", "0-", "-", "01", "9" * 5000, "²"])
noise: st.SearchStrategy[JSONObject] = st.dictionaries(keys | index_keys, noise_values)


@given(documents, noise)
def test_noise_is_applied_or_refused(old: JSONObject, delta: JSONObject) -> None:
    try:
        new = apply_delta(old, delta)
    except InvalidDeltaError:
        return
    assert exact(new)


@given(texts, st.text(alphabet="0123456789=-+|aß") | texts)
def test_noise_as_a_string_patch_is_applied_or_refused(old: str, patch: str) -> None:
    try:
        new = apply_delta({"t": old}, {"t": [patch, 0, 2]})
    except InvalidDeltaError:
        return
    assert exact(new)


# --- applying --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"3": 0},
        {"4-": [0]},
        {"01": 0},
        {"-1": 0},
        {"+1": 0},
        {"x": 0},
        {"9" * 5000: 0},
        {"²": 0},
    ],
)
def test_array_edit_that_names_no_item_is_refused(change: JSONObject) -> None:
    with pytest.raises(InvalidDeltaError, match=r"no index|beyond"):
        apply_delta({"l": [1, 2, 3]}, {"l": change})


@pytest.mark.parametrize("change", [{"1": []}, {"1": [2, 0, 0]}])
def test_array_edit_that_removes_an_item_is_refused(change: JSONObject) -> None:
    with pytest.raises(InvalidDeltaError, match="removes a single item"):
        apply_delta({"l": [1, 2, 3]}, {"l": change})


@pytest.mark.parametrize("change", [{"2": 0, "1-": []}, {"1-": [], "2-": []}, {"1": 0, "1-": []}])
def test_array_edit_that_contradicts_itself_is_refused(change: JSONObject) -> None:
    with pytest.raises(InvalidDeltaError, match="beyond"):
        apply_delta({"l": [1, 2, 3]}, {"l": change})


@pytest.mark.parametrize("delta", [["x", 2], ["x", 0, 0]])
def test_replacing_or_removing_what_is_absent_is_refused(delta: JSON) -> None:
    with pytest.raises(InvalidDeltaError, match="not there"):
        apply_delta({"a": 1}, {"b": delta})


@pytest.mark.parametrize("delta", [["1=", False, 2], ["1=", 0, True], ["1=", 0.0, 2], ["1=", 1, 2]])
def test_array_of_unknown_meaning_is_refused(delta: JSON) -> None:
    with pytest.raises(InvalidDeltaError, match="unknown meaning"):
        apply_delta({"a": "x"}, {"a": delta})


@pytest.mark.parametrize("value", [5, "x", None, [1], {"x": 1}])
def test_empty_edit_changes_nothing(value: JSON) -> None:
    assert apply_delta({"a": value}, {"a": {}}) == {"a": value}


def test_string_patch_that_cuts_a_character_is_refused() -> None:
    with pytest.raises(InvalidDeltaError, match="cuts a character"):
        apply_delta({"t": "ä"}, {"t": ["1=1-", 0, 2]})


def test_string_patch_with_a_huge_count_is_refused() -> None:
    with pytest.raises(InvalidDeltaError):
        apply_delta({"t": "abc"}, {"t": ["9" * 100_000 + "=", 0, 2]})


def nested(levels: int, leaf: JSON) -> JSONObject:
    value = leaf
    for _ in range(levels - 1):
        value = {"a": value}
    return {"a": value}


def test_delta_edits_the_deepest_level_of_a_document() -> None:
    old, new = nested(MAX_DEPTH, 1), nested(MAX_DEPTH, 2)
    assert make_delta(old, new) == new
    assert apply_delta(old, new) == new


def test_delta_that_goes_deeper_than_documents_is_refused() -> None:
    with pytest.raises(InvalidDeltaError, match="nested levels"):
        apply_delta(nested(MAX_DEPTH + 1, 1), nested(MAX_DEPTH + 1, 2))


def test_what_is_too_deep_to_be_edited_is_replaced() -> None:
    old, new = nested(3 * MAX_DEPTH, 1), nested(3 * MAX_DEPTH, 2)
    assert apply_delta(old, make_delta(old, new)) == new


# --- making ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"), [(1, True), (True, 1), (1, 1.0), (1.0, 1), (0, False), (0.0, -0.0), ("1", 1)]
)
def test_change_of_the_kind_alone_is_a_change(old: JSON, new: JSON) -> None:
    assert exact(make_delta({"a": old, "l": [old]}, {"a": new, "l": [new]})) == exact(
        {"a": new, "l": {"0": new}}
    )


def test_change_of_the_kind_within_a_blob_is_a_change() -> None:
    new = blob("x") | {"length": 5.0}
    assert exact(make_delta({"pic": blob("x")}, {"pic": new})) == exact({"pic": [new]})


def test_changed_blob_in_an_array_is_replaced_as_a_whole() -> None:
    delta = make_delta({"pics": [blob("x"), blob("y")]}, {"pics": [blob("x"), blob("z")]})
    assert delta == {"pics": {"1": [blob("z")]}}


def test_object_that_becomes_or_was_a_blob_is_replaced_as_a_whole() -> None:
    plain: JSONObject = {"digest": "sha1-x", "length": 5}
    assert make_delta({"a": plain}, {"a": blob("x")}) == {"a": [blob("x")]}
    assert make_delta({"a": blob("x")}, {"a": plain}) == {"a": [plain]}


def test_document_that_is_a_blob_itself_says_so_in_its_delta() -> None:
    assert make_delta(blob("x") | {"n": 1}, blob("y")) == blob("y") | {"n": []}


def test_equal_blob_is_not_sent() -> None:
    assert make_delta({"pic": blob("x"), "n": 1}, {"pic": blob("x"), "n": 2}) == {"n": 2}


def test_string_of_60_bytes_is_patched() -> None:
    assert make_delta({"t": "x" * 59}, {"t": "x" * 60}) == {"t": ["59=1+x|", 0, 2]}
    assert make_delta({"t": "x" * 60}, {"t": "x" * 59}) == {"t": "x" * 59}


def test_string_is_patched_between_characters() -> None:
    old, new = TEXT + "🚲 ä", TEXT + "🚑 ö"
    patch: JSON = [f"{len(TEXT)}=7-7+🚑 ö|", 0, 2]
    assert make_delta({"t": old}, {"t": new}) == {"t": patch}


def test_string_with_nothing_in_common_is_sent_whole() -> None:
    assert make_delta({"t": "a" * 80}, {"t": "b" * 80}) == {"t": "b" * 80}
