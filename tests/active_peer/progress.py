"""How far a client is: the content of checkpoints. Spec: replication.md §7."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

ServerSequence = int | str
"""A sequence of the server: an integer, or text from a server that has others."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is done with.

    Spec: replication.md §7.2.
    """

    seen: int = 0
    """Local sequences up to here have been looked at,"""
    pending: frozenset[int] = frozenset()
    """and all but these are done with."""
    remote: ServerSequence | None = None
    """The server's sequences up to here are done with."""

    def encode(self, time_s: int) -> bytes:
        """Return the body of a `setCheckpoint`, saved at a time in seconds since 1970."""
        body: dict[str, object] = {"time": time_s}
        if self.seen:
            body["local"] = min(self.pending) - 1 if self.pending else self.seen
        if self.pending:
            body["localCompleted"] = self._completed()
        if self.remote is not None:
            body["remote"] = self.remote
        return json.dumps(body, separators=(",", ":")).encode()

    def _completed(self) -> list[int]:
        """List the runs of sequences that are done with: first and count of each."""
        runs: list[int] = []
        first = 0
        for hole in [*sorted(self.pending), self.seen + 1]:
            if hole > first:
                runs += (first, hole - first)
            first = hole + 1
        return runs

    @classmethod
    def decode(cls, body: bytes) -> Checkpoint:
        """Read a stored checkpoint; what makes no sense counts as absent."""
        root = json.loads(body or b"{}")
        if not isinstance(root, dict):
            return cls()
        remote = root.get("remote")
        runs = root.get("localCompleted")
        seen, pending = _int(root.get("local")), frozenset[int]()
        if isinstance(runs, list) and all(isinstance(number, int) for number in runs):
            seen, pending = _holes(runs)
        return cls(seen, pending, remote if isinstance(remote, int | str) else None)

    def agree(self, server: Checkpoint) -> Checkpoint:
        """Return what both sides hold for done. Spec: replication.md §7.3."""
        seen = min(self.seen, server.seen)
        pending = frozenset(n for n in self.pending | server.pending if n <= seen)
        remote = self.remote
        if isinstance(remote, int) and isinstance(server.remote, int):
            remote = min(remote, server.remote)
        elif remote != server.remote:
            remote = None
        return Checkpoint(seen, pending, remote)


class PullProgress:
    """The server's sequences that were announced, and which are done."""

    def __init__(self, done: ServerSequence | None) -> None:
        self.done = done
        self._is_done: dict[ServerSequence, bool] = {}  # in the order of announcement

    def announce(self, sequence: ServerSequence) -> None:
        """Note that a sequence is to be dealt with."""
        self._is_done[sequence] = False

    def finish(self, sequence: ServerSequence) -> None:
        """Note that a sequence is dealt with; everything before it may still be under way."""
        if sequence not in self._is_done:
            return
        self._is_done[sequence] = True
        while self._is_done:
            first = next(iter(self._is_done))
            if not self._is_done[first]:
                return
            del self._is_done[first]
            self.done = first


def _holes(runs: list[int]) -> tuple[int, frozenset[int]]:
    """Return the end of the last run, and what lies between the runs."""
    completed = sorted(_pairs(runs))
    end = 1
    holes: set[int] = set()
    for first, count in completed:
        holes.update(range(end, first))
        end = max(end, first + count)
    return end - 1, frozenset(holes)


def _pairs(runs: list[int]) -> Iterable[tuple[int, int]]:
    return zip(runs[::2], runs[1::2], strict=False)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
