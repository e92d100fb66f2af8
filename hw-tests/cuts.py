"""Power cuts while a client pushes, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import Final

from appliance import Appliance, Client
from tests.active_peer.failures import SyncError
from tests.active_peer.options import SyncOptions
from tests.active_peer.peer_database import DEFAULT_COLLECTION
from tests.active_peer.sync import ContinuousSync

MIN_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 6.0
NAMES: Final = 200
"""Of documents: some are edited while an earlier revision of theirs is still under way."""
PAUSE_S: Final = 0.005


class Pushing:
    """A client that edits and pushes without end, until the box is gone."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._ends = threading.Event()
        self._sync = ContinuousSync(client.database, client.url, SyncOptions(pull=False))
        self._thread = threading.Thread(target=self._edit, name="edits", daemon=True)
        self._thread.start()

    def _edit(self) -> None:
        number = 0
        while not self._ends.wait(PAUSE_S):
            number += 1
            name = f"reading-{self._chance.randrange(NAMES)}"
            body = {"n": number, "text": "x" * self._chance.randrange(2_000)}
            self._client.database.save(name, body)

    def end(self) -> None:
        """Wait until the client knows that the box is gone."""
        self._ends.set()
        self._thread.join(timeout=20)
        with contextlib.suppress(SyncError):
            self._sync.stop(timeout_s=60)


def acknowledged(client: Client) -> dict[str, str]:
    """Return the revisions that the box confirmed, by document."""
    known = client.database.remote(client.url).of(DEFAULT_COLLECTION)
    return {doc_id: rev.rev_id for doc_id, rev in known.items()}


def cut_while_pushing(appliance: Appliance, client: Client, chance: random.Random) -> int:
    """Cut the power at a random moment of a push; return how many revisions were confirmed."""
    before = acknowledged(client)
    pushing = Pushing(client, chance)
    time.sleep(chance.uniform(MIN_DELAY_S, MAX_DELAY_S))
    appliance.off()
    pushing.end()
    after = acknowledged(client)
    return sum(rev != before.get(doc_id) for doc_id, rev in after.items())


def lost(appliance: Appliance, client: Client) -> list[str]:
    """Return the confirmed revisions that the box does not have any more."""
    looking = appliance.client
    looking.sync(push=False)
    found = looking.database.default_collection
    missing = []
    for doc_id, rev in acknowledged(client).items():
        document = found.document(doc_id)
        if document is None or rev not in document.revision.chain:
            missing.append(f"{doc_id} {rev}")
    return missing


def damage(appliance: Appliance) -> list[str]:
    """Return what the box itself finds wrong: file systems, databases, units."""
    errors = appliance.run("cat /sys/fs/ext4/*/errors_count").split()
    findings = json.loads(appliance.run("edgesync --json doctor", check=False))
    return [
        *(f"{each} errors of a file system" for each in errors if each != "0"),
        *(each["text"] for each in findings if each["level"] == "bad"),
        *appliance.run("systemctl --failed --plain --no-legend").splitlines(),
        *([] if "sound" in str(findings) else ["no database was verified"]),
    ]


def check_ext4(partition: Path) -> None:
    """Let an ext4 file system settle as a boot does, then check it without mercy.

    Settling replays the journal and clears up what no journal holds: counts of what is
    free, files that were deleted while open. It fails if there is anything to decide.
    """
    settled = _e2fsck("-f", "-p", str(partition))
    assert settled.returncode in {0, 1}, settled.stdout + settled.stderr
    checked = _e2fsck("-f", "-n", str(partition))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _e2fsck(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["e2fsck", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
