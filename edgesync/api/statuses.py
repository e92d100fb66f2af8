"""Which status and word tells of which error: the API's one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import falcon

from edgesync import errors
from edgesync.api.answers import Refusal
from edgesync.errors import EdgeSyncError

STATUSES: Final[Mapping[type[EdgeSyncError], tuple[str, str]]] = {
    errors.ConflictError: (falcon.HTTP_409, "conflict"),
    errors.NotFoundError: (falcon.HTTP_404, "not_found"),
    errors.BodyTooLargeError: (falcon.HTTP_413, "too_large"),
    errors.DocumentError: (falcon.HTTP_400, "bad_request"),
    errors.BlobNotFoundError: (falcon.HTTP_404, "not_found"),
    errors.BlobError: (falcon.HTTP_400, "bad_request"),
    errors.CollectionNotFoundError: (falcon.HTTP_404, "not_found"),
    errors.InvalidNameError: (falcon.HTTP_400, "bad_request"),
    errors.StoreBusyError: (falcon.HTTP_503, "busy"),
    errors.StoreClosedError: (falcon.HTTP_503, "closed"),
    errors.StoreFullError: (falcon.HTTP_507, "full"),
    errors.StoreDamagedError: (falcon.HTTP_500, "damaged"),
    errors.StoreInUseError: (falcon.HTTP_409, "in_use"),
    errors.ListenerError: (falcon.HTTP_409, "listener"),
    errors.IdentityNotFoundError: (falcon.HTTP_404, "not_found"),
    errors.DuplicateLabelError: (falcon.HTTP_409, "exists"),
    errors.IdentityError: (falcon.HTTP_400, "bad_request"),
    errors.KeyStoreDamagedError: (falcon.HTTP_500, "damaged"),
    errors.KeyStoreError: (falcon.HTTP_409, "key_store"),
    errors.UnknownNameError: (falcon.HTTP_404, "not_found"),
    errors.NameTakenError: (falcon.HTTP_409, "exists"),
    errors.ApiError: (falcon.HTTP_400, "bad_request"),
}
"""The closest class counts; what is not here is 500."""


def refusal(error: EdgeSyncError) -> tuple[str, Refusal]:
    """Return the status and the content that tell of an error."""
    kind = next((each for each in type(error).__mro__ if each in STATUSES), None)
    status, word = STATUSES[kind] if kind is not None else (falcon.HTTP_500, "failed")
    return status, {"error": word, "reason": str(error), "hint": error.hint}
