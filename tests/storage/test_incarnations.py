"""Sequences of databases that are put back, by clocks that are set back."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import orjson
import pytest

from edgesync.documents.store_calls import Backup
from tests.storage.store import Store

TODAY = 1_800_000_000.0
CLOCKS = (TODAY, TODAY - 3600, 1000.0, TODAY - 1, 0.0)
"""Set back, and back again, as on a board that starts in 1970."""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a backup with one document."""
    with Store(tmp_path / "original") as store:
        store.insert("a", "1-aa")
        store.ask(lambda i: Backup(i, tmp_path / "saved"))
    return tmp_path / "saved"


def put_back(saved: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved, place)


def given_out(place: Path, now: float) -> range:
    """Return the sequences that a database gives out next."""
    with Store(place, clock=lambda: now) as store:
        first = store.insert(secrets.token_hex(8), "1-bb").sequence
        return range(first, store.insert(secrets.token_hex(8), "1-bb").sequence + 1)


def test_sequences_rise_from_restore_to_restore_while_the_clock_is_set_back(
    saved: Path, tmp_path: Path
) -> None:
    highest = 1
    for now in CLOCKS:
        put_back(saved, tmp_path / "db.edgesync")
        given = given_out(tmp_path / "db.edgesync", now)
        assert highest < given.start
        assert given.stop < 2**53
        highest = given.stop


def test_a_copy_that_was_opened_elsewhere_before_counts_as_another(
    saved: Path, tmp_path: Path
) -> None:
    """The service looks whether a backup is sound before it takes the database's place."""
    place, highest = tmp_path / "databases/db.edgesync", 1
    for now in CLOCKS:
        candidate = tmp_path / f"work-{now}/db.edgesync"
        put_back(saved, candidate)
        Store(candidate, clock=lambda now=now: now).close()  # type: ignore[misc]
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        candidate.rename(place)
        given = given_out(place, now)
        assert highest < given.start
        highest = given.stop


def test_a_new_card_goes_by_the_clock(saved: Path, tmp_path: Path) -> None:
    put_back(saved, tmp_path / "one/db.edgesync")
    put_back(saved, tmp_path / "two/db.edgesync")
    earlier = given_out(tmp_path / "one/db.edgesync", TODAY)
    assert given_out(tmp_path / "two/db.edgesync", TODAY + 60).start > earlier.stop


def test_a_database_that_was_put_back_goes_on_by_one(saved: Path, tmp_path: Path) -> None:
    put_back(saved, tmp_path / "db.edgesync")
    given = given_out(tmp_path / "db.edgesync", TODAY)
    with Store(tmp_path / "db.edgesync", clock=lambda: 0.0) as store:
        assert store.insert("d", "1-dd").sequence == given.stop


def test_a_database_that_is_made_anew_goes_on_above_the_former(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "db.edgesync"
    put_back(saved, place)
    given = given_out(place, TODAY)
    shutil.rmtree(place)
    assert given_out(place, 0.0).start > given.stop


def test_a_power_cut_between_mark_and_database_repeats_nothing(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "db.edgesync"
    put_back(saved, place)
    given = given_out(place, TODAY)
    mark = tmp_path / "db.sequences"
    ahead = {**orjson.loads(mark.read_bytes()), "began": given.stop + 1000}
    mark.write_bytes(orjson.dumps(ahead))
    assert given_out(place, 0.0).start > given.stop + 1000


@pytest.mark.parametrize(
    "noise", [b"", b"\0\0", b"[]", b'{"source":"x"}', b'{"source":1,"began":"y"}']
)
def test_a_mark_that_is_none_is_made_anew(saved: Path, tmp_path: Path, noise: bytes) -> None:
    put_back(saved, tmp_path / "db.edgesync")
    mark = tmp_path / "db.sequences"
    mark.write_bytes(noise)
    assert given_out(tmp_path / "db.edgesync", TODAY).start > 1 << 36
    assert set(orjson.loads(mark.read_bytes())) == {"source", "began"}


def test_a_database_that_was_never_put_back_has_no_mark(tmp_path: Path) -> None:
    assert given_out(tmp_path / "db.edgesync", TODAY) == range(1, 3)
    assert not (tmp_path / "db.sequences").exists()
