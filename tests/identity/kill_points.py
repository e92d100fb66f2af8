"""Run each change of a key store once per line of its code, and kill it there.

A program of its own, as it forks: `python -m tests.identity.kill_points FOLDER`.
Each child works on a copy of one key store and dies, as by `kill -9`, when it
has come to its k-th line of `keystore.py`. What it leaves must open and be
either the store from before or the one from after. Prints, per change, at how
many places it was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from edgesync.errors import EdgeSyncError
from edgesync.identity import keystore
from edgesync.identity.certificate import KeyType, KeyUsages, fingerprint, make_identity
from edgesync.identity.keystore import KeyFolder

OLD_KEY, NEW_KEY = b"o" * 32, b"n" * 32
FIRST, SECOND = (
    make_identity(
        {"CN": name},
        usages=KeyUsages.SERVER_AUTH,
        now=datetime.now(UTC),
        key_type=KeyType.P_256,
    )
    for name in ("first", "second")
)
Content = tuple[object, ...]

CHANGES: dict[str, Callable[[KeyFolder], object]] = {
    "add": lambda store: store.add("new", SECOND),
    "replace": lambda store: store.replace("old", SECOND),
    "delete": lambda store: store.delete("old"),
    "change_unlock": lambda store: store.change_unlock(NEW_KEY),
    "set_verifier": lambda store: store.set_verifier("ben", "two"),
    "remove_user": lambda store: store.remove_user("ann"),
}


def content_of(folder: Path) -> Content:
    """Return all there is in a store, and which key opens it."""
    try:
        key, store = OLD_KEY, KeyFolder.open(folder, OLD_KEY)
    except EdgeSyncError:
        key, store = NEW_KEY, KeyFolder.open(folder, NEW_KEY)
    prints = []
    for label in store.labels():
        identity = store.identity(label)
        assert identity is not None
        prints.append((label, fingerprint(identity.certs[0])))
    return key, prints, store.verifiers()


def killed_at_line(line: int, change: Callable[[], object]) -> bool:
    """Make a change in a child that dies at that line; return whether it got so far."""
    child = os.fork()
    if child == 0:
        sys.settrace(tracer(line))
        change()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status)


def tracer(line: int) -> Callable[[FrameType, str, Any], Any]:
    left = line

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != keystore.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def kill_everywhere(folder: Path, name: str, change: Callable[[KeyFolder], object]) -> int:
    original, copy, changed = folder / "original", folder / "copy", folder / "changed"
    before = content_of(original)
    shutil.copytree(original, changed)
    change(KeyFolder.open(changed, OLD_KEY))
    after = content_of(changed)
    assert before != after, name
    line = 0
    while True:
        line += 1
        shutil.copytree(original, copy)
        store = KeyFolder.open(copy, OLD_KEY)
        killed = killed_at_line(line, lambda store=store: change(store))  # type: ignore[misc]
        left = content_of(copy)
        assert left in (before, after), (name, line)
        KeyFolder.open(copy, left[0]).add("more", FIRST)  # type: ignore[arg-type]
        assert not (copy / ".new").exists(), (name, line)
        shutil.rmtree(copy)
        if not killed:
            assert left == after
            shutil.rmtree(changed)
            return line - 1


def kill_while_made(folder: Path) -> int:
    new = folder / "made"
    line = 0
    while True:
        line += 1
        killed = killed_at_line(line, lambda: KeyFolder.open(new, OLD_KEY))
        assert content_of(new) == (OLD_KEY, [], {}), line
        shutil.rmtree(new)
        if not killed:
            return line - 1


def main() -> None:
    folder = Path(sys.argv[1])
    store = KeyFolder.open(folder / "original", OLD_KEY)
    store.add("old", FIRST)
    store.set_verifier("ann", "one")
    print("open", kill_while_made(folder))
    for name, change in CHANGES.items():
        print(name, kill_everywhere(folder, name, change))


if __name__ == "__main__":
    main()
