"""Parts of the active peer: checkpoints, blobs, deltas, version vectors, folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.active_peer import peer_delta
from tests.active_peer.folder import Folder, FolderError, file_name
from tests.active_peer.joined import sync_joined
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_blobs import BlobReference, PeerBlobs
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.progress import Checkpoint, PullProgress
from tests.active_peer.revision import Revision
from tests.active_peer.vector_revisions import VectorRevisions
from tests.loopback import Store

VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str, key: str) -> list[Any]:
    found: list[Any] = json.loads((VECTORS / name).read_text())[key]
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


# --- deltas ---------------------------------------------------------------------


@pytest.mark.parametrize("case", vectors("deltas.json", "valid"), ids=lambda case: case["name"])
def test_delta_applies(case: dict[str, Any]) -> None:
    assert peer_delta.apply(case["old"], case["delta"]) == case["new"]


@pytest.mark.parametrize("case", vectors("deltas.json", "valid"), ids=lambda case: case["name"])
def test_made_delta_leads_to_the_new_object(case: dict[str, Any]) -> None:
    delta = json.loads(json.dumps(peer_delta.make(case["old"], case["new"])))
    assert peer_delta.apply(case["old"], delta) == case["new"]


@pytest.mark.parametrize("case", vectors("deltas.json", "invalid"), ids=lambda case: case["name"])
def test_invalid_delta_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  whichever rule it breaks
        peer_delta.apply(case["old"], case["delta"])


# --- version vectors ----------------------------------------------------------------


def written() -> list[Any]:
    """Return the vectors as a peer writes them, not as it may also read them."""
    return [case for case in vectors("versions.json", "valid") if "rev_property" in case]


@pytest.mark.parametrize("case", written(), ids=lambda case: case["text"])
def test_vector_is_read_and_written(case: dict[str, Any]) -> None:
    form = VectorRevisions("any")
    revision = form.parse(case["rev_property"], case["history_property"])
    assert revision == form.parse_offer(case["text"])
    assert form.proposal(revision).replace(" ", "") == case["text"].replace(" ", "")
    assert form.history(revision, None, 0) == case["history_property"]


@pytest.mark.parametrize("case", vectors("versions.json", "compare"), ids=str)
def test_vectors_compare(case: dict[str, str]) -> None:
    form = VectorRevisions("any")
    a, b = form.parse_offer(case["a"]), form.parse_offer(case["b"])
    order = {
        (True, True): "same",
        (True, False): "newer",
        (False, True): "older",
        (False, False): "conflict",
    }[form.has(a, b), form.has(b, a)]
    assert order == case["a_compared_with_b"]


def test_merge_names_both_sides_and_comes_after_them() -> None:
    form, other = VectorRevisions("one"), VectorRevisions("other")
    ours, theirs = form.new(None, False, b""), other.new(None, False, b"")
    merged = form.merge(ours, theirs, False, b"")
    assert set(merged.merged) == {ours.rev_id, theirs.rev_id}
    assert form.replaces(merged, ours)
    assert form.replaces(merged, theirs)
    assert form.parse(merged.rev_id, form.history(merged, None, 0)) == merged


def test_side_that_is_kept_comes_after_the_other() -> None:
    form, other = VectorRevisions("one"), VectorRevisions("other")
    ours, theirs = form.new(None, False, b""), other.new(None, False, b"")
    assert form.replaces(form.keep_ours(ours, theirs, False, b""), theirs)
    assert form.keep_theirs(ours, theirs) == Revision(theirs.rev_id, (ours.rev_id,))


def test_upgraded_document_keeps_its_tree_id_until_it_is_edited() -> None:
    database = PeerDatabase()
    tree_id = database.save("doc", {"n": 1})
    database.upgrade()
    document = database.default_collection.document("doc")
    assert document is not None
    assert document.rev_id == tree_id
    database.save("doc", {"n": 2})
    document = database.default_collection.document("doc")
    assert document is not None
    assert document.revision.is_version
    assert document.revision.older == (tree_id,)


def test_only_protocol_4_always_names_collections() -> None:
    assert [SyncOptions(protocols=(n,)).names_collections for n in (2, 3, 4)] == [
        False,
        False,
        True,
    ]


# --- parts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "body"),
    [
        (Checkpoint(), {"time": 9}),
        (Checkpoint(3), {"time": 9, "local": 3}),
        (Checkpoint(3, frozenset({2})), {"time": 9, "local": 1, "localCompleted": [0, 2, 3, 1]}),
        (Checkpoint(4, frozenset({1, 4})), {"time": 9, "local": 0, "localCompleted": [0, 1, 2, 2]}),
        (Checkpoint(1, frozenset(), 7), {"time": 9, "local": 1, "remote": 7}),
    ],
)
def test_a_checkpoint_lists_what_is_done(checkpoint: Checkpoint, body: dict[str, object]) -> None:
    assert json.loads(checkpoint.encode(9)) == body


def test_a_checkpoint_says_less_after_a_hole_at_its_end() -> None:
    decoded = Checkpoint.decode(Checkpoint(4, frozenset({1, 4})).encode(9))
    assert decoded == Checkpoint(3, frozenset({1}))


def test_two_checkpoints_agree_on_what_both_have_done() -> None:
    ours, theirs = Checkpoint(9, frozenset({3, 8}), 5), Checkpoint(6, frozenset({2}), 7)
    assert ours.agree(theirs) == Checkpoint(6, frozenset({2, 3}), 5)


def test_the_pull_stands_before_the_first_unfinished_sequence() -> None:
    progress = PullProgress(1)
    for sequence in (2, 4, 7):
        progress.announce(sequence)
    progress.finish(4)
    assert progress.done == 1
    progress.finish(2)
    assert progress.done == 4


def test_a_blob_with_other_content_is_not_kept(tmp_path: Path) -> None:
    for blobs in (PeerBlobs(), PeerBlobs(tmp_path)):
        digest, length = PeerBlobs().add(b"right")
        writer = blobs.writer()
        writer.write(b"wrong")
        assert not blobs.finish(writer, BlobReference(digest, length, False))
        assert digest not in blobs
    assert list(tmp_path.iterdir()) == []


# --- folders ------------------------------------------------------------------------


def test_a_pulled_folder_has_equal_documents(store: Store, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    bodies = {"plain.json": {"a": 1.0}, "Füllstand.json": {"ü": "☃"}, "a%2Fb.json": {}}
    for name, body in bodies.items():
        (tmp_path / "from" / name).write_text(json.dumps(body))
    pushing = Folder(tmp_path / "from", "_default")
    assert pushing.take_edits() == 3
    sync_joined(store, pushing.database)
    pulling = Folder(tmp_path / "to", "_default")
    sync_joined(store, pulling.database)
    assert pulling.write_back() == 3
    found = {f.name: json.loads(f.read_text()) for f in (tmp_path / "to").glob("*.json")}
    assert found == bodies


def test_an_edited_folder_pushes_the_edits_alone(store: Store, tmp_path: Path) -> None:
    for name in ("stays", "edited", "removed"):
        (tmp_path / f"{name}.json").write_text("{}")
    folder = Folder(tmp_path, "_default")
    folder.take_edits()
    sync_joined(store, folder.database)
    folder.save()
    (tmp_path / "edited.json").write_text('{"edited": true}')
    (tmp_path / "removed.json").unlink()
    again = Folder(tmp_path, "_default")
    assert again.take_edits() == 2
    assert sync_joined(store, again.database).pushed == 2
    other = PeerDatabase()
    sync_joined(store, other)
    assert other.default_collection.ids() == ["edited", "stays"]


def test_a_folder_belongs_to_one_collection(tmp_path: Path) -> None:
    Folder(tmp_path, "a.b").save()
    with pytest.raises(FolderError, match=r"holds documents of a\.b"):
        Folder(tmp_path, "a.c")


def test_a_file_that_is_no_object_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(FolderError, match=r"bad\.json is no JSON object"):
        Folder(tmp_path, "_default").take_edits()


@pytest.mark.parametrize("doc_id", ["a/b", ".hidden", "100%", 'what?"', "é" * 120, "/" * 240])
def test_any_document_id_gets_a_file_name(doc_id: str, tmp_path: Path) -> None:
    (tmp_path / file_name(doc_id)).write_text("{}")
    assert [file.name for file in tmp_path.iterdir()] == [file_name(doc_id)]
    assert not file_name(doc_id).startswith(".")
