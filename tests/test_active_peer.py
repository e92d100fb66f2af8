"""The active peer itself: it must send what real clients were seen to send."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from edgesync.blip.connection import Connection
from edgesync.blip.message import IncomingMessage, MessageType
from edgesync.limits import Limits
from edgesync.replication.replicator import FrameReceived
from tests.active_peer.active_replicator import ActiveReplicator
from tests.active_peer.failures import Refusal
from tests.active_peer.folder import Folder, FolderError, file_name
from tests.active_peer.joined import JoinedEnd, sync_joined
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_blobs import BlobReference, PeerBlobs
from tests.active_peer.peer_database import KeepConflict, PeerDatabase
from tests.active_peer.progress import Checkpoint, PullProgress
from tests.loopback import Store

RECORDED = Path(__file__).parent / "vectors" / "recorded"
SERVER = "ws://server/db"


# --- recordings --------------------------------------------------------------------


class Said(NamedTuple):
    """A message, as recorded or as sent."""

    type: str
    properties: Mapping[str, str]
    flags: int
    body: bytes
    number: int

    @property
    def profile(self) -> str:
        return self.properties.get("Profile", "")

    @property
    def subject(self) -> tuple[str | None, ...]:
        """What tells it from others of the same profile."""
        keys = ("Profile", "collection", "id", "rev", "digest")
        wanted = keys if self.profile in ("rev", "getAttachment") else keys[:2]
        return tuple(self.properties.get(key) for key in wanted)


class Recording:
    """One recorded connection: what each side said."""

    def __init__(self, connection: Mapping[str, list[Mapping[str, object]]]) -> None:
        self.client: list[Said] = []
        self.server: list[Said] = []
        for frame in connection["frames"]:
            decoded = frame.get("decoded")
            if not isinstance(decoded, dict) or "bytes" in decoded:
                continue
            said = self.client if frame["from"] == "client" else self.server
            if "part" in decoded:
                continue  # the blobs' contents do not matter here
            body = decoded.get("body", "").encode()
            said.append(
                Said(
                    decoded["type"],
                    dict(decoded.get("properties", [])),
                    int(decoded["flags"], 16) & ~0x40,
                    body,
                    decoded["number"],
                )
            )

    def reply_to(self, request: Said, side: list[Said]) -> Said:
        return next(s for s in side if s.type != "MSG" and s.number == request.number)


def recordings(scenario: str) -> Iterator[Recording]:
    text = (RECORDED / f"{scenario}.cbl-3.2.4.json").read_text(encoding="utf-8")
    for connection in json.loads(text)["connections"]:
        yield Recording(connection)


class RecordedServer:
    """Answer as the recorded server did, each time the client says the recorded thing."""

    def __init__(self, recording: Recording) -> None:
        self.connection = Connection(Limits())
        self.received: list[Said] = []
        self._recording = recording
        self._unused = list(recording.client)
        self._requests = [said for said in recording.server if said.type == "MSG"]
        self._is_subscribed: set[str | None] = set()
        self._is_wanted = False
        self._arrived: set[str] = set()

    def take(self, frame: bytes) -> None:
        for piece in self.connection.receive(frame):
            assert piece.is_first
            assert piece.is_last
            self._hear(piece.message, piece.data)
        self._speak()

    def _hear(self, message: IncomingMessage, body: bytes) -> None:
        flags = message.type | message.compressed << 3 | message.urgent << 4 | message.noreply << 5
        said = Said(message.type.name, message.properties, flags, body, message.number)
        self.received.append(said)
        if message.type is not MessageType.MSG:
            self._is_wanted = True
            return
        if said.profile == "subChanges":
            self._is_subscribed.add(said.properties.get("collection"))
        self._arrived.add(said.properties.get("id", ""))
        if not message.noreply:
            self._answer(message, said)

    def _answer(self, message: IncomingMessage, said: Said) -> None:
        for known in self._unused:
            if known.type == "MSG" and known.subject == said.subject and not known.flags & 0x20:
                self._unused.remove(known)
                reply = self._recording.reply_to(known, self._recording.server)
                break
        else:  # a `setCheckpoint` more than the recorded client sent
            assert said.profile == "setCheckpoint", said
            reply = Said("RPY", {"rev": "99-cc"}, 1, b"", 0)
        if reply.type == "ERR":
            code = int(reply.properties["Error-Code"])
            text = reply.body.decode()
            self.connection.send_error(message, reply.properties["Error-Domain"], code, text)
        else:
            self.connection.send_reply(message, reply.properties, reply.body)

    def _speak(self) -> None:
        for said in list(self._requests):
            if said.profile == "changes":
                may = said.properties.get("collection") in self._is_subscribed
            elif said.profile == "getAttachment":
                may = said.properties["docID"] in self._arrived
            else:
                may = self._is_wanted
            if may:
                self._requests.remove(said)
                self.connection.send_request(
                    said.properties, said.body, urgent=True, noreply=bool(said.flags & 0x20)
                )


def replay(database: PeerDatabase, recording: Recording, options: SyncOptions) -> RecordedServer:
    """Run the active peer against a recorded server to its end."""
    server = RecordedServer(recording)
    peer = ActiveReplicator(database, SERVER, options)
    exchange_frames(peer, server)
    assert peer.is_finished
    return server


def exchange_frames(peer: ActiveReplicator, server: RecordedServer) -> None:
    """Move frames until both are silent."""
    while True:
        moved = False
        while (frame := peer.frame_to_send()) is not None:
            server.take(frame)
            moved = True
        while (frame := server.connection.frame_to_send()) is not None:
            peer.receive(FrameReceived(frame), 0.0)
            moved = True
        if not moved:
            return


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
        for doc_id, rev_id, parent, _ in json.loads(proposal.body):
            document = collection.document(doc_id)
            if document is not None and rev_id in document.chain:
                continue
            sent = bodies.get((doc_id, rev_id))
            chain = (rev_id, parent) if parent else (rev_id,)
            body = sent.body if sent else b"{}"
            collection.store(
                doc_id, chain, body, deleted=bool(sent and "deleted" in sent.properties)
            )


def essence(said: Said) -> object:
    """Reduce a message to what must be the same: flags, properties in order, body."""
    properties = dict(said.properties)
    properties.pop("client", None)
    properties.pop("deltas", None)  # this peer takes none
    if said.profile in ("getCheckpoint", "setCheckpoint"):
        properties.pop("rev", None)
    body: object = json.loads(said.body) if said.body else None
    if said.profile == "proposeChanges" and isinstance(body, list):
        body = [entry[:3] for entry in body]  # sizes are estimates
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
          "push-rejected-403", "conflict-push-only"]  # fmt: skip
PULLS = ["pull-3-docs", "pull-tombstone", "pull-two-batches"]
BOTH = ["resume", "checkpoint-lost", "two-collections"]


@pytest.mark.parametrize("scenario", [*PUSHES, *PULLS, *BOTH])
def test_requests_are_those_of_a_real_client(scenario: str) -> None:
    database = PeerDatabase()
    two = ("field.meters", "field.trucks") if scenario == "two-collections" else None
    options = SyncOptions(
        push=scenario not in PULLS,
        pull=scenario not in PUSHES,
        collections=two or ("_default._default",),
    )
    for path in options.collections:
        database.collection(path)
    for run, recording in enumerate(recordings(scenario)):
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
