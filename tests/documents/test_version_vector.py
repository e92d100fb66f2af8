"""Version vectors: reading, comparing, making, deciding. Spec: documents.md §9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesync.documents.rev_id import RevID
from edgesync.documents.version_vector import (
    MAX_TEXT_BYTES,
    MAX_TIME,
    MAX_VERSIONS,
    MIN_TIME,
    CurrentVector,
    Order,
    RevIdentity,
    Version,
    VersionVector,
    compare,
    compare_identities,
    compare_incoming,
    decide_version,
    edited,
    is_same_merge,
    parse_identity,
    parse_rev,
    parse_vector,
    parse_version,
    source_id,
    split_rev,
    tree_version,
    with_older,
)
from edgesync.errors import InvalidRevIDError

VECTORS = Path(__file__).parents[1] / "vectors"
VERSIONS = json.loads((VECTORS / "versions.json").read_text())
PROPOSALS = json.loads((VECTORS / "propose.json").read_text())["version_vectors"]
WRITTEN_BY_CLIENTS = [case for case in VERSIONS["valid"] if "rev_property" in case]

ANN = "AAECAwQFBgcICQoLDA0ODw"
BOB = "EBESExQVFhcYGRobHB0eHw"
EVE = "MglsLg7/M9hE7m1nVAes4Q"
AUTHORS = [ANN, BOB, EVE, source_id(b"\x07" * 16), source_id(b"\xff" * 16)]


def at(moment: int, source: str) -> str:
    """Write a version, the time in small numbers."""
    return f"{MIN_TIME + moment:x}@{source}"


def current(vector: str, tree_id: str = "1-aa", deleted: bool = False) -> CurrentVector:
    return CurrentVector(parse_vector(vector), RevID(tree_id), deleted)


def versions(sources: st.SearchStrategy[str]) -> st.SearchStrategy[Version]:
    return st.builds(Version, st.integers(MIN_TIME, MIN_TIME + 20), sources)


@st.composite
def vectors(draw: st.DrawFn) -> VersionVector:
    """Vectors of few authors in a short time, so that they meet."""
    authors = draw(st.lists(st.sampled_from(AUTHORS), min_size=1, unique=True))
    found = [draw(versions(st.just(author))) for author in authors]
    merged = draw(st.integers(0, len(found) - 1))
    repeated: tuple[Version, ...] = ()
    if merged and found[0].time > MIN_TIME and draw(st.booleans()):
        repeated = (Version(found[0].time - 1, authors[0]),)
    older = sorted(found[1 + merged :], reverse=True)
    return VersionVector(found[0], (*found[1 : 1 + merged], *repeated), tuple(older))


@st.composite
def identities(draw: st.DrawFn) -> RevIdentity:
    vector = draw(st.none() | vectors())
    generations = draw(st.sets(st.integers(1, 9), min_size=vector is None, max_size=4))
    digests = st.sampled_from(["aa", "bb"])
    legacy = [RevID(f"{g}-{draw(digests)}") for g in sorted(generations, reverse=True)]
    return RevIdentity(vector, tuple(legacy))


# --- reading -------------------------------------------------------------------


@pytest.mark.parametrize("case", VERSIONS["valid"], ids=lambda case: case["text"])
def test_vector_of_the_vectors_is_read(case: Any) -> None:
    vector = parse_vector(case["text"])
    assert [[f"{time:x}", source] for time, source in vector.versions] == case["versions"]
    assert 1 + len(vector.merged) == case["current_count"]


@pytest.mark.parametrize("case", WRITTEN_BY_CLIENTS, ids=lambda case: case["text"])
def test_vector_of_the_vectors_is_written_as_it_was(case: Any) -> None:
    vector = parse_vector(case["text"])
    assert str(vector) == case["text"]
    assert split_rev(str(vector)) == (case["rev_property"], case["history_property"])
    assert parse_rev(*split_rev(str(vector))) == RevIdentity(vector)


@pytest.mark.parametrize("text", VERSIONS["invalid"])
def test_invalid_vector_of_the_vectors_is_refused(text: str) -> None:
    with pytest.raises(InvalidRevIDError):
        parse_vector(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{MIN_TIME - 1:x}@{ANN}",
        f"{MAX_TIME + 1:x}@{ANN}",
        f"0{MIN_TIME:x}@{ANN}",
        f"{MIN_TIME + 10:X}@{ANN}",
        f"{MIN_TIME:x}@{'A' * 22}",
        f"{MIN_TIME:x}@{ANN}==",
        f"{MIN_TIME:x}@{ANN}\n",
        f"{'f' * 100_000}@{ANN}",
    ],
)
def test_version_out_of_form_or_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRevIDError):
        parse_version(text)


@pytest.mark.parametrize("time", [MIN_TIME, MAX_TIME])
def test_first_and_last_time_are_valid(time: int) -> None:
    assert parse_version(f"{time:x}@{ANN}") == Version(time, ANN)


def test_merge_without_blanks_and_semicolon_is_written_with_them() -> None:
    text = f"{at(3, ANN)},{at(2, BOB)}"
    assert str(parse_vector(text)) == f"{at(3, ANN)}, {at(2, BOB)};"


@pytest.mark.parametrize(
    "text",
    [
        f"{at(3, ANN)}, {at(2, BOB)}, {at(1, BOB)};",
        f"{at(3, ANN)}, {at(2, ANN)}, {at(1, ANN)};",
        f"{at(3, ANN)}, {at(3, ANN)};",
        f"{at(3, ANN)}, {at(2, ANN)}; {at(1, ANN)}",
        f"{at(3, ANN)}; {at(2, BOB)}, {at(1, BOB)}",
    ],
)
def test_author_named_twice_is_refused(text: str) -> None:
    with pytest.raises(InvalidRevIDError, match="names an author twice"):
        parse_vector(text)


def test_vector_with_too_many_versions_is_refused() -> None:
    others = [str(Version(MIN_TIME, source_id(i.to_bytes(16)))) for i in range(1, MAX_VERSIONS + 1)]
    full = f"{at(1, ANN)}; " + ", ".join(others[:-1])
    assert len(parse_vector(full).versions) == MAX_VERSIONS
    with pytest.raises(InvalidRevIDError, match="too long"):
        parse_vector(f"{full}, {others[-1]}")


def test_vector_with_too_many_bytes_is_refused() -> None:
    with pytest.raises(InvalidRevIDError, match="too long"):
        parse_vector(at(1, ANN) + " " * MAX_TEXT_BYTES)


def test_vector_of_the_store_may_not_have_tree_ids() -> None:
    with pytest.raises(InvalidRevIDError, match="not a version vector"):
        parse_vector(f"{at(1, ANN)}; 1-aa")


@given(vectors())
def test_reading_undoes_writing(vector: VersionVector) -> None:
    assert parse_vector(str(vector)) == vector


@given(identities())
def test_joining_undoes_splitting(identity: RevIdentity) -> None:
    assert parse_identity(str(identity)) == identity
    assert parse_rev(*split_rev(str(identity))) == identity


@given(st.text(alphabet=f"0189af-@;, *{ANN[:3]}") | st.text())
def test_noise_is_refused_or_read(text: str) -> None:
    try:
        identity = parse_identity(text)
    except InvalidRevIDError:
        return
    assert parse_identity(str(identity)) == identity


@given(identities().map(str), st.data())
def test_damaged_vector_is_refused_or_read(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.sampled_from(",; @-0f*")) + text[place + 1 :]
    try:
        identity = parse_identity(damaged)
    except InvalidRevIDError:
        return
    assert parse_identity(str(identity)) == identity


@pytest.mark.parametrize(
    ("rev", "history", "full"),
    [
        (at(9, ANN), "1-aa", f"{at(9, ANN)}; 1-aa"),
        (at(9, ANN), f"{at(8, BOB)}, 2-bb, 1-aa", f"{at(9, ANN)}; {at(8, BOB)}, 2-bb, 1-aa"),
        (at(9, ANN), f"{at(8, BOB)}; 2-bb", f"{at(9, ANN)}, {at(8, BOB)}; 2-bb"),
        ("3-cc", "2-bb,1-aa", "3-cc, 2-bb, 1-aa"),
        ("1-aa", "", "1-aa"),
    ],
)
def test_history_may_end_in_tree_ids(rev: str, history: str, full: str) -> None:
    assert str(parse_rev(rev, history)) == full


@pytest.mark.parametrize(
    ("rev", "history"),
    [
        (at(9, ANN), f"1-aa, {at(8, BOB)}"),
        (at(9, ANN), "1-aa, 2-bb"),
        ("2-bb", at(8, BOB)),
        (f"{at(9, ANN)}; {at(8, BOB)}", f"{at(7, EVE)};"),
        (at(9, ANN), ";"),
        ("", ""),
    ],
)
def test_rev_that_does_not_fit_its_history_is_refused(rev: str, history: str) -> None:
    with pytest.raises(InvalidRevIDError):
        parse_rev(rev, history)


# --- comparing -----------------------------------------------------------------


@pytest.mark.parametrize("case", VERSIONS["compare"], ids=lambda case: f"{case['a']} {case['b']}")
def test_order_of_the_vectors(case: Any) -> None:
    order = compare(parse_vector(case["a"]), parse_vector(case["b"]))
    assert order.name.lower() == case["a_compared_with_b"]


@pytest.mark.parametrize(
    "case", VERSIONS["compare_with_legacy"], ids=lambda case: f"{case['a']} {case['b']}"
)
def test_order_with_tree_ids_of_the_vectors(case: Any) -> None:
    a, b = parse_identity(case["a"]), parse_identity(case["b"])
    expected = case["a_compared_with_b"]
    if a.vector and b.vector and a.vector.current == b.vector.current:
        expected = "same"  # our only departure from the table
    assert compare_identities(a, b).name.lower() == expected


TURNED = {Order.NEWER: Order.OLDER, Order.OLDER: Order.NEWER}


@given(vectors(), vectors())
def test_order_is_antisymmetric(a: VersionVector, b: VersionVector) -> None:
    order = compare(a, b)
    assert compare(b, a) is TURNED.get(order, order)


@given(identities(), identities())
def test_order_with_tree_ids_is_antisymmetric(a: RevIdentity, b: RevIdentity) -> None:
    order = compare_identities(a, b)
    assert compare_identities(b, a) is TURNED.get(order, order)


@given(identities())
def test_revision_is_the_same_as_itself(identity: RevIdentity) -> None:
    assert compare_identities(identity, identity) is Order.SAME


@given(vectors())
def test_vector_contains_its_versions_and_no_later_ones(vector: VersionVector) -> None:
    assert all(vector.contains(version) for version in vector.versions)
    assert not vector.contains(Version(vector.current.time + 1, vector.current.source))


def test_merges_of_the_same_versions_are_the_same() -> None:
    a = parse_vector(f"{at(9, ANN)}, {at(2, BOB)}, {at(1, EVE)};")
    b = parse_vector(f"{at(8, EVE)}, {at(1, EVE)}, {at(2, BOB)};")
    assert is_same_merge(a, b)
    assert not is_same_merge(a, parse_vector(f"{at(8, EVE)}, {at(2, BOB)};"))


def test_vectors_without_merge_are_no_same_merge() -> None:
    assert not is_same_merge(parse_vector(at(1, ANN)), parse_vector(at(1, BOB)))


@pytest.mark.parametrize("case", VERSIONS["legacy"], ids=lambda case: case["rev_tree_id"])
def test_version_for_a_tree_id_of_the_vectors(case: Any) -> None:
    assert str(tree_version(case["rev_tree_id"])) == case["as_version"]
    assert parse_version(case["as_version"]) == tree_version(case["rev_tree_id"])


def test_tree_id_of_too_high_a_generation_has_no_version() -> None:
    assert tree_version(RevID(f"{2**23 - 1}-ff")) is not None
    assert tree_version(RevID(f"{2**23}-ff")) is None


# --- making --------------------------------------------------------------------


def test_source_of_known_bytes() -> None:
    assert source_id(bytes(range(16))) == ANN


@pytest.mark.parametrize("data", [bytes(16), b"", bytes(range(15)), bytes(range(17))])
def test_source_of_other_than_16_bytes_or_of_zeros_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        source_id(data)


@given(st.binary(min_size=16, max_size=16).filter(any))
def test_source_is_readable(data: bytes) -> None:
    assert parse_version(f"{MIN_TIME:x}@{source_id(data)}").source == source_id(data)


def test_first_edit_has_no_history() -> None:
    assert str(edited(None, parse_version(at(1, ANN)))) == at(1, ANN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (at(1, ANN), at(9, ANN)),
        (at(1, BOB), f"{at(9, ANN)}; {at(1, BOB)}"),
        (
            f"{at(3, BOB)}; {at(2, ANN)}, {at(1, EVE)}",
            f"{at(9, ANN)}; {at(3, BOB)}, {at(1, EVE)}",
        ),
        (
            f"{at(5, BOB)}, {at(4, BOB)}, {at(3, EVE)}; {at(2, ANN)}",
            f"{at(9, ANN)}; {at(5, BOB)}, {at(3, EVE)}",
        ),
    ],
)
def test_edit_puts_its_version_in_front(before: str, after: str) -> None:
    assert str(edited(parse_vector(before), parse_version(at(9, ANN)))) == after


def test_edit_may_not_be_earlier_than_what_it_edits() -> None:
    with pytest.raises(ValueError, match="not later"):
        edited(parse_vector(at(2, ANN)), parse_version(at(2, ANN)))


@given(vectors(), st.sampled_from(AUTHORS))
def test_edit_is_newer_than_its_parent(vector: VersionVector, source: str) -> None:
    edit = edited(vector, Version(vector.latest_time + 1, source))
    assert compare(edit, vector) is Order.NEWER
    assert parse_vector(str(edit)) == edit
    assert all(edit.contains(version) for version in vector.versions)


def test_edit_of_a_full_vector_drops_the_oldest() -> None:
    older = tuple(
        Version(MIN_TIME + MAX_VERSIONS - i, source_id(i.to_bytes(16)))
        for i in range(1, MAX_VERSIONS)
    )
    full = VersionVector(Version(MIN_TIME + MAX_VERSIONS, BOB), (), older)
    edit = edited(full, Version(MAX_TIME, ANN))
    assert edit.older == (full.current, *older[:-1])
    assert parse_vector(str(edit)) == edit


@pytest.mark.parametrize(
    ("client", "ours", "together"),
    [
        (at(9, ANN), at(1, BOB), f"{at(9, ANN)}; {at(1, BOB)}"),
        (
            f"{at(9, ANN)}; {at(3, BOB)}",
            f"{at(4, EVE)}; {at(5, BOB)}, {at(2, ANN)}",
            f"{at(9, ANN)}; {at(5, BOB)}, {at(4, EVE)}",
        ),
        (
            f"{at(9, ANN)}, {at(8, ANN)}, {at(3, BOB)};",
            f"{at(5, BOB)}; {at(4, EVE)}",
            f"{at(9, ANN)}, {at(8, ANN)}, {at(5, BOB)}; {at(4, EVE)}",
        ),
    ],
)
def test_our_versions_come_behind_the_clients(client: str, ours: str, together: str) -> None:
    assert str(with_older(parse_vector(client), parse_vector(ours))) == together


@given(vectors(), vectors())
def test_vector_with_ours_behind_is_newer_than_ours(
    client: VersionVector, ours: VersionVector
) -> None:
    assume(not ours.contains(client.current))
    together = with_older(client, ours)
    assert compare(together, client) is Order.SAME
    assert compare(together, ours) is Order.NEWER
    assert parse_vector(str(together)) == together


# --- deciding ------------------------------------------------------------------


@pytest.mark.parametrize("case", PROPOSALS, ids=range(len(PROPOSALS)))
def test_decision_of_the_vectors(case: Any) -> None:
    local = case["local"] and current(case["local"]["rev"], deleted=case["local"]["deleted"])
    parent = parse_identity(case["parent"]) if case["parent"] else None
    status = decide_version(local, parse_identity(case["proposed"]), parent)
    answer = case["answer"]
    assert status == (answer if isinstance(answer, int) else answer["status"])


@pytest.mark.parametrize(
    ("proposed", "parent", "status"),
    [
        (at(9, ANN), "2-bb", 0),
        (at(9, ANN), "1-aa", 409),
        (at(9, ANN), str(tree_version(RevID("2-bb"))), 0),
        (f"{at(9, ANN)}; 2-bb, 1-aa", "", 0),
        (f"{at(9, ANN)}; 3-cc, 2-cc", "", 409),
    ],
)
def test_parent_may_be_our_tree_id(proposed: str, parent: str, status: int) -> None:
    ours = current(at(5, BOB), tree_id="2-bb")
    known = parse_identity(parent) if parent else None
    assert decide_version(ours, parse_identity(proposed), known) == status


def test_parent_may_be_the_tree_id_that_our_version_stands_for() -> None:
    ours = current(str(tree_version(RevID("1-cafe"))), tree_id="7-bb")
    assert decide_version(ours, parse_identity(at(9, ANN)), parse_identity("1-cafe")) == 0


def test_side_of_the_client_that_won_a_conflict_is_taken() -> None:
    ours = current(at(5, BOB))
    refused, resolved = at(4, ANN), f"{at(4, ANN)}; {at(5, BOB)}"
    assert decide_version(ours, parse_identity(refused), None) == 409
    assert decide_version(ours, parse_identity(resolved), parse_identity(at(5, BOB))) == 0


def test_tombstone_is_not_replaced_by_an_edit_that_did_not_see_it() -> None:
    ours = current(f"{at(5, BOB)}; {at(1, ANN)}", deleted=True)
    edit = parse_identity(at(9, EVE))
    assert decide_version(ours, edit, parse_identity(at(1, ANN))) == 409


@given(vectors(), vectors())
def test_only_what_dominates_ours_replaces_it(ours: VersionVector, theirs: VersionVector) -> None:
    here = CurrentVector(ours, RevID("1-aa"), deleted=False)
    status = decide_version(here, RevIdentity(theirs), None)
    if ours.contains(theirs.current):
        assert status == 304
    else:
        assert status == (0 if theirs.contains(ours.current) else 409)


def test_tree_id_is_not_decided_here() -> None:
    with pytest.raises(ValueError, match="not a version"):
        decide_version(current(at(5, BOB)), parse_identity("2-bb"), None)


@pytest.mark.parametrize(
    ("rev", "order"),
    [
        (at(5, BOB), Order.SAME),
        (at(4, BOB), Order.OLDER),
        (f"{at(9, ANN)}; {at(5, BOB)}", Order.NEWER),
        (at(9, ANN), Order.CONFLICT),
        (f"{at(9, ANN)}; 2-bb, 1-aa", Order.NEWER),
        (f"{at(9, ANN)}; 1-aa", Order.CONFLICT),
    ],
)
def test_incoming_rev_replaces_what_it_descends_from(rev: str, order: Order) -> None:
    assert compare_incoming(parse_identity(rev), current(at(5, BOB), tree_id="2-bb")) is order


def test_document_made_anew_replaces_our_tombstone() -> None:
    ours = current(f"{at(5, BOB)}; {at(1, EVE)}", deleted=True)
    assert compare_incoming(parse_identity(at(9, ANN)), ours) is Order.NEWER


def test_edit_of_what_we_deleted_is_a_conflict() -> None:
    ours = current(f"{at(5, BOB)}; {at(1, EVE)}", deleted=True)
    edit = parse_identity(f"{at(9, ANN)}; {at(1, EVE)}")
    assert compare_incoming(edit, ours) is Order.CONFLICT
