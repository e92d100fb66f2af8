"""Keep the clients' checkpoints for them. Spec: replication.md §3.1 to §3.3, §7."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from edgesync.blip.message import IncomingMessage
from edgesync.documents.store_calls import Checkpoint, GetCheckpoint, SetCheckpoint
from edgesync.errors import CheckpointConflictError, EdgeSyncError, StoreFullError
from edgesync.limits import Limits
from edgesync.replication import refusals
from edgesync.replication.ports import Answer, PeerPort, StorePort
from edgesync.replication.profiles import GetCollections, Request, valid_checkpoint_id


class Checkpoints:
    """Answer `getCheckpoint`, `setCheckpoint` and the checkpoints of `getCollections`.

    A store that cannot answer is 503: anything else leaves clients hanging.
    """

    def __init__(self, store: StorePort, peer: PeerPort, limits: Limits) -> None:
        self._store = store
        self._peer = peer
        self._limits = limits

    def get_checkpoint(self, request: Request) -> None:
        """Take a `getCheckpoint`. Spec: replication.md §3.2."""
        message = request.message
        checkpoint_id = message.properties.get("client", "")
        if not checkpoint_id:
            self._peer.refuse(message, refusals.MISSING_CHECKPOINT_ID)
        elif not valid_checkpoint_id(checkpoint_id, self._limits):
            self._peer.refuse(message, refusals.BAD_CHECKPOINT)
        else:
            call = GetCheckpoint(self._store.new_id(), checkpoint_id)
            self._store.ask(call, lambda found: self._got(message, found))

    def _got(self, message: IncomingMessage, found: Answer) -> None:
        if isinstance(found, Checkpoint):
            self._peer.reply(message, {"rev": found.rev}, found.body)
        elif found is None:
            self._peer.refuse(message, refusals.NO_CHECKPOINT)
        else:
            self._peer.refuse(message, refusals.STORE_UNAVAILABLE)

    def set_checkpoint(self, request: Request) -> None:
        """Take a `setCheckpoint`. Spec: replication.md §3.3."""
        message, body = request.message, request.body
        checkpoint_id = message.properties.get("client", "")
        if not checkpoint_id:
            self._peer.refuse(message, refusals.MISSING_CHECKPOINT_ID)
            return
        fits = len(body) <= self._limits.max_checkpoint_bytes
        if not fits or not valid_checkpoint_id(checkpoint_id, self._limits):
            self._peer.refuse(message, refusals.BAD_CHECKPOINT)
            return
        rev = message.properties.get("rev", "")
        call = SetCheckpoint(self._store.new_id(), checkpoint_id, rev, body)
        self._store.ask(call, lambda saved: self._saved(message, saved))

    def _saved(self, message: IncomingMessage, saved: Answer) -> None:
        if isinstance(saved, str):
            self._peer.reply(message, {"rev": saved})
        elif isinstance(saved, CheckpointConflictError):
            self._peer.refuse(message, refusals.CHECKPOINT_CONFLICT)
        elif isinstance(saved, StoreFullError):
            # After 503 clients close: none could pull from a full card. Spec: replication.md §3.3.
            self._peer.refuse(message, refusals.CHECKPOINT_NOT_SAVED)
        else:
            self._peer.refuse(message, refusals.STORE_UNAVAILABLE)

    def get_collections(
        self, message: IncomingMessage, wanted: GetCollections, offered: Callable[[str], bool]
    ) -> None:
        """Answer a `getCollections` with the checkpoint of each offered collection.

        Spec: replication.md §3.1.
        """
        _CollectionsReply(self._store, self._peer, message, wanted, offered)


class _CollectionsReply:
    """Gather the checkpoints of one `getCollections`; answer when the last is there."""

    def __init__(
        self,
        store: StorePort,
        peer: PeerPort,
        message: IncomingMessage,
        wanted: GetCollections,
        offered: Callable[[str], bool],
    ) -> None:
        self._peer = peer
        self._message = message
        self._entries: list[object] = [{} if offered(path) else None for path in wanted.paths]
        self._error: EdgeSyncError | None = None
        offers = [place for place, entry in enumerate(self._entries) if entry is not None]
        self._missing = len(offers)
        for place in offers:
            call = GetCheckpoint(store.new_id(), wanted.checkpoint_ids[place])
            store.ask(call, lambda found, place=place: self._got(place, found))  # type: ignore[misc]
        if not offers:
            self._send()

    def _got(self, place: int, found: Answer) -> None:
        if isinstance(found, Checkpoint):
            self._entries[place] = _with_rev(found)
        elif isinstance(found, EdgeSyncError):
            self._error = found
        self._missing -= 1
        if not self._missing:
            self._send()

    def _send(self) -> None:
        if self._error is not None:
            self._peer.refuse(self._message, refusals.STORE_UNAVAILABLE)
        else:
            self._peer.reply(self._message, {}, orjson.dumps(self._entries))


def _with_rev(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the stored object with its revision; a body that is none counts as empty."""
    try:
        body = orjson.loads(checkpoint.body)
    except orjson.JSONDecodeError:
        body = {}
    return {**(body if isinstance(body, dict) else {}), "rev": checkpoint.rev}
