"""What was acknowledged is there, whatever happens to the process or the card."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgesync.documents.store_calls import Verify
from tests.storage.store import Store

SOURCE = Path(__file__).parents[2]

WRITER = """
import itertools, sys
from pathlib import Path
from edgesync.limits import Limits
from tests.storage.store import Store, inserting

store = Store(Path(sys.argv[1]), Limits(commit_delay_s=0.001))
for batch in itertools.count():
    names = [f"d{batch}-{number}" for number in range(20)]
    answers = store.ask_all(
        [inserting(name, "1-aa", b'{"x":"%s"}' % (b"y" * 500)) for name in names]
        + [inserting("often", f"{batch + 1}-aa" + (f" {batch}-aa" if batch else ""))]
    )
    assert all(answer.is_new for answer in answers)
    print(batch, flush=True)
"""


@pytest.mark.parametrize("batches", [1, 30])
def test_acknowledged_revisions_survive_a_kill(folder: Path, batches: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], cwd=SOURCE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(batches):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = batches + len(process.stdout.read().splitlines())
    with Store(folder) as store:
        assert store.ask(lambda i: Verify(i)) == ()
        there = set(store.changed_ids())
        for batch in range(acknowledged):
            assert there >= {f"d{batch}-{number}" for number in range(20)}
        often = store.read("often")
        assert often is not None
        assert int(often.rev_id.split("-")[0]) >= acknowledged


FULL_CARD = """
import resource, sys
from pathlib import Path
from edgesync.errors import StoreFullError
from tests.storage.store import Store, inserting

def fill(store, name):
    stored = []
    for number in range(500):
        names = [f"{name}{number}-{part}" for part in range(10)]
        answers = store.ask_all([inserting(n, "1-aa", b'{"x":"%s"}' % (b"y" * 900)) for n in names])
        if any(isinstance(answer, StoreFullError) for answer in answers):
            assert all(isinstance(answer, StoreFullError) for answer in answers), answers
            return stored
        stored += names
    raise SystemExit("the card did not fill up")

with Store(Path(sys.argv[1])) as store:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    stored = fill(store, "a")
    assert stored
    assert store.rev_of(stored[-1]) == "1-aa"
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.insert("after", "1-aa").is_new
    print(*stored, "after")
"""


def test_full_card_is_told_and_loses_nothing(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_CARD, str(folder)],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Store(folder) as store:
        assert store.ask(lambda i: Verify(i)) == ()
        assert store.changed_ids() == done.stdout.split()
