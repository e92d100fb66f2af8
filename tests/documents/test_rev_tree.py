from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.rev_id import RevID, order
from edgesync.documents.rev_tree import Rev, RevTree
from edgesync.errors import ConflictError

Edit = tuple[tuple[RevID, ...], bool]


def history(*texts: str) -> tuple[RevID, ...]:
    return tuple(RevID(text) for text in texts)


def tree(*edits: tuple[str, bool]) -> RevTree:
    """Grow a tree from histories, written newest first."""
    grown = RevTree("doc")
    for text, deleted in edits:
        grown.insert(history(*text.split()), deleted)
    return grown


def chain(tag: str, length: int) -> tuple[RevID, ...]:
    """Return a whole branch, newest first."""
    return history(*(f"{place}-{tag}" for place in range(length, 0, -1)))


def test_first_revision_wins() -> None:
    assert tree(("1-aa", False)).winner == Rev(RevID("1-aa"), None, False)


def test_empty_tree_has_no_winner() -> None:
    assert RevTree("doc").winner is None


def test_child_of_the_winner_wins() -> None:
    assert tree(("1-aa", False), ("2-bb 1-aa", False)).winner == ("2-bb", "1-aa", False)


def test_unknown_ancestors_are_added_without_being_deleted() -> None:
    added = tree(("1-aa", False)).insert(history("4-dd", "3-cc", "2-bb", "1-aa"), True)
    assert added == (("4-dd", "3-cc", True), ("3-cc", "2-bb", False), ("2-bb", "1-aa", False))


def test_known_revision_changes_nothing() -> None:
    grown = tree(("2-bb 1-aa", False))
    assert grown.insert(history("1-aa"), False) == ()


def test_branch_off_an_inner_revision_is_a_conflict() -> None:
    grown = tree(("2-bb 1-aa", False))
    with pytest.raises(ConflictError) as caught:
        grown.insert(history("2-cc", "1-aa"), False)
    assert caught.value.current_rev == "2-bb"


def test_second_root_is_a_conflict_while_the_document_lives() -> None:
    with pytest.raises(ConflictError):
        tree(("1-aa", False)).insert(history("1-bb"), False)


def test_new_document_is_accepted_over_a_tombstone_and_wins() -> None:
    assert tree(("2-bb 1-aa", True), ("1-cc", False)).winner == ("1-cc", None, False)


def test_live_child_of_an_old_tombstone_is_a_conflict_beside_a_live_leaf() -> None:
    grown = tree(("2-bb 1-aa", True), ("1-cc", False))
    with pytest.raises(ConflictError):
        grown.insert(history("3-dd", "2-bb"), False)


def test_among_tombstones_the_higher_id_wins() -> None:
    grown = tree(("3-cc 2-bb 1-aa", True), ("1-dd", False), ("2-ee 1-dd", True))
    assert grown.winner == ("3-cc", "2-bb", True)


def test_conflict_leaves_the_tree_as_it_was() -> None:
    grown = tree(("2-bb 1-aa", False))
    with pytest.raises(ConflictError):
        grown.insert(history("3-dd", "2-cc", "1-aa"), False)
    assert grown.ancestors(RevID("3-dd")) == ()
    assert [leaf.rev_id for leaf in grown.leaves] == ["2-bb"]


def test_branch_may_leave_anywhere_when_all_leaves_are_tombstones() -> None:
    grown = tree(("3-cc 2-bb 1-aa", False), ("4-ff 3-cc", True))
    added = grown.insert(history("3-xx", "2-xx", "1-aa"), False, branches=True)
    assert added == (("3-xx", "2-xx", False), ("2-xx", "1-aa", False))
    assert grown.winner == ("3-xx", "2-xx", False)


def test_branch_is_a_conflict_while_another_leaf_lives() -> None:
    grown = tree(("3-cc 2-bb 1-aa", False))
    with pytest.raises(ConflictError):
        grown.insert(history("2-xx", "1-aa"), False, branches=True)


def test_branch_off_a_tombstone_s_history_is_a_conflict_unless_asked_for() -> None:
    grown = tree(("3-cc 2-bb 1-aa", True))
    with pytest.raises(ConflictError):
        grown.insert(history("2-xx", "1-aa"), False)


def test_known_revision_changes_nothing_when_branches_are_allowed() -> None:
    grown = tree(("3-cc 2-bb 1-aa", True))
    assert grown.insert(history("2-bb", "1-aa"), False, branches=True) == ()


def test_ancestors_are_newest_first() -> None:
    assert tree(("3-cc 2-bb 1-aa", False)).ancestors(RevID("3-cc")) == ("2-bb", "1-aa")


def test_ancestors_end_where_the_tree_was_pruned() -> None:
    pruned = RevTree("doc", [Rev(RevID("3-cc"), RevID("2-bb"), False)])
    assert pruned.ancestors(RevID("3-cc")) == ()


def test_pruning_keeps_the_newest() -> None:
    grown = tree(("4-dd 3-cc 2-bb 1-aa", False))
    assert set(grown.prune(2)) == {"1-aa", "2-bb"}
    assert grown.ancestors(RevID("4-dd")) == ("3-cc",)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 40))
def test_pruning_keeps_every_leaf(lengths: list[int], max_depth: int) -> None:
    grown = RevTree("doc")
    for number, length in enumerate(lengths):
        grown.insert(chain(f"{number:02x}", length), True)
    leaves, winner = grown.leaves, grown.winner
    grown.prune(max_depth)
    assert grown.leaves == leaves
    assert grown.winner == winner


@st.composite
def edits(draw: st.DrawFn) -> list[Edit]:
    """A document's life: perhaps deleted once and made anew, then edited; no conflict.

    Each edit comes with its whole history, as peers send it.
    """
    made: list[Edit] = []
    if draw(st.booleans()):
        made.append((chain("aa", draw(st.integers(1, 8))), True))
    whole = chain("bb", draw(st.integers(1, 8)))
    made.extend((whole[place:], False) for place in range(len(whole)))
    again = draw(st.lists(st.sampled_from(made), max_size=10))
    return [made[0], *again, (whole, False)]


def grow(arrived: list[Edit]) -> RevTree:
    grown = RevTree("doc")
    for revs, deleted in arrived:
        try:
            grown.insert(revs, deleted)
        except ConflictError:
            continue
    return grown


@given(edits(), st.randoms(use_true_random=False))
def test_peers_agree_on_the_winner_in_any_order_of_arrival(
    arrived: list[Edit], random: Random
) -> None:
    shuffled = random.sample(arrived, len(arrived))
    assert grow(arrived).winner == grow(shuffled).winner


@given(edits())
def test_inserting_twice_changes_nothing(arrived: list[Edit]) -> None:
    once, twice = grow(arrived), grow(arrived + arrived)
    assert once.winner == twice.winner
    assert sorted(once.leaves) == sorted(twice.leaves)


@given(st.lists(edits(), min_size=1, max_size=3))
def test_never_more_than_one_leaf_lives(lives: list[list[Edit]]) -> None:
    grown = grow([edit for life in lives for edit in life])
    live = [leaf for leaf in grown.leaves if not leaf.deleted]
    assert len(live) <= 1
    assert grown.winner in (live or [max(grown.leaves, key=lambda leaf: order(leaf.rev_id))])
