"""A revision of a document: what it is called, and what it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Revision:
    """A tree ID with its ancestors, or a version with what went into it."""

    rev_id: str
    """The tree ID, or the current version."""
    older: tuple[str, ...] = ()
    """Ancestors, newest first; of a version the other peers' latest ones, then tree IDs of
    the time before versions."""
    merged: tuple[str, ...] = ()
    """Versions of which this one is the merge."""

    @property
    def chain(self) -> tuple[str, ...]:
        """All that it is known to contain, itself first."""
        return (self.rev_id, *self.merged, *self.older)

    @property
    def is_version(self) -> bool:
        """Whether it has a version; a database from before 4.0 has tree IDs left."""
        return "@" in self.rev_id


class RevisionForm(Protocol):
    """How a database names its revisions: `TreeRevisions` or `VectorRevisions`."""

    versioning: str
    """Its name in `subChanges`."""
    protocols: tuple[int, ...]
    """What a database of this form offers."""
    max_history: int
    """How long a history is kept."""

    def new(self, parent: Revision | None, deleted: bool, body: bytes) -> Revision:
        """Make a revision on top of another one."""

    def parse(self, rev: str, history: str) -> Revision:
        """Read the properties of a `rev`.

        Raises:
            ValueError: They name no revision.
        """

    def parse_offer(self, text: str) -> Revision:
        """Read what `changes` calls a revision.

        Raises:
            ValueError: It names none.
        """

    def proposal(self, revision: Revision) -> str:
        """Return what `proposeChanges` calls it."""

    def history(self, revision: Revision, known: str | None, max_history: int) -> str:
        """Write the property `history`; `known` is what the server has."""

    def listed(self, kept: tuple[str, ...], offer: Revision) -> list[str]:
        """Return which of the revisions kept are named in the answer to an offer."""

    def has(self, ours: Revision, theirs: Revision) -> bool:
        """Whether ours is theirs, or comes after it."""

    def replaces(self, theirs: Revision, ours: Revision) -> bool:
        """Whether theirs comes after ours."""

    def is_later(self, revision: Revision, known: str) -> bool:
        """Whether a server that has `revision` has something newer than `known`."""

    def trusts_server(self, ours: Revision) -> bool:
        """Whether ours, if not edited, gives way to anything of the server's."""

    def join(self, newer: Revision, older: Revision) -> Revision:
        """Return the newer one with what the older one knows of the past."""

    def wins(self, ours: Revision, theirs: Revision) -> bool:
        """Whether ours survives a conflict without a policy."""

    def keep_ours(self, ours: Revision, theirs: Revision, deleted: bool, body: bytes) -> Revision:
        """Settle a conflict for ours."""

    def keep_theirs(self, ours: Revision, theirs: Revision) -> Revision:
        """Settle a conflict for theirs."""

    def merge(self, ours: Revision, theirs: Revision, deleted: bool, body: bytes) -> Revision:
        """Settle a conflict with a body of both."""
