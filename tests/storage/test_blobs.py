from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.documents.body import blob_digest
from edgesync.documents.store_calls import (
    AppendBlob,
    BlobLength,
    BlobPiece,
    DropBlob,
    FindMissingBlobs,
    FinishBlob,
    ReadBlob,
)
from edgesync.errors import BlobDigestError, BlobNotFoundError
from edgesync.storage.blobs import BlobFiles
from tests.storage.store import Store

CONTENT = b"0123456789"
DIGEST = blob_digest(CONTENT)


def append(store: Store, data: bytes, sink: int = 1) -> None:
    store.ask(lambda i: AppendBlob(i, sink, data))


def finish(store: Store, digest: str = DIGEST, length: int | None = None, sink: int = 1) -> None:
    store.ask(lambda i: FinishBlob(i, sink, digest, length))


def read(store: Store, offset: int, max_bytes: int) -> BlobPiece:
    return store.ask(lambda i: ReadBlob(i, DIGEST, offset, max_bytes), BlobPiece)


def unfinished(folder: Path) -> list[str]:
    return os.listdir(folder / "blobs" / "incoming")


def test_pieces_become_a_blob(store: Store, folder: Path) -> None:
    for piece in (CONTENT[:3], b"", CONTENT[3:]):
        append(store, piece)
    finish(store, length=len(CONTENT))
    assert read(store, 0, 100) == (CONTENT, True)
    assert unfinished(folder) == []


def test_blob_may_be_empty(store: Store) -> None:
    digest = blob_digest(b"")
    finish(store, digest, 0)
    assert store.ask(lambda i: ReadBlob(i, digest, 0, 10)) == (b"", True)


def test_blob_may_come_twice(store: Store, folder: Path) -> None:
    assert store.add_blob(CONTENT) == store.add_blob(CONTENT)
    assert unfinished(folder) == []


def test_blobs_may_arrive_side_by_side(store: Store) -> None:
    append(store, CONTENT[:5], sink=1)
    append(store, b"other", sink=2)
    append(store, CONTENT[5:], sink=1)
    finish(store, sink=1)
    finish(store, blob_digest(b"other"), sink=2)
    assert read(store, 0, 100) == (CONTENT, True)


def test_other_content_is_refused(store: Store, folder: Path) -> None:
    append(store, b"other")
    with pytest.raises(BlobDigestError):
        finish(store)
    assert unfinished(folder) == []
    assert store.ask(lambda i: BlobLength(i, DIGEST)) is None


def test_other_length_is_refused(store: Store, folder: Path) -> None:
    append(store, CONTENT)
    with pytest.raises(BlobDigestError):
        finish(store, length=len(CONTENT) + 1)
    assert unfinished(folder) == []


def test_dropped_blob_leaves_nothing(store: Store, folder: Path) -> None:
    append(store, CONTENT)
    store.ask(lambda i: DropBlob(i, 1))
    assert unfinished(folder) == []


def test_sink_may_be_used_anew_after_a_drop(store: Store) -> None:
    append(store, b"other")
    store.ask(lambda i: DropBlob(i, 1))
    append(store, CONTENT)
    finish(store)
    assert read(store, 0, 100) == (CONTENT, True)


def test_dropping_what_never_came_does_nothing(store: Store) -> None:
    assert store.ask(lambda i: DropBlob(i, 7)) is None


def test_clients_do_not_share_sinks(store: Store) -> None:
    other = store.engine.connect(lambda *_: None)
    other.submit([AppendBlob(1, 1, b"other")])
    append(store, CONTENT)
    finish(store)
    assert read(store, 0, 100) == (CONTENT, True)


def test_client_that_goes_leaves_nothing(store: Store, folder: Path) -> None:
    other = store.engine.connect(lambda *_: None)
    other.submit([AppendBlob(1, 1, b"a"), AppendBlob(2, 2, b"b")])
    other.close()
    store.ask(lambda i: BlobLength(i, DIGEST))  # answered by the same thread, after it
    assert unfinished(folder) == []


def test_unfinished_blobs_are_gone_after_reopening(folder: Path) -> None:
    with Store(folder) as store:
        append(store, CONTENT)
    assert len(unfinished(folder)) == 1
    with Store(folder):
        assert unfinished(folder) == []


def test_blobs_survive_reopening(folder: Path) -> None:
    with Store(folder) as store:
        store.add_blob(CONTENT)
    with Store(folder) as store:
        assert read(store, 0, 100) == (CONTENT, True)


@pytest.mark.parametrize(
    ("offset", "max_bytes", "piece"),
    [(0, 4, (b"0123", False)), (4, 5, (b"45678", False)), (9, 5, (b"9", True)),
     (0, 10, (CONTENT, True)), (10, 5, (b"", True)), (99, 5, (b"", True))],
)  # fmt: skip
def test_blob_is_read_in_pieces(
    store: Store, offset: int, max_bytes: int, piece: tuple[bytes, bool]
) -> None:
    store.add_blob(CONTENT)
    assert read(store, offset, max_bytes) == piece


@pytest.mark.parametrize("digest", [DIGEST, "", "sha1-", "../../../etc/passwd"])
def test_blob_that_is_not_there_cannot_be_read(store: Store, digest: str) -> None:
    with pytest.raises(BlobNotFoundError):
        store.ask(lambda i: ReadBlob(i, digest, 0, 10))


def test_length_is_that_of_the_content(store: Store) -> None:
    store.add_blob(CONTENT)
    assert store.ask(lambda i: BlobLength(i, DIGEST)) == 10


def test_missing_blobs_are_named(store: Store) -> None:
    store.add_blob(CONTENT)
    other = blob_digest(b"other")
    assert store.ask(lambda i: FindMissingBlobs(i, (DIGEST, other))) == (other,)


@given(st.lists(st.binary(max_size=50), max_size=5, unique=True))
def test_files_are_found_by_their_names(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    files = BlobFiles(tmp_path_factory.mktemp("blobs"))
    for content in contents:
        sink = files.new_sink()
        sink.append(content)
        sink.finish(files, blob_digest(content), None)
    assert sorted(files.digests()) == sorted(blob_digest(content) for content in contents)


FULL_CARD = """
import resource, signal, sys
from pathlib import Path
from edgesync.documents.store_calls import AppendBlob, FinishBlob
from edgesync.errors import StoreFullError
from tests.storage.store import Store

with Store(Path(sys.argv[1])) as store:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    answers = store.ask_all(
        [lambda i: AppendBlob(i, 1, b"x" * 60_000)] * 3 + [lambda i: FinishBlob(i, 1, "x", None)]
    )
    print([type(answer).__name__ for answer in answers])
    store.add_blob(b"small")
"""


def test_full_card_is_told_and_leaves_nothing(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_CARD, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (
        done.stdout.strip() == "['NoneType', 'StoreFullError', 'StoreFullError', 'StoreFullError']"
    )
    assert unfinished(folder) == []
