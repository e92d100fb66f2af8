"""Couchbase Lite 3.x and 4.x share one database, in both directions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import sync
from tests.interop.edgesyncd import Edgesyncd
from tests.interop.listening_proxy import ListeningProxy
from tests.interop.remote_client import DEFAULT, Body, RemoteClient

pytestmark = [pytest.mark.needs_cbl(3), pytest.mark.needs_cbl(4)]

COLLECTIONS = ("field.meters", "field.trucks")
TREE_ID = re.compile(r"\b[1-9][0-9]*-[0-9a-f]{2,}")
PAD = {"pad": "x" * 1000}

MakeClient = Callable[[int, str], RemoteClient]


@pytest.fixture(params=[False, True], ids=["whole bodies", "deltas"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Edgesyncd]:
    with Edgesyncd(tmp_path / "server", deltas=request.param) as running:
        yield running


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MakeClient]:
    """Make databases of the real clients."""
    with ExitStack() as stack:
        yield lambda generation, name: stack.enter_context(
            RemoteClient(generation, tmp_path / f"client-{name}", name)
        )


@pytest.fixture
def three(client: MakeClient) -> RemoteClient:
    return client(3, "three")


@pytest.fixture
def four(client: MakeClient) -> RemoteClient:
    return client(4, "four")


def settle(server: Edgesyncd, *clients: RemoteClient, path: str = DEFAULT) -> None:
    """Replicate until nothing moves any more, and check that all agree."""
    for _ in range(4):
        runs = [one.replicate(server.url, paths=[path]) for one in clients]
        if not any(run.pushed or run.pulled for run in runs):
            break
    assert len({one.digest(path) for one in clients}) == 1
    assert [one.lacks_blobs(path) for one in clients] == [[]] * len(clients)


def test_both_edit_one_document_in_turn(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient
) -> None:
    for turn in range(6):
        one, other = (three, four) if turn % 2 else (four, three)
        one.save("shared", {**PAD, "turn": turn, "by": one.generation})
        assert one.replicate(server.url).errors == []
        other.replicate(server.url)
        assert other.get("shared") == {**PAD, "turn": turn, "by": one.generation}
    settle(server, three, four)


def test_a_deletion_of_either_reaches_the_other(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient
) -> None:
    # A document each: 4.0.3 itself ends with a Fleece exception when it pulls the tombstone of
    # a document that it has deleted, pushed and made anew, whoever the server is.
    for one, other in ((three, four), (four, three)):
        name = f"doc-{one.generation}"
        one.save(name, {})
        one.replicate(server.url)
        other.replicate(server.url)
        other.delete(name)
        other.replicate(server.url)
        one.replicate(server.url)
        assert one.get(name) is None
    settle(server, three, four)


def test_a_document_is_made_anew_over_the_others_deletion(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient
) -> None:
    for one, other in ((three, four), (four, three)):
        name = f"phoenix-{one.generation}"
        one.save(name, {"life": 1})
        settle(server, one, other)
        one.delete(name)
        settle(server, one, other)
        other.save(name, {"life": 2})
        settle(server, other, one)
        assert one.get(name) == {"life": 2}


@pytest.mark.parametrize("size", [3_000, 2_000_000])
def test_blobs_go_both_ways_and_are_replaced(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient, size: int
) -> None:
    for seed, (one, other) in enumerate([(three, four), (four, three), (three, four)]):
        one.save("with-blob", {**PAD, "seed": seed}, blob_bytes=size, blob_seed=seed)
        one.replicate(server.url)
        other.replicate(server.url)
        assert other.get("with-blob") == one.get("with-blob")
        assert other.lacks_blobs() == []
    settle(server, three, four)


def test_two_collections_are_shared_and_stay_apart(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient
) -> None:
    for path in COLLECTIONS:
        three.save("same-id", {"in": path, "by": 3}, path=path)
        four.save(f"of-{path}", {"in": path, "by": 4}, path=path)
    for one in (three, four, three):
        one.replicate(server.url, paths=COLLECTIONS)
    for path in COLLECTIONS:
        assert four.get("same-id", path=path) == {"in": path, "by": 3}
        assert three.digest(path) == four.digest(path)


@pytest.mark.parametrize("resolver", ["", "unite", "ours", "theirs"])
@pytest.mark.parametrize("loser", [3, 4])
def test_a_conflict_is_resolved_on_either_side(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient, loser: int, resolver: str
) -> None:
    three.save("shared", {**PAD, "a": 0})
    settle(server, three, four)
    three.save("shared", {**PAD, "a": 3, "by-three": 1})
    four.save("shared", {**PAD, "a": 4, "by-four": 1})
    first, second = (four, three) if loser == 3 else (three, four)
    first.replicate(server.url)
    for _ in range(2):  # the first run pulls and resolves, the second pushes the result
        second.replicate(server.url, resolver=resolver)
    settle(server, first, second)
    kept = first.get("shared")
    assert kept is not None
    if resolver == "unite":
        assert kept == {**PAD, "a": loser, "by-three": 1, "by-four": 1}
    elif resolver:
        assert kept["a"] == (loser if resolver == "ours" else first.generation)


def test_a_database_upgraded_from_3_to_4_goes_on_syncing(
    server: Edgesyncd, three: RemoteClient, client: MakeClient, tmp_path: Path
) -> None:
    old = client(3, "old")
    for name in ("untouched", "edited", "edited-by-other", "deleted"):
        old.save(name, {**PAD, "by": "old"})
    old.save("with-blob", {**PAD}, blob_bytes=3000)
    settle(server, old, three)
    old.save("unsent", {"by": "old"})
    three.save("edited-by-other", {**PAD, "by": "three"})
    three.replicate(server.url)
    old.close()
    shutil.copytree(old.folder, tmp_path / "upgraded")
    with RemoteClient(4, tmp_path / "upgraded", "old") as upgraded:
        upgraded.save("edited", {**PAD, "by": "upgraded"})
        upgraded.delete("deleted")
        upgraded.save("new", {"by": "upgraded"})
        settle(server, upgraded, three)
        for turn in range(3):
            for name in ("untouched", "edited-by-other", "unsent"):
                three.save(name, {**PAD, "turn": turn})
            settle(server, three, upgraded)
            upgraded.save("untouched", {**PAD, "turn": turn, "by": "upgraded"})
            settle(server, upgraded, three)
        assert three.get("untouched") == {**PAD, "turn": 2, "by": "upgraded"}
        assert upgraded.get("deleted") is None


def test_no_tree_id_is_ever_said_to_a_4_x_client(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient
) -> None:
    with ListeningProxy(server.url) as proxy:
        for turn in range(3):
            bodies: dict[str, Body] = {f"doc-{n}": {**PAD, "turn": turn} for n in range(5)}
            for name, body in bodies.items():
                three.save(name, body)
            three.save("with-blob", {"turn": turn}, blob_bytes=3000, blob_seed=turn)
            if turn:
                three.delete(f"doc-{turn}")
            three.replicate(server.url)
            four.replicate(proxy.url)
            four.save("doc-0", {**PAD, "turn": turn, "by": "four"})
            four.replicate(proxy.url)
            three.replicate(server.url)
        said = proxy.requests()
    assert {request.properties["Profile"] for request in said} >= {"changes", "rev"}
    revisions = [text for request in said for text in request.revisions]
    assert len(revisions) > 20
    assert [text for text in revisions if TREE_ID.search(text)] == []
    assert three.digest() == four.digest()


@pytest.mark.parametrize("versions", [False, True], ids=["trees", "versions"])
def test_our_own_active_peer_agrees_with_both(
    server: Edgesyncd, three: RemoteClient, four: RemoteClient, versions: bool
) -> None:
    ours = PeerDatabase(versions=versions)
    for turn in range(2):
        ours.save("ours", {**PAD, "turn": turn, "blob": ours.save_blob(b"x" * 200_000)})
        assert sync(ours, server.url).complaints == []
        for one in (three, four):
            one.replicate(server.url)
            one.save(f"by-{one.generation}", {**PAD, "turn": turn})
            one.save("shared", {**PAD, "turn": turn, "by": one.generation})
            one.replicate(server.url)
        result = sync(ours, server.url)
        assert (result.complaints, result.push_errors, result.pull_errors) == ([], [], [])
    settle(server, three, four)
    for name in ("ours", "by-3", "by-4", "shared"):
        assert ours.get(name) == three.get(name)
