from __future__ import annotations

from pathlib import Path

import pytest

from edgesync.documents.store_calls import Checkpoint, GetCheckpoint, SetCheckpoint
from edgesync.errors import CheckpointConflictError
from tests.storage.store import Store


def get(store: Store, checkpoint_id: str = "cp-1") -> object:
    return store.ask(lambda i: GetCheckpoint(i, checkpoint_id))


def save(store: Store, rev: str, body: bytes = b"{}", checkpoint_id: str = "cp-1") -> str:
    return store.ask(lambda i: SetCheckpoint(i, checkpoint_id, rev, body), str)


def test_unsaved_checkpoint_is_none(store: Store) -> None:
    assert get(store) is None


def test_checkpoint_is_kept_verbatim(store: Store) -> None:
    rev = save(store, "", b'{ "time":1}\xff')
    assert get(store) == Checkpoint(rev, b'{ "time":1}\xff')


def test_revision_changes_with_each_save(store: Store) -> None:
    first = save(store, "")
    second = save(store, first, b'{"x":2}')
    assert first != second
    assert get(store) == Checkpoint(second, b'{"x":2}')


@pytest.mark.parametrize("rev", ["", "2-cc", "1", "01-cc", "x"])
def test_save_over_another_revision_is_refused(store: Store, rev: str) -> None:
    first = save(store, "", b"first")
    with pytest.raises(CheckpointConflictError):
        save(store, rev, b"second")
    assert get(store) == Checkpoint(first, b"first")


@pytest.mark.parametrize("rev", ["1-cc", "0-cc", "0"])
def test_save_over_a_revision_that_is_lost_is_refused(store: Store, rev: str) -> None:
    with pytest.raises(CheckpointConflictError):
        save(store, rev)


def test_of_two_saves_at_once_one_wins(store: Store) -> None:
    answers = store.ask_all([lambda i: SetCheckpoint(i, "cp-1", "", b"{}")] * 2)
    assert answers[0] == "1-cc"
    assert isinstance(answers[1], CheckpointConflictError)


def test_checkpoints_are_apart_by_id(store: Store) -> None:
    save(store, "", b"1", "cp-1")
    save(store, "", b"2", "cp-2")
    assert get(store, "cp-1") == Checkpoint("1-cc", b"1")


def test_checkpoints_survive_reopening(folder: Path) -> None:
    with Store(folder) as store:
        save(store, "", b"1")
    with Store(folder) as store:
        assert get(store) == Checkpoint("1-cc", b"1")


def test_checkpoints_are_no_changes(store: Store) -> None:
    save(store, "")
    assert store.changes() == ((), 0, True)
    assert store.committed == []
