"""What we answer when we do not do what was asked.

The one table from our errors to error replies, and the texts that clients
know. Spec: blip.md §6; replication.md §1.1, §3.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from edgesync import errors


class Refusal(NamedTuple):
    """An error reply. Spec: blip.md §6."""

    domain: str  # "HTTP", "BLIP", "LiteCore", ...
    code: int
    text: str


UNKNOWN_PROFILE: Final = Refusal("BLIP", 404, "no handler for message")
NO_LEGACY_CLIENTS: Final = Refusal(
    "BLIP", 400, "This server is not configured for 3.0 client support"
)
COLLECTION_MISUSED: Final = Refusal("HTTP", 400, "inappropriate use of the collection property.")
COLLECTION_OUT_OF_RANGE: Final = Refusal("HTTP", 400, "the collection property is out of range.")
COLLECTION_GONE: Final = Refusal("HTTP", 404, "the collection does not exist any more")
READ_ONLY: Final = Refusal("HTTP", 403, "Attempting to push to a pull-only replicator")
NOT_JSON: Final = Refusal("BLIP", 400, "Invalid JSON body")
TOO_MANY_ENTRIES: Final = Refusal("BLIP", 400, "too many entries")
MUST_PROPOSE: Final = Refusal("BLIP", 409, "use proposeChanges")
MISSING_CHECKPOINT_ID: Final = Refusal("BLIP", 400, "missing checkpoint ID")
BAD_CHECKPOINT: Final = Refusal("BLIP", 400, "checkpoint ID or body too long")
NO_CHECKPOINT: Final = Refusal("HTTP", 404, "no such checkpoint")
CHECKPOINT_CONFLICT: Final = Refusal("HTTP", 409, "revision ID mismatch")
CHECKPOINT_NOT_SAVED: Final = Refusal("HTTP", 500, "the checkpoint could not be saved")
STORE_UNAVAILABLE: Final = Refusal("HTTP", 503, "the store is not available")
NO_FILTERS: Final = Refusal("LiteCore", 19, "Filtering not supported")
WRONG_VERSIONING: Final = Refusal("LiteCore", 501, "Incompatible document versioning.")
ALREADY_SUBSCRIBED: Final = Refusal("BLIP", 400, "the collection has a subscription already")
BAD_REVISION: Final = Refusal("HTTP", 400, "received invalid version ID")
BODY_TOO_LARGE: Final = Refusal("HTTP", 413, "the document is too large")
NO_DELTAS: Final = Refusal("HTTP", 422, "this listener takes no deltas")
NO_BASE: Final = Refusal("HTTP", 422, "unknown delta base")
BAD_DELTA: Final = Refusal("HTTP", 422, "the delta does not apply")
UNPROVEN_BLOB: Final = Refusal("HTTP", 403, "the blob was not proven to be the client's")
BAD_DIGEST: Final = Refusal("HTTP", 400, "Missing or invalid 'digest'")
NO_DOCUMENT: Final = Refusal("HTTP", 404, "no such document")
NOT_MODIFIED: Final = Refusal("HTTP", 304, "the document has not changed")
NO_BLOB: Final = Refusal("HTTP", 404, "No such blob")

_BY_ERROR: Final[tuple[tuple[type[errors.EdgeSyncError], int], ...]] = (
    (errors.ConflictError, 409),
    (errors.ClockBehindError, 503),
    (errors.BodyTooLargeError, 413),
    (errors.NotFoundError, 404),
    (errors.DocumentError, 400),
    (errors.BlobNotFoundError, 503),
    (errors.BlobDigestError, 500),
    (errors.CollectionNotFoundError, 404),
    (errors.StoreDamagedError, 500),
    (errors.StoreError, 503),
)


def refusal_for(error: errors.EdgeSyncError) -> Refusal:
    """Return the error reply to a request about one document. Spec: replication.md §3.7.1."""
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return Refusal("HTTP", code, str(error))
    return Refusal("HTTP", 500, str(error))
