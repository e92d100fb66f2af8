"""Every failure that edgesync raises on purpose.

    EdgeSyncError
        ConfigurationError            a file, key or value that cannot be used
        ProtocolError                 the peer broke BLIP or WebSocket rules; the connection ends
        PeerSilentError               the peer does not answer; the connection ends
        DocumentError                 about one document; the session goes on
            InvalidDocIDError
            InvalidRevIDError
            InvalidBodyError
            InvalidDeltaError
            BodyTooLargeError
            ConflictError             a lost update was refused
            CheckpointConflictError
            NotFoundError             no such document or revision
        BlobError
            BlobNotFoundError
            BlobDigestError           the content does not have the digest that names it
        StoreError
            InvalidNameError          of a database, scope or collection
            CollectionNotFoundError
            StoreBusyError            locked or out of memory; trying again may help
            StoreFullError            no room on the card, or a read-only file system
            StoreDamagedError
            StoreInUseError           another process has the database open
            StoreVersionError         written by a newer edgesync
            StoreClosedError
        ListenerError
            PortInUseError
            UnknownInterfaceError
        DiscoveryError                mDNS does not work on this machine
        IdentityError                 a certificate or key that cannot be made, read or used
            IdentityNotFoundError     no identity has the label
            DuplicateLabelError       one has it already
            IdentityExpiredError
        KeyStoreError                 the key store cannot do what it was asked
            WrongUnlockKeyError       its files are sound, the key is another's
            KeyStoreDamagedError      a file is not as it was written
        ApiError                      a request of the local API was refused
            RequestError              it cannot be understood
            UnknownNameError          it names a database, listener, ... that is not there
            NameTakenError
            ServiceNotRunningError    there is no service to ask
            NotPermittedError         this user may not ask it
        UsageError                    the command was typed wrong
        NotWellError                  the doctor found a problem

Every message names the thing and the reason; `hint` says the way out. The
errors know no wire: each border has one table that maps them (`replication`
to BLIP codes, `net` to HTTP statuses and close codes, `cli` to exit codes).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date


class EdgeSyncError(Exception):
    """Base of all expected failures.

    Attributes:
        hint: What a person can do about it; empty if there is nothing to add.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(EdgeSyncError):
    """A configuration file, key or value that cannot be used."""


class ProtocolError(EdgeSyncError):
    """The peer broke the rules of BLIP or WebSocket; the connection must end."""


class PeerSilentError(EdgeSyncError):
    """The peer left a request of ours without an answer for too long."""


class DocumentError(EdgeSyncError):
    """A failure about one document; everything else goes on."""


class InvalidDocIDError(DocumentError):
    """A document ID that may not be stored. Spec: documents.md §7."""


class InvalidRevIDError(DocumentError):
    """A text that is no revision ID, or a history that does not descend."""


class InvalidBodyError(DocumentError):
    """A document body that is not a storable JSON object."""


class InvalidDeltaError(DocumentError):
    """A delta that is malformed or does not fit what it is applied to."""


class BodyTooLargeError(DocumentError):
    """A document body above `Limits.max_document_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the document has more than {limit_bytes} bytes",
            hint="keep large content in a blob, or raise max_document_bytes",
        )


class ConflictError(DocumentError):
    """The change does not descend from the current revision.

    Attributes:
        current_rev: The current revision ID, empty if there is no document.
    """

    def __init__(self, doc_id: str, current_rev: str) -> None:
        super().__init__(
            f'document "{doc_id}" has changed: its current revision is {current_rev or "absent"}',
            hint="read the document again and apply the change to what it says now",
        )
        self.current_rev = current_rev


class ClockBehindError(DocumentError):
    """A peer's version is from the future, by the clock of this machine."""

    def __init__(self, doc_id: str, ahead_s: float) -> None:
        super().__init__(
            f'a revision of document "{doc_id}" was made {ahead_s:.0f} s after the time here',
            hint="set the clock of this machine or of the client, whichever is wrong",
        )


class CheckpointConflictError(DocumentError):
    """A checkpoint was saved over another revision than the stored one."""


class NotFoundError(DocumentError):
    """There is no such document or revision."""


class BlobError(EdgeSyncError):
    """A failure about one blob."""


class BlobNotFoundError(BlobError):
    """The store has no blob of that digest."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"there is no blob {digest}")
        self.digest = digest


class BlobDigestError(BlobError):
    """The content does not have the digest or length that names it."""


class StoreError(EdgeSyncError):
    """The database cannot do what it was asked."""


class InvalidNameError(StoreError):
    """A name that no database, scope or collection may have. Spec: documents.md §7."""


class CollectionNotFoundError(StoreError):
    """The database has no such collection."""

    def __init__(self, collection: str) -> None:
        super().__init__(
            f'there is no collection "{collection}"',
            hint="create it with Database.create_collection",
        )


class StoreBusyError(StoreError):
    """The database is locked or short of a resource for the moment."""


class StoreFullError(StoreError):
    """The file system has no room or does not take writes."""


class StoreDamagedError(StoreError):
    """A file of the database is damaged."""


class StoreInUseError(StoreError):
    """Another process serves the database."""


class StoreVersionError(StoreError):
    """The database was written by a newer edgesync."""


class StoreClosedError(StoreError):
    """The database is closed."""


class ListenerError(EdgeSyncError):
    """A listener cannot start or was asked something impossible."""


class PortInUseError(ListenerError):
    """Another program listens on the port."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(
            f"port {port} on {address} is in use",
            hint="stop the other program or choose another port (0 picks a free one)",
        )


class UnknownInterfaceError(ListenerError):
    """There is no interface of that name, or no such local address."""

    def __init__(self, interface: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f'there is no network interface or local address "{interface}"',
            hint=f"this machine has: {', '.join(known) or 'none'}",
        )


class DiscoveryError(EdgeSyncError):
    """mDNS does not work on this machine."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"mDNS does not work: {reason}",
            hint="look for a program that keeps UDP port 5353 to itself: ss -lunp sport = 5353",
        )


class IdentityError(EdgeSyncError):
    """A TLS identity cannot be made, read or used."""


class IdentityNotFoundError(IdentityError):
    """The key store has no identity of that label."""

    def __init__(self, label: str) -> None:
        super().__init__(
            f'there is no identity "{label}"', hint="KeyStore.labels() lists those that there are"
        )
        self.label = label


class DuplicateLabelError(IdentityError):
    """The key store has an identity of that label already."""

    def __init__(self, label: str) -> None:
        super().__init__(
            f'there is an identity "{label}" already',
            hint="renew it, delete it first, or choose another label",
        )
        self.label = label


class IdentityExpiredError(IdentityError):
    """A certificate is past its last day and may not do what was asked of it."""

    def __init__(self, name: str, expired_on: date) -> None:
        super().__init__(
            f'the certificate of "{name}" expired on {expired_on.isoformat()}',
            hint="renew it with KeyStore.renew_identity; if it did not expire, set the clock",
        )


class KeyStoreError(EdgeSyncError):
    """The key store cannot do what it was asked."""


class WrongUnlockKeyError(KeyStoreError):
    """The key store was not locked with this key or passphrase; its files are sound."""


class KeyStoreDamagedError(KeyStoreError):
    """A file of the key store is not as it was written.

    Attributes:
        file: The file's name in the key store's folder.
    """

    def __init__(self, file: str, reason: str, *, hint: str = "") -> None:
        super().__init__(
            f'the file "{file}" of the key store is damaged: {reason}',
            hint=hint or "restore the file from a backup",
        )
        self.file = file


class ApiError(EdgeSyncError):
    """A request of the local API was refused."""


class RequestError(ApiError):
    """A request that the local API cannot understand."""


class UnknownNameError(ApiError):
    """There is no database, listener, connection, ... of that name."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = ()) -> None:
        names = ", ".join(sorted(known))
        super().__init__(
            f'there is no {kind} "{name}"',
            hint=f"there is: {names}" if names else f"there is no {kind} at all",
        )


class NameTakenError(ApiError):
    """There is one of that name already."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f'there is a {kind} "{name}" already', hint="choose another name")


class ServiceNotRunningError(ApiError):
    """No service answers on the local API's socket."""


class NotPermittedError(ApiError):
    """This user may not use the local API's socket, or the file."""


class UsageError(EdgeSyncError):
    """What was typed cannot be done like this."""


class NotWellError(EdgeSyncError):
    """The box has a problem."""
