"""A service whose machine can be made to fail while it runs, and what clients do with it."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

from tests.active_peer.failures import SyncError
from tests.active_peer.options import Result
from tests.active_peer.peer_database import DEFAULT_COLLECTION, PeerDatabase
from tests.active_peer.sync import sync
from tests.active_peer.vector_revisions import VectorRevisions
from tests.integration.service import free_port
from tests.security.service import Box

CONFIG = """
[database.db]
[listener.test]
interface = "127.0.0.1"
port = {port}
disable_tls = true
advertise = false
[limits]
{limits}
"""
FIELDS = ("write_errno", "sync_errno", "read_errno", "sync_delay_ms", "clock_offset_s", "hits")


class Faults:
    """What the shim does to the service from now on."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(8 * len(FIELDS)))
        with file.open("r+b") as page:
            self._page = mmap.mmap(page.fileno(), 0)

    def set(self, **values: int) -> None:
        """Set the given faults and no others."""
        for number, name in enumerate(FIELDS[:-1]):
            struct.pack_into("q", self._page, 8 * number, values.get(name, 0))

    @property
    def hits(self) -> int:
        """How many calls were made to fail or wait."""
        (hits,) = struct.unpack_from("q", self._page, 8 * (len(FIELDS) - 1))
        return int(hits)

    def close(self) -> None:
        self._page.close()


class FaultyBox(Box):
    """A box with a shim between it and the system."""

    def __init__(self, folder: Path, shim: Path, *, limits: str = "") -> None:
        self.listener_port = free_port()
        self.faults = Faults(folder / "faults")
        super().__init__(
            folder,
            CONFIG.format(port=self.listener_port, limits=limits),
            LD_PRELOAD=str(shim),
            FAULTS_PAGE=str(folder / "faults"),
            FAULTS_BELOW=str(folder / "state"),
        )

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.listener_port}/db"

    @property
    def problem(self) -> str:
        """What `edgesync status` says is wrong with the database."""
        (database,) = self.api.status()["databases"]
        return database["problem"]

    def bad_findings(self) -> dict[str, str]:
        """Return what `edgesync doctor` finds to be bad, by its check."""
        command = (sys.executable, "-m", "edgesync.cli.main", "--socket", str(self.api.path))
        ended = subprocess.run(
            [*command, "--json", "doctor", "--quick"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        findings = json.loads(ended.stdout)
        return {each["check"]: each["text"] for each in findings if each["level"] == "bad"}

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.communicate()

    def limit_descriptors(self, number: int) -> None:
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (number, hard))

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


# --- clients ---------------------------------------------------------------------------


def fill(client: PeerDatabase, name: str, count: int, size: int = 1000) -> None:
    """Have an application save documents that do not compress well."""
    rng = random.Random(name)
    for number in range(count):
        client.save(f"{name}-{number:04}", {"n": number, "text": rng.randbytes(size // 2).hex()})


def push(client: PeerDatabase, box: FaultyBox) -> Result | SyncError:
    """Push once; return what came of it."""
    try:
        return sync(client, box.url, pull=False, timeout_s=20)
    except SyncError as error:
        return error


def is_put_off(outcome: Result | SyncError) -> bool:
    """Tell whether a client comes back by itself with all that was not taken."""
    if isinstance(outcome, SyncError):
        return outcome.is_transient or "checkpoint" in str(outcome)
    return bool(outcome.push_errors) and all(
        failure.refusal.is_transient for failure in outcome.push_errors
    )


def pulled(box: FaultyBox) -> PeerDatabase:
    """Pull all into a new database."""
    client = PeerDatabase()
    result = sync(client, box.url, push=False, timeout_s=20)
    assert result.complaints == []
    assert result.pull_errors == []
    return client


def pulled_meanwhile(box: FaultyBox, *, versions: bool = False) -> PeerDatabase:
    """Pull all while nothing can be written, and so the client's checkpoint neither."""
    client, ended = PeerDatabase(versions=versions), ""
    try:
        sync(client, box.url, push=False, timeout_s=20)
    except SyncError as error:
        ended = str(error)
    assert ended in ("", "the server refuses: the checkpoint could not be saved (HTTP 500)")
    return client


def acknowledged(client: PeerDatabase, box: FaultyBox) -> dict[str, str]:
    """Return the revisions that the service told a client to have, by document."""
    known = client.remote(box.url).of(DEFAULT_COLLECTION)
    return {doc_id: server.rev_id for doc_id, server in known.items()}


def stored(client: PeerDatabase) -> dict[str, str]:
    return {each.doc_id: each.rev_id for each in client.default_collection.documents()}


def assert_nothing_is_lost(box: FaultyBox, client: PeerDatabase) -> None:
    """Kill the service and start it again: what it acknowledged can be pulled."""
    expected = acknowledged(client, box)
    assert expected
    with contextlib.suppress(ProcessLookupError):
        box.kill()
    box.start()
    versions = isinstance(client.form, VectorRevisions)
    assert expected.items() <= stored(pulled_meanwhile(box, versions=versions)).items()
