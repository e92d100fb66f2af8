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


# --- many at once ------------------------------------------------------------------------


def count(commits: Commits) -> int:
    (number,) = commits._execute("SELECT count(*) FROM document").fetchone()
    return int(number)


def test_many_new_documents_of_a_transaction_are_all_there(commits: Commits) -> None:
    answers = carry_out(commits, *(insert(f"d{number}", number) for number in range(150)))
    assert [answer.sequence for answer in answers if isinstance(answer, Inserted)] == list(
        range(1, 151)
    )
    rows = commits._execute("SELECT doc_id, sequence, body_bytes FROM document ORDER BY sequence")
    assert rows.fetchall() == [(f"d{n}", n + 1, n + 8) for n in range(150)]


def test_document_that_comes_twice_in_a_transaction_is_one(commits: Commits) -> None:
    second = insert("a")._replace(history=(RevID("2-bb"), RevID("1-aa")))
    answers = carry_out(commits, insert("a"), insert("a"), insert("b"), second, second)
    assert [answer[1:] for answer in answers if isinstance(answer, Inserted)] == [
        (1, True),
        (1, False),
        (2, True),
        (3, True),
        (3, False),
    ]
    assert count(commits) == 2


def test_unknown_collection_spoils_no_others_of_its_transaction(commits: Commits) -> None:
    answers = carry_out(commits, insert("a"), insert("b", collection="s.none"), insert("c"))
    assert [type(answer) for answer in answers] == [Inserted, CollectionNotFoundError, Inserted]
    assert count(commits) == 2


def test_documents_of_a_run_are_there_for_what_follows_it(commits: Commits) -> None:
    carry_out(commits, insert("a"), insert("b"), SetExpiration(2, DEFAULT_COLLECTION, "a", 5000.0))
    assert commits._execute(
        "SELECT doc_id, expires_at FROM document ORDER BY doc_id"
    ).fetchall() == [
        ("a", 5000.0),
        ("b", None),
    ]


def test_failed_run_leaves_nothing_for_the_next(commits: Commits) -> None:
    let_no_page_be_added(commits)
    with pytest.raises(sqlite3.OperationalError):
        carry_out(commits, insert("a", 100_000), insert("b", 100_000))
    commits.roll_back()
    commits._execute("PRAGMA max_page_count = 1000000").fetchone()
    carry_out(commits, insert("c"), insert("d"))
    assert count(commits) == 2
