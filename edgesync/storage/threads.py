"""The threads of a database: some answer calls as they come, one gathers and commits."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from edgesync.documents.store_calls import (
    AppendBlob,
    Backup,
    Committed,
    Compact,
    FinishBlob,
    InsertRev,
    InsertVersion,
    SetCheckpoint,
    StoreCall,
    StoreDone,
    StoreResult,
    TidyUp,
    Verify,
)
from edgesync.errors import EdgeSyncError, StoreClosedError, StoreError
from edgesync.limits import Limits
from edgesync.storage.commits import CommitOutcome, Commits
from edgesync.storage.condition import SETTLES_AFTER_S, Report
from edgesync.storage.failures import store_error

_PATIENT: Final = frozenset({InsertRev, InsertVersion, SetCheckpoint})
"""What comes from peers waits for company; what our own application does goes at once."""
MAX_DELAYS: Final = 4
"""How many times the delay a call waits while more keep coming."""


_WRITES_FILES: Final = frozenset({AppendBlob, FinishBlob})
_OF_PEOPLE: Final = frozenset({Backup, Verify, TidyUp})
"""Who asks is there to read the answer."""


class Asker:
    """Who gets answers, by a function, until it is closed."""

    def __init__(self, answer: Callable[..., None]) -> None:
        self.answer = answer
        self.is_closed = False


class Batch(NamedTuple):
    """Calls for one thread."""

    client: Asker
    calls: Sequence[StoreCall]
    arrived_at: float  # monotonic seconds


class Answers(NamedTuple):
    """What became of calls."""

    client: Asker
    done: list[StoreDone]


class Chore(NamedTuple):
    """What a thread does by itself, now and then."""

    every_s: float
    do: Callable[[], object]


class _Errand(NamedTuple):
    """What another thread wants done by the writer, between two transactions."""

    do: Callable[[], int]
    done: Future[int]


class Outbox:
    """What the threads have for the owner."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: deque[Answers | Committed | Report] = deque()
        self._is_woken = False

    def put(self, *entries: Answers | Committed | Report) -> None:
        """Add entries; the owner is woken once for all that it has not taken yet."""
        self._entries.extend(entries)
        # The owner lowers the flag before it looks, we look at it after adding: so
        # nothing is overlooked, and two threads at once wake it twice at the worst.
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def empty(self, take: Callable[[Answers | Committed | Report], None]) -> None:
        """Give all entries to a function; if it raises, the rest comes next time."""
        self._is_woken = False
        try:
            while self._entries:
                take(self._entries.popleft())
        finally:
            if self._entries and not self._is_woken:
                self._is_woken = True
                self._wake()


class _Reporter:
    """Tells the owner when work fails, and when it works again; for one thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._failed_at: dict[str, float] = {}

    def failed(self, work: str, error: StoreError) -> None:
        self._failed_at[work] = time.monotonic()
        self._outbox.put(Report(work, error))

    def worked(self, work: str) -> None:
        failed_at = self._failed_at.get(work)
        if failed_at is not None and time.monotonic() - failed_at >= SETTLES_AFTER_S:
            del self._failed_at[work]
            self._outbox.put(Report(work, None))


class Worker:
    """A thread that carries out calls as they come, and answers batch by batch."""

    def __init__(
        self,
        name: str,
        do: Callable[[Asker, StoreCall], StoreResult],
        outbox: Outbox,
        chore: Chore | None = None,
        look_ahead: Callable[[Sequence[StoreCall]], None] = lambda _calls: None,
    ) -> None:
        self._do = do
        self._look_ahead = look_ahead
        self._chore = chore
        self._chore_at = time.monotonic() + chore.every_s if chore is not None else 0.0
        self._outbox = outbox
        self._reporter = _Reporter(outbox)
        self._queue: SimpleQueue[Sequence[Batch] | None] = SimpleQueue()
        self.put = self._queue.put
        self._thread = threading.Thread(target=self._run, name=f"edgesync-{name}", daemon=True)
        self.join = self._thread.join
        self._thread.start()

    def _run(self) -> None:
        while (batches := self._next()) is not None:
            for batch in batches:
                self._look_ahead(batch.calls)
                done = [self._answer(batch.client, call) for call in batch.calls]
                self._outbox.put(Answers(batch.client, done))

    def _next(self) -> Sequence[Batch] | None:
        """Wait for calls, and do the chore when it is time; None: it is over."""
        if self._chore is None:
            return self._queue.get()
        while True:
            try:
                return self._queue.get(timeout=max(self._chore_at - time.monotonic(), 0.0))
            except Empty:
                with suppress(EdgeSyncError, sqlite3.Error, OSError):  # it is tried again
                    self._chore.do()
                self._chore_at = time.monotonic() + self._chore.every_s

    def _answer(self, client: Asker, call: StoreCall) -> StoreDone:
        kind = type(call)
        try:
            done = StoreDone(call.call_id, self._do(client, call))
        except EdgeSyncError as error:
            return StoreDone(call.call_id, error)
        except Exception as error:  # noqa: BLE001  the top of a thread: the asker is told
            failure = store_error(error, while_writing=kind in _WRITES_FILES)
            if kind not in _OF_PEOPLE:
                self._reporter.failed(kind.__name__, failure)
            return StoreDone(call.call_id, failure)
        self._reporter.worked(kind.__name__)
        return done


class _Item(NamedTuple):
    client: Asker
    call: StoreCall
    arrived_at: float


class Writer:
    """The thread that writes: gathers calls, commits them together, answers after that."""

    def __init__(
        self,
        commits: Commits,
        limits: Limits,
        outbox: Outbox,
        should_stop: Callable[[], bool],
    ) -> None:
        self._commits = commits
        self._limits = limits
        self._outbox = outbox
        self._reporter = _Reporter(outbox)
        self._should_stop = should_stop
        self._queue: SimpleQueue[Sequence[Batch] | _Errand | None] = SimpleQueue()
        self.put: Callable[[Sequence[Batch] | None], None] = self._queue.put
        self._gathered: list[_Item] = []
        self._is_urgent = False
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="edgesync-writer", daemon=True)
        self.join = self._thread.join
        self._thread.start()

    def _run(self) -> None:
        while self._gathered or not self._is_ending:
            if items := self._gather():
                self._commit(items)
            elif not self._is_ending:
                self._purge_expired()

    def _gather(self) -> list[_Item]:
        """Wait for calls, then for company; nothing if a document may have expired."""
        gathered, limit = self._gathered, self._limits.commit_revisions
        if not gathered:
            self._take(self._commits.seconds_to_expiry())
        while gathered and len(gathered) < limit and self._take(self._patience_s()):
            pass
        items, self._gathered = gathered[:limit], gathered[limit:]
        self._is_urgent = any(type(item.call) not in _PATIENT for item in self._gathered)
        return items

    def _take(self, timeout_s: float | None) -> bool:
        """Add what comes to what is gathered; return False if nothing came, or will."""
        if self._is_ending:
            return False
        try:
            batches = self._queue.get(timeout=timeout_s)
        except Empty:
            return False
        if batches is None:
            self._is_ending = True
            return False
        if isinstance(batches, _Errand):
            self._run_errand(batches)
            return True
        for client, calls, arrived_at in batches:
            for call in calls:
                self._gathered.append(_Item(client, call, arrived_at))
                self._is_urgent = self._is_urgent or type(call) not in _PATIENT
        return True

    def _patience_s(self) -> float:
        if self._is_urgent:
            return 0.0
        delay_s = self._limits.commit_delay_s
        latest_s = self._gathered[0].arrived_at + MAX_DELAYS * delay_s
        deadline = min(self._gathered[-1].arrived_at + delay_s, latest_s)
        return max(deadline - time.monotonic(), 0.0)

    def _commit(self, items: list[_Item]) -> None:
        writes = [item for item in items if not isinstance(item.call, Compact)]
        if writes:
            outcome = self._carry_out([item.call for item in writes])
            self._answer(writes, outcome)
        for item in items:
            if isinstance(item.call, Compact):
                self._answer([item], CommitOutcome([self._compact()], None))

    def _carry_out(self, asked: list[StoreCall]) -> CommitOutcome:
        try:
            outcome = self._commits.carry_out(asked)
        except Exception as error:  # noqa: BLE001  the top of a thread: all askers are told
            self._commits.roll_back()
            self._reporter.failed("commit", store_error(error))
            return CommitOutcome([store_error(error) for _ in asked], None)
        self._reporter.worked("commit")
        return outcome

    def _answer(self, items: list[_Item], outcome: CommitOutcome) -> None:
        by_client: dict[Asker, list[StoreDone]] = {}
        for item, answer in zip(items, outcome.answers, strict=True):
            done = StoreDone(item.call.call_id, answer)
            by_client.setdefault(item.client, []).append(done)
        entries: list[Answers | Committed] = [Answers(*entry) for entry in by_client.items()]
        if outcome.committed is not None:
            entries.append(outcome.committed)
        self._outbox.put(*entries)

    def _compact(self) -> EdgeSyncError | None:
        try:
            self._commits.compact(self._should_stop)
        except sqlite3.Error as error:
            if self._should_stop():
                return StoreClosedError("the database was closed meanwhile")
            return store_error(error)
        return None

    def between(self, do: Callable[[], int]) -> Future[int]:
        """Have a function called between two transactions; on any thread.

        After the end nothing is called, and the future never done.
        """
        done: Future[int] = Future()
        self._queue.put(_Errand(do, done))
        return done

    def _run_errand(self, errand: _Errand) -> None:
        try:
            errand.done.set_result(errand.do())
        except Exception as error:  # noqa: BLE001  the top of a thread: who asked is told
            self._commits.roll_back()
            errand.done.set_exception(error)

    def _purge_expired(self) -> None:
        try:
            self._commits.purge_expired()
        except sqlite3.Error as error:  # nobody asked; it is tried again, and readers hide them
            self._commits.roll_back()
            self._reporter.failed("commit", store_error(error))
