"""Offer a client what changed: history first, then live. Spec: replication.md §3.5, §4."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

import orjson

from edgesync.documents.store_calls import Change, ChangesPage, ReadChanges
from edgesync.errors import CollectionNotFoundError, EdgeSyncError
from edgesync.limits import Limits
from edgesync.replication.outgoing_revs import NONE_KNOWN, OutgoingRevs, WantedRev
from edgesync.replication.ports import Answer, PeerPort, Reply, StorePort
from edgesync.replication.profiles import PeerCollection, SubChanges, parse_changes_reply
from edgesync.replication.refusals import Refusal
from edgesync.replication.rev_forms import RevForm


class State(Enum):
    """Where a subscription stands."""

    CATCHING_UP = auto()  # history is being offered
    LIVE = auto()  # caught up, waiting for commits
    ENDED = auto()  # one-shot and caught up, or refused


STEPS: Final = {
    State.CATCHING_UP: {State.LIVE, State.ENDED},
    State.LIVE: {State.ENDED},
    State.ENDED: set[State](),
}


class ChangesFeed:
    """One subscription: one collection of one client.

    Reads a page of the feed whenever the client has room, and offers it. While
    an offered revision of a document is not settled, the feed stops before a
    newer one of the same document: reading on from there later finds the newest
    in its place, so a document that changes all the time is offered once a
    round, and nothing is offered out of the order of sequences. (A client that
    has settled a later sequence would never ask for an earlier one again.)

    Spec: replication.md §4.
    """

    def __init__(
        self,
        collection: PeerCollection,
        subscription: SubChanges,
        store: StorePort,
        peer: PeerPort,
        revs: OutgoingRevs,
        limits: Limits,
        form: RevForm,
        default_max_history: int,
    ) -> None:
        self._collection = collection
        self._subscription = subscription
        self._store = store
        self._peer = peer
        self._revs = revs
        self._limits = limits
        self._form = form
        self._default_max_history = default_max_history
        self._takes_deltas = False
        self._last_sequence = subscription.since
        self._state = State.CATCHING_UP
        self._is_reading = False
        self._has_news = True
        self._has_news_since_reading = False
        self._unanswered = 0
        self._unsettled: set[str] = set()
        self._blocked_by: str | None = None
        self._pushed: OrderedDict[str, str] = OrderedDict()

    @property
    def is_busy(self) -> bool:
        """Whether the client has not been told, or not taken, all there is."""
        return self._state is State.CATCHING_UP or bool(self._unsettled) or self._is_reading

    @property
    def is_ended(self) -> bool:
        """Whether nothing will be offered any more."""
        return self._state is State.ENDED

    def stop(self) -> None:
        """Offer nothing more; what is promised is still sent."""
        if self._state is not State.ENDED:
            self._go(State.ENDED)

    def start(self) -> None:
        """Begin to read; the reply to `subChanges` is on its way."""
        self.read_on()

    def committed(self, sequence: int) -> None:
        """Take notice of a commit up to a sequence."""
        if sequence > self._last_sequence:
            self._has_news = self._has_news_since_reading = True
            self.read_on()

    def note_pushed(self, doc_id: str, rev: str) -> None:
        """Remember a revision of this client, by tree ID or version, not to offer it back.

        While another revision of the document is on its way to the client, what it will
        have in the end is open, and the revision is better offered once too often.
        """
        if doc_id in self._unsettled:
            return
        self._pushed[doc_id] = rev
        self._pushed.move_to_end(doc_id)
        if len(self._pushed) > self._limits.max_echoes_remembered:
            self._pushed.popitem(last=False)

    def read_on(self) -> None:
        """Read the next page if there is one and the client has room."""
        if self._is_reading or not self._has_news or self._blocked_by or not self._has_room():
            return
        self._is_reading = True
        self._has_news_since_reading = False
        subscription = self._subscription
        call = ReadChanges(
            self._store.new_id(),
            self._collection.path,
            self._last_sequence,
            self._limits.changes_batch,
            subscription.active_only and self._state is State.CATCHING_UP,
            subscription.doc_ids,
        )
        self._store.ask(call, self._take_page)

    def _has_room(self) -> bool:
        window = self._limits.max_changes_unanswered if self._state is State.CATCHING_UP else 1
        return (
            self._state is not State.ENDED
            and self._unanswered < window
            and self._revs.queued < self._limits.max_revs_queued
        )

    def _take_page(self, page: Answer) -> None:
        self._is_reading = False
        if self._state is State.ENDED:
            return
        if isinstance(page, CollectionNotFoundError):
            self._go(State.ENDED)
            return
        if isinstance(page, EdgeSyncError):
            raise page
        assert isinstance(page, ChangesPage)
        offered = self._up_to_unsettled(page)
        if self._blocked_by is None:
            self._last_sequence = page.last_sequence
            self._has_news = not page.is_complete or self._has_news_since_reading
        changes = [change for change in offered if not self._is_echo(change)]
        if changes:
            self._offer(changes)
        if self._state is State.CATCHING_UP and page.is_complete and self._blocked_by is None:
            self._caught_up()
        self.read_on()

    def _is_echo(self, change: Change) -> bool:
        """Tell whether the client itself made this change on this connection."""
        pushed = self._pushed.get(change.doc_id)
        return pushed is not None and pushed in (change.rev_id, self._form.short(change))

    def _up_to_unsettled(self, page: ChangesPage) -> Sequence[Change]:
        """Return the changes before the first whose document has an older one under way."""
        for place, change in enumerate(page.changes):
            if change.doc_id in self._unsettled:
                self._blocked_by = change.doc_id
                self._last_sequence = change.sequence - 1
                return page.changes[:place]
        return page.changes

    def _offer(self, changes: Sequence[Change]) -> None:
        self._unanswered += 1
        for change in changes:
            self._unsettled.add(change.doc_id)
            # What it pushed may win again later, and then it no longer has it.
            self._pushed.pop(change.doc_id, None)
        self._peer.request(
            self._collection.properties("changes"),
            orjson.dumps([self._entry(change) for change in changes]),
            lambda reply: self._take_reply(changes, reply),
            compressed=True,
            urgent=True,
        )

    def _entry(self, change: Change) -> list[object]:
        rev = self._form.offer(change)
        return [change.sequence, change.doc_id, rev, change.deleted, change.body_bytes]

    def _caught_up(self) -> None:
        """Tell the client: a one-shot pull ends by it. Spec: replication.md §3.5."""
        self._peer.notify(self._collection.properties("changes"), b"[]", urgent=True)
        self._go(State.LIVE if self._subscription.continuous else State.ENDED)

    def _take_reply(self, changes: Sequence[Change], reply: Reply) -> None:
        self._unanswered -= 1
        parsed = reply.refusal or parse_changes_reply(
            reply.properties, reply.body, self._default_max_history
        )
        if isinstance(parsed, Refusal):
            self.stop()
            self._unsettled.difference_update(change.doc_id for change in changes)
            return
        self._takes_deltas = self._takes_deltas or parsed.takes_deltas
        wanted, settled = parsed.wanted, self._settled
        for place, change in enumerate(changes):
            known = wanted[place] if place < len(wanted) else None
            if known is None:
                settled(change.doc_id)
                continue
            self._revs.send(
                WantedRev(
                    self._collection,
                    change,
                    frozenset(known) if known else NONE_KNOWN,
                    parsed.max_history,
                    self._takes_deltas,
                    self._subscription.takes_replacements,
                    settled,
                )
            )
        self.read_on()

    def _settled(self, doc_id: str) -> None:
        """Note that the client has, or does not want, what was offered of a document."""
        self._unsettled.discard(doc_id)
        if self._blocked_by == doc_id:
            self._blocked_by = None

    def _go(self, state: State) -> None:
        if state not in STEPS[self._state]:
            raise RuntimeError(f"a feed cannot go from {self._state} to {state}")
        self._state = state
