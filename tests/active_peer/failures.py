"""How a synchronisation can fail."""

from __future__ import annotations

from typing import Final, NamedTuple

TRANSIENT_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""After these a client tries again later. Spec: replication.md §3.7.1."""


class Refusal(NamedTuple):
    """An error reply of the server. Spec: blip.md §6."""

    domain: str
    code: int
    text: str

    @property
    def is_transient(self) -> bool:
        """Whether the client would try again later."""
        return self.domain == "HTTP" and self.code in TRANSIENT_STATUSES


class DocumentFailure(NamedTuple):
    """A document that could not be pushed or pulled."""

    collection: str
    doc_id: str
    refusal: Refusal


class SyncError(Exception):
    """A synchronisation ended early.

    Attributes:
        refusal: The server's error reply, if that was the reason.
        http_status: The server's answer to the upgrade, if it was not 101.
        close_code: The server's CLOSE, 1006 if the connection broke without one.
        is_transient: Whether a real client would come back. Spec: blip.md §1.5.
    """

    def __init__(
        self,
        message: str,
        *,
        refusal: Refusal | None = None,
        http_status: int | None = None,
        close_code: int | None = None,
        is_transient: bool = False,
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.http_status = http_status
        self.close_code = close_code
        self.is_transient = is_transient
