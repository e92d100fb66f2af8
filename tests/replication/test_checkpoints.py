"""Checkpoints that clients keep here."""

from __future__ import annotations

import pytest

from edgesync.limits import Limits
from tests.replication.conftest import Fixture
from tests.replication.test_replicator import error


def test_missing_checkpoint_is_404_in_domain_http(fixture: Fixture) -> None:
    assert error(fixture.end().request("getCheckpoint", client="cp-A"))[:2] == ("HTTP", 404)


def test_checkpoint_comes_back_as_it_was(fixture: Fixture) -> None:
    body = b'{ "time" : 1,  "local":2 }'
    saved = fixture.end().request("setCheckpoint", body, client="cp-A", rev="")
    reply = fixture.end().request("getCheckpoint", client="cp-A")
    assert saved is not None
    assert reply is not None
    assert reply.body == body
    assert reply.properties["rev"] == saved.properties["rev"]


def test_empty_and_absent_revision_mean_none(fixture: Fixture) -> None:
    end = fixture.end()
    first = end.request("setCheckpoint", b"{}", client="cp-A")
    assert first is not None
    assert not first.head.is_error
    assert error(end.request("setCheckpoint", b"{}", client="cp-A", rev=""))[:2] == ("HTTP", 409)


def test_save_over_another_revision_is_409_and_the_right_one_succeeds(fixture: Fixture) -> None:
    end = fixture.end()
    first = end.request("setCheckpoint", b'{"local":1}', client="cp-A", rev="")
    assert first is not None
    stale = end.request("setCheckpoint", b'{"local":2}', client="cp-A", rev="7-cc")
    assert error(stale) == ("HTTP", 409, "revision ID mismatch")
    again = end.request("getCheckpoint", client="cp-A")
    assert again is not None
    second = end.request(
        "setCheckpoint", b'{"local":2}', client="cp-A", rev=again.properties["rev"]
    )
    assert second is not None
    assert second.properties["rev"] not in ("", first.properties["rev"])


@pytest.mark.parametrize("profile", ["getCheckpoint", "setCheckpoint"])
def test_missing_id_is_refused(fixture: Fixture, profile: str) -> None:
    assert error(fixture.end().request(profile)) == ("BLIP", 400, "missing checkpoint ID")


def test_overlong_id_and_body_are_refused(fixture: Fixture) -> None:
    end = fixture.end(limits=Limits(max_checkpoint_id_bytes=10, max_checkpoint_bytes=20))
    assert error(end.request("getCheckpoint", client="x" * 11))[:2] == ("BLIP", 400)
    assert error(end.request("setCheckpoint", b"x" * 21, client="cp-A"))[:2] == ("BLIP", 400)


def test_full_store_lets_clients_go_on_without_a_checkpoint(fixture: Fixture) -> None:
    # After 503 they would close, and nobody could pull: replication.md §3.3.
    end = fixture.end()
    fixture.store.engine._commits._execute("PRAGMA max_page_count = 1").fetchone()
    reply = end.request("setCheckpoint", b'"%s"' % bytes(500_000), client="cp-A", rev="")
    assert error(reply)[:2] == ("HTTP", 500)
