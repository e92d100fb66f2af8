"""A checkpoint and its copy on the server, for one collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.active_peer.exchange import Exchange, Reply
from tests.active_peer.failures import Refusal
from tests.active_peer.options import CollectionLink
from tests.active_peer.progress import Checkpoint

SAVE_EVERY_S: Final = 5.0


class CheckpointSaver:
    """Read the server's copy once, then save both, the server's first.

    Spec: replication.md §3.2, §3.3, §7.
    """

    def __init__(
        self,
        link: CollectionLink,
        checkpoint_id: str,
        stored: dict[str, Checkpoint],
        exchange: Exchange,
        time_s: int,
        fail: Callable[[Refusal], None],
    ) -> None:
        """Make one.

        Args:
            link: Of which collection.
            checkpoint_id: Its name on the server.
            stored: All checkpoints of this database with this server, by name.
            exchange: The connection.
            time_s: Seconds since 1970, for the server's copy.
            fail: Called with what ends the session.
        """
        self._link = link
        self.checkpoint_id = checkpoint_id
        self._stored = stored
        self._exchange = exchange
        self._time_s = time_s
        self._fail = fail
        self._rev = ""
        self._saved: Checkpoint | None = None
        self.is_saving = False
        self.saved_at = 0.0
        self.saves = 0  # that were begun
        self.refusal: Refusal | None = None  # why the last one was not saved

    @property
    def local(self) -> Checkpoint | None:
        """What this side has kept of earlier runs."""
        return self._stored.get(self.checkpoint_id)

    def read(self, then: Callable[[Checkpoint], None]) -> None:
        """Ask for the server's copy; `then` gets what both sides agree on."""
        self._get(lambda reply: then(self.agree(reply.properties.get("rev", ""), reply.body)))

    def _get(self, then: Callable[[Reply], None]) -> None:
        properties = self._link.properties("getCheckpoint")
        properties["client"] = self.checkpoint_id

        def got(reply: Reply) -> None:
            if reply.refusal is None or reply.refusal[:2] == ("HTTP", 404):
                then(reply if reply.refusal is None else Reply({}, b"", None))
            else:
                self._fail(reply.refusal)

        self._exchange.request(properties, b"", got)

    def agree(self, rev: str, body: bytes) -> Checkpoint:
        """Take the server's copy; return where to start from."""
        self._rev = rev
        local = self.local
        if local is None or not body:
            return Checkpoint()
        server = Checkpoint.decode(body)
        agreed = local.agree(server)
        if agreed == server:
            self._saved = agreed
        return agreed

    def needs_saving(self, checkpoint: Checkpoint) -> bool:
        """Whether the server does not have this."""
        return checkpoint not in (self._saved, Checkpoint())

    def save(self, checkpoint: Checkpoint, now: float) -> None:
        """Save it on the server, then here."""
        self.is_saving = True
        self.saves += 1
        self.saved_at = now
        properties = self._link.properties("setCheckpoint")
        properties["client"] = self.checkpoint_id
        properties["rev"] = self._rev
        self._exchange.request(
            properties,
            checkpoint.encode(self._time_s),
            lambda reply: self._did_save(checkpoint, reply),
        )

    def _did_save(self, checkpoint: Checkpoint, reply: Reply) -> None:
        if reply.refusal is None:
            self._rev = reply.properties.get("rev", "")
            self._saved = checkpoint
            self._stored[self.checkpoint_id] = checkpoint
            self.is_saving = False
            self.refusal = None
        elif reply.refusal[:2] == ("HTTP", 409):
            self._get(lambda found: self._save_again(checkpoint, found))
        elif reply.refusal.is_transient:
            self.is_saving = False
            self._fail(reply.refusal)
        else:  # goes on, and saves the next one. Spec: replication.md §3.3.
            self.is_saving = False
            self.refusal = reply.refusal
            self._saved = checkpoint

    def _save_again(self, checkpoint: Checkpoint, found: Reply) -> None:
        """Save over what another connection of ours has saved. Spec: replication.md §3.3."""
        self._rev = found.properties.get("rev", "")
        self.save(checkpoint, self.saved_at)
