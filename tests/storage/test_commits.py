from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgesync.documents.rev_id import RevID
from edgesync.documents.store_calls import (
    DEFAULT_COLLECTION,
    CreateCollection,
    Inserted,
    InsertRev,
    SetExpiration,
    StoreCall,
)
from edgesync.documents.version_vector import parse_vector
from edgesync.errors import CollectionNotFoundError
from edgesync.limits import Limits
from edgesync.storage.blobs import BlobFiles
from edgesync.storage.commits import MAX_SLEEP_S, Answer, Commits
from tests.storage.store import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def commits(tmp_path: Path, clock: Clock) -> Iterator[Commits]:
    blobs = BlobFiles(tmp_path / "blobs")
    opened = Commits(tmp_path / "x.sqlite3", blobs, Limits(), clock, time.monotonic)
    yield opened
    opened.close()


def insert(doc_id: str, size: int = 10, collection: str = DEFAULT_COLLECTION) -> InsertRev:
    body = b'{"x":"%s"}' % (b"y" * size)
    return InsertRev(1, collection, doc_id, (RevID("1-aa"),), body, False, ())


def carry_out(commits: Commits, *calls: StoreCall) -> list[Answer]:
    return commits.carry_out(calls).answers


def let_no_page_be_added(commits: Commits) -> None:
    """Have SQLite find its file full, as on a full card."""
    commits._execute("PRAGMA max_page_count = 1").fetchone()


def test_transaction_that_fails_half_way_leaves_nothing(commits: Commits) -> None:
    let_no_page_be_added(commits)
    with pytest.raises(sqlite3.OperationalError):
        carry_out(commits, insert("a"), CreateCollection(2, "s.c"), insert("b", 100_000, "s.c"))
    commits.roll_back()
    assert list(commits.catalog.committed) == [DEFAULT_COLLECTION]
    answer, lost = carry_out(commits, insert("a"), insert("a", 10, "s.c"))
    assert isinstance(answer, Inserted)
    assert answer.is_new
    assert isinstance(lost, CollectionNotFoundError)


def test_sequences_of_a_failed_transaction_are_not_reused(commits: Commits) -> None:
    let_no_page_be_added(commits)
    with pytest.raises(sqlite3.OperationalError):
        carry_out(commits, insert("a"), insert("b", 100_000))
    commits.roll_back()
    assert commits.sequences.committed == 0
    outcome = commits.carry_out([insert("a")])
    assert outcome.answers == [("1-aa", 3, True)]
    assert outcome.committed is not None
    assert outcome.committed.sequences == {DEFAULT_COLLECTION: 3}


def test_times_of_a_failed_transaction_are_not_reused(commits: Commits, tmp_path: Path) -> None:
    carry_out(commits, insert("a"))
    let_no_page_be_added(commits)
    with pytest.raises(sqlite3.OperationalError):
        carry_out(commits, insert("b"), insert("c", 100_000))
    commits.roll_back()
    carry_out(commits, insert("d"))
    with closing(sqlite3.connect(tmp_path / "x.sqlite3")) as connection:
        vectors = connection.execute("SELECT vector FROM document ORDER BY sequence").fetchall()
        (clock,) = connection.execute("SELECT value FROM info WHERE key = 'clock'").fetchone()
    times = [parse_vector(vector).current.time for (vector,) in vectors]
    assert times[1] == times[0] + 3
    assert clock == times[1]


def test_rolling_back_nothing_is_harmless(commits: Commits) -> None:
    commits.roll_back()
    assert carry_out(commits, insert("a")) == [("1-aa", 1, True)]


def test_nothing_expires_at_first(commits: Commits) -> None:
    assert commits.seconds_to_expiry() is None


def test_clock_is_looked_at_every_minute(commits: Commits, clock: Clock) -> None:
    carry_out(commits, insert("a"), SetExpiration(2, DEFAULT_COLLECTION, "a", clock.now + 1e6))
    assert commits.seconds_to_expiry() == MAX_SLEEP_S
    clock.now += 1e6 - 1
    assert commits.seconds_to_expiry() == 1.0
    clock.now += 2
    assert commits.seconds_to_expiry() == 0.0
    commits.purge_expired()
    assert commits.seconds_to_expiry() is None
