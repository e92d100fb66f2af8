"""The active peer itself: it must send what real clients were seen to send."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.active_peer.__main__ import main
from tests.active_peer.active_replicator import ActiveReplicator, DatabaseChanged
from tests.active_peer.failures import Refusal, SyncError
from tests.active_peer.joined import JoinedEnd, sync_joined
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import KeepConflict, PeerDatabase
from tests.active_peer.recorded_server import (
    RecordedServer,
    Recording,
    Said,
    exchange_frames,
    recordings,
)
from tests.active_peer.revision import Revision
from tests.active_peer.sync import ContinuousSync, sync
from tests.interop.edgesyncd import Edgesyncd
from tests.loopback import Store

SERVER = "ws://server/db"


# --- recordings --------------------------------------------------------------------


def replay(database: PeerDatabase, recording: Recording, options: SyncOptions) -> RecordedServer:
    """Run the active peer against a recorded server to its end."""
    server = RecordedServer(recording)
    peer = ActiveReplicator(database, SERVER, options)
    exchange_frames(peer, server)
    assert peer.is_finished
    return server


def edit_as_recorded(database: PeerDatabase, recording: Recording) -> None:
    """Make the documents that the recorded client proposes."""
    bodies = {
        (s.properties["id"], s.properties["rev"]): s
        for s in recording.client
        if s.properties.get("id")
    }
    for proposal in recording.client:
        if proposal.profile != "proposeChanges":
            continue
        index = proposal.properties.get("collection")
        collection = database.collections[int(index or 0)]
        for doc_id, rev_id, parent in map(entry_start, json.loads(proposal.body)):
            document = collection.document(doc_id)
            revision = collection.form.parse_offer(rev_id)
            if document is not None and collection.form.has(document.revision, revision):
                continue
            sent = bodies.get((doc_id, revision.rev_id))
            if parent and not revision.is_version:
                revision = Revision(rev_id, (parent,))
            body = sent.body if sent else b"{}"
            deleted = bool(sent and "deleted" in sent.properties)
            collection.store(doc_id, revision, body, deleted=deleted)


def entry_start(entry: list[str]) -> tuple[str, str, str]:
    """Return document, revision and parent of a proposal; sizes are estimates."""
    return entry[0], entry[1], entry[2] if len(entry) > 2 else ""


def essence(said: Said) -> object:
    """Reduce a message to what must be the same: flags, properties in order, body."""
    properties = dict(said.properties)
    properties.pop("client", None)
    properties.pop("uuid", None)
    if said.profile in ("getCheckpoint", "setCheckpoint"):
        properties.pop("rev", None)
    body: object = json.loads(said.body) if said.body else None
    if said.profile == "proposeChanges" and isinstance(body, list):
        body = [entry_start(entry) for entry in body]
    if said.profile == "getCollections" and isinstance(body, dict):
        body = body["collections"]
    if said.type == "RPY":
        return said.type, said.flags & ~0x10, list(properties.items()), body
    return said.type, said.flags, list(properties.items()), body


def requests(said: list[Said], *profiles: str) -> list[object]:
    found = [
        essence(s) for s in said if s.type == "MSG" and s.profile in profiles and s.body != b"[]"
    ]
    return sorted(found, key=repr)


PUSHES = ["push-3-docs", "push-delete", "push-undelete", "push-two-batches", "push-busy-503",
          "push-rejected-403", "conflict-push-only", "push-delta-refused"]  # fmt: skip
PULLS = ["pull-3-docs", "pull-tombstone", "pull-two-batches", "pull-delta", "pull-delta-blob"]
BOTH = ["resume", "checkpoint-lost", "two-collections"]


@pytest.mark.parametrize("client", ["3.2.4", "4.0.3"])
@pytest.mark.parametrize("scenario", [*PUSHES, *PULLS, *BOTH])
def test_requests_are_those_of_a_real_client(scenario: str, client: str) -> None:
    database = PeerDatabase(versions=client == "4.0.3")
    two = ("field.meters", "field.trucks") if scenario == "two-collections" else None
    options = SyncOptions(
        push=scenario not in PULLS,
        pull=scenario not in PUSHES,
        collections=two or ("_default._default",),
    )
    for path in options.collections:
        database.collection(path)
    for run, recording in enumerate(recordings(scenario, client)):
        if scenario == "checkpoint-lost" and run == 1:
            database.remotes[SERVER].checkpoints.clear()  # the recorded client starts over
            database.remotes[SERVER].revs.clear()
        edit_as_recorded(database, recording)
        server = replay(database, recording, options)
        for profile in ("getCollections", "getCheckpoint", "subChanges", "proposeChanges", "rev"):
            assert requests(server.received, profile) == requests(recording.client, profile)
        assert replies(server.received) == replies(recording.client)
        # With both directions this peer also counts what it pulled in the same run.
        keys = ("remote",) if scenario in BOTH else ("local", "localCompleted", "remote")
        assert last_checkpoint(server.received, keys) == last_checkpoint(recording.client, keys)


def replies(said: list[Said]) -> list[object]:
    return sorted((essence(s) for s in said if s.type != "MSG"), key=repr)


def last_checkpoint(said: list[Said], keys: tuple[str, ...]) -> object:
    saved = [json.loads(s.body) for s in said if s.profile == "setCheckpoint"]
    return {key: saved[-1].get(key) for key in keys}


@pytest.mark.parametrize(
    ("scenario", "refusal"),
    [
        (
            "unknown-collection",
            ("HTTP", 404, "Collection 'field.ships' is not found on the remote server"),
        ),
        ("read-only-push", ("HTTP", 403, "Attempting to push to a pull-only replicator")),
    ],
)
def test_a_refused_session_fails_with_the_reason(
    scenario: str, refusal: tuple[str, int, str]
) -> None:
    database = PeerDatabase()
    named = ("field.meters", "field.ships")
    paths = named if scenario == "unknown-collection" else ("_default._default",)
    for path in paths:
        database.collection(path)
    recording = next(recordings(scenario))
    edit_as_recorded(database, recording)
    server = RecordedServer(recording)
    peer = ActiveReplicator(database, SERVER, SyncOptions(collections=paths))
    exchange_frames(peer, server)
    assert peer.failure is not None
    assert peer.failure.refusal == Refusal(*refusal)


# --- joined with the server ---------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def test_what_one_peer_pushes_another_pulls(store: Store) -> None:
    one, other = PeerDatabase(), PeerDatabase()
    for number in range(450):
        one.save(f"doc-{number}", {"n": number})
    assert sync_joined(store, one).pushed == 450
    assert sync_joined(store, other).pulled == 450
    assert other.digest(revisions=True) == one.digest(revisions=True)


def test_a_second_run_moves_nothing(store: Store) -> None:
    database = PeerDatabase()
    database.save("a", {})
    sync_joined(store, database)
    result = sync_joined(store, database)
    assert (result.pushed, result.pulled, result.already_there) == (0, 0, 0)


def test_blobs_go_both_ways_over_files(store: Store, tmp_path: Path) -> None:
    one, other = PeerDatabase(tmp_path / "one"), PeerDatabase(tmp_path / "other")
    content = bytes(range(256)) * 2000
    one.save("a", {"raw": one.save_blob(content, "image/png"), "none": one.save_blob(b"")})
    sync_joined(store, one)
    sync_joined(store, other)
    assert other.missing_blobs() == []
    digest = one.save_blob(content)["digest"]
    assert other.blobs.read(str(digest)) == content


def test_a_missing_blob_is_an_error_of_its_document(store: Store) -> None:
    database = PeerDatabase()
    properties = database.save_blob(b"gone")
    database.blobs.remove(str(properties["digest"]))
    database.save("a", {"blob": properties})
    database.save("b", {})
    result = sync_joined(store, database)
    assert result.pushed == 1
    assert result.failed_ids() == {"a"}


def in_conflict(store: Store) -> tuple[PeerDatabase, PeerDatabase]:
    """Make two databases that have changed the same document; the first has pushed."""
    one, other = PeerDatabase(), PeerDatabase()
    one.save("shared", {"a": 0, "b": 0})
    sync_joined(store, one)
    sync_joined(store, other)
    one.save("shared", {"a": 1, "b": 0})
    other.save("shared", {"a": 0, "b": 1})
    sync_joined(store, one)
    return one, other


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (KeepConflict.LOCAL, {"a": 0, "b": 1}),
        (KeepConflict.REMOTE, {"a": 1, "b": 0}),
        (lambda _id, ours, theirs: {**ours, "a": theirs["a"]}, {"a": 1, "b": 1}),
        (lambda _id, _ours, _theirs: None, None),
    ],
    ids=["local", "remote", "merged", "deleted"],
)
def test_a_conflict_is_resolved_and_pushed_in_one_run(
    store: Store, policy: KeepConflict, kept: dict[str, object] | None
) -> None:
    one, other = in_conflict(store)
    result = sync_joined(store, other, SyncOptions(conflicts=policy))
    assert result.conflicts == 1
    assert result.push_errors == []
    sync_joined(store, one)
    assert other.get("shared") == kept
    assert one.digest(revisions=True) == other.digest(revisions=True)


def test_a_conflict_without_a_pull_is_an_error_409(store: Store) -> None:
    _, other = in_conflict(store)
    errors = sync_joined(store, other, SyncOptions(pull=False)).push_errors
    assert [(error.doc_id, error.refusal.code) for error in errors] == [("shared", 409)]


def test_a_lost_connection_is_made_good_by_the_next(store: Store) -> None:
    one, other = PeerDatabase(), PeerDatabase()
    for number in range(300):
        one.save(f"doc-{number}", {"n": number})
    for frames in (1, 5, 50, 200):
        JoinedEnd(store, one, SyncOptions()).cut(frames)
    sync_joined(store, one)
    for frames in (1, 5, 50, 200):
        JoinedEnd(store, other, SyncOptions()).cut(frames)
    sync_joined(store, other)
    assert other.digest(revisions=True) == one.digest(revisions=True)


def test_a_continuous_session_pushes_edits_as_they_come(store: Store) -> None:
    one, other = PeerDatabase(), PeerDatabase()
    ends = [JoinedEnd(store, database, SyncOptions(continuous=True)) for database in (one, other)]
    for end in ends:
        end.run()
    for number in range(80):  # more generations than a history lists
        one.save("live", {"n": number})
    for end in ends:
        end.changed()
    assert other.get("live") == {"n": 79}
    for end in ends:
        end.close()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_peers_converge_under_any_interleaving(seed: int) -> None:
    chance = random.Random(seed)
    with TemporaryDirectory() as folder, closing(Store(Path(folder))) as store:
        peers = [PeerDatabase(), PeerDatabase(), PeerDatabase()]
        ends = [JoinedEnd(store, p, SyncOptions(continuous=True), chance=chance) for p in peers]
        for edit in range(30):
            place = chance.randrange(3)
            edit_at_random(peers[place], edit, chance)
            ends[place].peer.receive(DatabaseChanged(), 0.0)
            for end in chance.choices(ends, k=chance.randrange(20)):
                end.step()
        while sum(end.step() for end in ends):
            pass
        for peer, end in zip(peers, ends, strict=True):
            assert peer.digest() == peers[0].digest()
            assert end.peer.result.complaints == []
            end.close()


def edit_at_random(database: PeerDatabase, edit: int, chance: random.Random) -> None:
    doc_id = f"doc-{chance.randrange(4)}"
    if chance.random() < 0.2 and database.get(doc_id) is not None:
        database.delete(doc_id)
    else:
        database.save(doc_id, {"edit": edit})


def test_a_stopped_session_saves_its_checkpoint_and_ends(store: Store) -> None:
    database = PeerDatabase()
    end = JoinedEnd(store, database, SyncOptions(continuous=True))
    end.run()
    database.save("a", {})
    end.changed()
    end.peer.stop()
    end.run()
    assert end.peer.is_finished
    assert sync_joined(store, database).already_there == 0
    end.close()


# --- over sockets -------------------------------------------------------------------


@pytest.fixture(params=["ws", "wss"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Edgesyncd]:
    with Edgesyncd(tmp_path / "server", tls=request.param == "wss") as running:
        yield running


def test_documents_and_blobs_go_over_the_socket(server: Edgesyncd) -> None:
    one, other = PeerDatabase(), PeerDatabase()
    content = bytes(range(256)) * 4000
    one.save("with-blob", {"blob": one.save_blob(content, "image/png")})
    for number in range(500):
        one.save(f"doc-{number}", {"n": number, "text": "word " * 100})
    assert sync(one, server.url).complaints == []
    assert sync(other, server.url).pulled == 501
    assert other.digest(revisions=True) == one.digest(revisions=True)
    assert other.missing_blobs() == []


def test_continuous_peers_see_each_others_edits(server: Edgesyncd) -> None:
    one, other = PeerDatabase(), PeerDatabase()
    with ContinuousSync(one, server.url) as here, ContinuousSync(other, server.url) as there:
        one.save("ping", {"from": "one"})
        there.wait_for(lambda: other.get("ping") == {"from": "one"})
        other.save("ping", {"from": "other"})
        here.wait_for(lambda: one.get("ping") == {"from": "other"})
        assert here.stop().complaints == []
        assert there.stop().complaints == []


def test_a_killed_server_is_a_passing_failure(server: Edgesyncd) -> None:
    database = PeerDatabase()
    with ContinuousSync(database, server.url) as peer:
        peer.wait_idle()
        server.kill()
        with pytest.raises(SyncError, match="broke the connection off") as caught:
            peer.wait_for(lambda: False)
    assert caught.value.is_transient


def test_a_continuous_peer_comes_back_if_it_is_told_to(server: Edgesyncd) -> None:
    database = PeerDatabase()
    with ContinuousSync(database, server.url, retry_after_s=0.1) as peer:
        peer.wait_idle()
        server.kill()
        database.save("meanwhile", {})
        server.start()
        peer.wait_for(lambda: peer.result.pushed == 1)


def test_an_unknown_database_is_an_answer_404(server: Edgesyncd) -> None:
    with pytest.raises(SyncError) as caught:
        sync(PeerDatabase(), f"{server.url}-other")
    assert caught.value.http_status == 404


@pytest.mark.parametrize("protocol", ["2", "3", "4"])
def test_the_command_moves_a_folder(
    server: Edgesyncd, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "one.json").write_text('{"n": 1}')
    about = ["--protocol", protocol]
    if protocol != "2":
        about += ["--collection", "field.meters"]
    there = [server.url, str(tmp_path / "to"), *about]
    assert main(["push", server.url, str(tmp_path / "from"), *about]) == 0
    assert main(["pull", *there]) == 0
    assert json.loads((tmp_path / "to" / "one.json").read_text()) == {"n": 1}
    told = capsys.readouterr().out
    assert "1 pulled" in told
    assert f"CBMobile_{protocol}" in told


def test_the_command_takes_no_way_back_from_versions(
    server: Edgesyncd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.json").write_text("{}")
    assert main(["sync", server.url, str(tmp_path), "--protocol", "4"]) == 0
    assert main(["sync", server.url, str(tmp_path), "--protocol", "4"]) == 0
    assert main(["sync", server.url, str(tmp_path)]) == 1
    assert "was synchronised in protocol 4" in capsys.readouterr().err


def test_the_command_fails_on_a_certificate_that_is_not_pinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Edgesyncd(tmp_path / "server", tls=True) as server:
        assert main(["pull", server.url, str(tmp_path / "to"), "--fingerprint", "00:11"]) == 1
    assert "is not the pinned one" in capsys.readouterr().err
