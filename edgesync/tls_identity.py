"""The identities that a listener shows to its clients, and where they are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import gevent
from gevent import get_hub
from gevent.event import Event
from gevent.monkey import get_original

from edgesync.errors import (
    DuplicateLabelError,
    EdgeSyncError,
    IdentityError,
    IdentityNotFoundError,
    KeyStoreDamagedError,
)
from edgesync.identity.attributes import Attributes
from edgesync.identity.certificate import (
    Certificate,
    Identity,
    KeyType,
    KeyUsages,
    PrivateKey,
    fingerprint,
    is_issued_by,
    is_self_signed,
    make_identity,
    renew,
)
from edgesync.identity.key_files import read_identity, read_pem, to_pem, to_pkcs12
from edgesync.identity.keystore import KeyFolder, check_user
from edgesync.identity.verifiers import Verifiers
from edgesync.limits import Limits
from edgesync.net.tls import ClientRefusal, ServerTLS

_log = logging.getLogger(__name__)

ANONYMOUS_LABEL: Final = "edgesync.anonymous"
_ANONYMOUS_ATTRIBUTES: Final = {"CN": "edgesync anonymous"}
_ANONYMOUS_RENEWAL: Final = timedelta(days=1)
_LOOK_AGAIN_S: Final = 600.0

_P = ParamSpec("_P")
_T = TypeVar("_T")
# The thread's, also in a program in which gevent has patched the name.
_thread_id: Callable[[], int] = get_original("threading", "get_ident")


@dataclass(frozen=True, slots=True)
class TLSIdentity:
    """A private key and the chain of certificates that vouch for it.

    Spec: tls-and-auth.md §4.2, §4.5.
    """

    label: str | None
    """The name it is stored under; None for one that is not stored."""
    certs: tuple[Certificate, ...]
    """The chain, leaf first."""
    private_key: PrivateKey = field(repr=False, compare=False)
    """The leaf's key; two identities with the same certificates have the same."""

    @property
    def expiration(self) -> datetime:
        """The end of the leaf's validity, in UTC."""
        return self.certs[0].not_valid_after_utc

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the leaf, by which people and clients know it."""
        return fingerprint(self.certs[0])

    def chain_pem(self) -> bytes:
        """Return the certificates as PEM, leaf first, to give to clients."""
        return to_pem(self.certs)

    def server_tls(self, client_refusal: ClientRefusal | None = None) -> ServerTLS:
        """Make what encrypts a listener's connections.

        Args:
            client_refusal: Decides about the certificates of clients, who then need one.

        Raises:
            IdentityError: OpenSSL does not take the key or the chain.
        """
        return ServerTLS(self.certs, self.private_key, client_refusal)

    @classmethod
    def from_pem(cls, key_pem: bytes, chain_pem: bytes) -> TLSIdentity:
        """Make an identity that is not stored from an unencrypted key and its chain.

        Raises:
            IdentityError: Something cannot be read, or no certificate is the key's.
        """
        return _labelled(None, read_pem(key_pem, chain_pem))

    @classmethod
    def anonymous(cls) -> TLSIdentity:
        """Make a self-signed identity that lives as long as the process.

        Waits for the key in a thread, so that only the caller waits.

        Spec: tls-and-auth.md §4.2.
        """
        return _labelled(None, get_hub().threadpool.apply(_make_anonymous))


class KeyStore:
    """The secure storage: identities and the passwords of users, sealed in a folder.

    Calls that touch the disk or compute wait in a thread of gevent's pool, so
    that only the calling greenlet waits; in another thread than the one that
    opened the store, such as that of a password callback, they run right there.
    Each change is on the disk, whole, when its call returns.

    Who holds the folder and its unlock key holds everything. Who holds the
    folder alone learns labels, sizes and times. Whether a file was put back to
    an older state of itself, or removed, cannot be told.

    All methods raise `KeyStoreError` if the disk cannot be read or written, and
    `KeyStoreDamagedError` if a file that they need is not as it was written;
    what is in other files can still be used.

    Spec: tls-and-auth.md §4.2, §4.5.
    """

    def __init__(self, folder: KeyFolder, verifiers: Verifiers, limits: Limits) -> None:
        self._folder = folder
        self._verifiers = verifiers
        self._limits = limits
        self._thread = _thread_id()
        self._listeners: list[Callable[[str], None]] = []

    @classmethod
    def open(
        cls, folder: str | Path, *, unlock: bytes | str, limits: Limits | None = None
    ) -> KeyStore:
        """Open the key store of a folder; make it if there is none.

        Args:
            folder: With mode 0700, which it is made with.
            unlock: A key of 32 random bytes, or a passphrase of at least 8
                characters, which takes up to some seconds on a small board.
            limits: On what is imported.

        Raises:
            WrongUnlockKeyError: The store was locked with another key.
            KeyStoreDamagedError: The file that keeps its data key is damaged.
            KeyStoreError: The folder or the unlock key cannot be used.
        """
        opened = _apart(KeyFolder.open, Path(folder), unlock)
        return cls(opened, Verifiers(), limits or Limits())

    def change_unlock(self, new: bytes | str) -> None:
        """Let another key or passphrase open the store from now on.

        The old one opens copies that were made before.
        """
        self._wait_for(self._folder.change_unlock, new)

    # --- identities --------------------------------------------------------------

    def labels(self) -> tuple[str, ...]:
        """Return the labels of all identities, sorted."""
        return self._wait_for(self._folder.labels)

    def identity(self, label: str) -> TLSIdentity | None:
        """Return the identity of that label; None if there is none."""
        found = self._wait_for(self._folder.identity, label)
        return None if found is None else _labelled(label, found)

    def create_identity(
        self,
        label: str,
        attributes: Attributes,
        *,
        usages: KeyUsages = KeyUsages.SERVER_AUTH,
        expiration: datetime | None = None,
        issuer: TLSIdentity | None = None,
        key_type: KeyType = KeyType.RSA_2048,
    ) -> TLSIdentity:
        """Make a key and a certificate, and keep them.

        Args:
            label: 1 to 80 bytes of printable characters.
            attributes: Whose it is: `CN` at least, and others of the table in
                tls-and-auth.md §4.4; give `dNSName` or `iPAddress` to clients
                that verify names. Of these and other alternative names a
                certificate may have several: their values may be lists.
            usages: What it is for.
            expiration: With a time zone; by default after a year, or with the
                issuer if that ends earlier.
            issuer: A certificate authority, which signs it; without one it
                signs itself.
            key_type: RSA unless all clients are known to take P-256.

        Raises:
            DuplicateLabelError: The label is taken.
            IdentityError: The label, an attribute or the expiration cannot be,
                or the issuer may not issue it.
            IdentityExpiredError: The issuer has expired.
        """
        _check_not_reserved(label)
        return self._create(label, attributes, usages, expiration, issuer, key_type)

    def import_identity(self, label: str, data: bytes, password: str | None = None) -> TLSIdentity:
        """Keep an identity that was made elsewhere.

        Args:
            label: As for `create_identity`.
            data: PKCS#12, or PEM with the private key and its chain.
            password: What it is encrypted with.

        Raises:
            DuplicateLabelError: The label is taken.
            IdentityError: The label cannot be, the data or the password is
                wrong, or clients do not take such a key.
        """
        _check_not_reserved(label)
        self._wait_for(self._folder.check_new, label)
        identity = self._wait_for(read_identity, data, password, self._limits)
        self._wait_for(self._folder.add, label, identity)
        self._tell(label)
        return _labelled(label, identity)

    def renew_identity(self, label: str, *, expiration: datetime | None = None) -> TLSIdentity:
        """Make a new certificate for the same key, owner and usages.

        One that did not sign itself needs its issuer in the store.

        Args:
            label: The identity's.
            expiration: As for `create_identity`.

        Raises:
            IdentityNotFoundError: There is none of that label.
            IdentityError: Its issuer is needed, or does not allow it.
            IdentityExpiredError: Its issuer has expired.
        """
        renewed = self._wait_for(_renew, self._folder, label, expiration)
        self._tell(label)
        return _labelled(label, renewed)

    def export_identity(self, label: str, password: str) -> bytes:
        """Return an identity as PKCS#12, encrypted with AES-256.

        Raises:
            IdentityNotFoundError: There is none of that label.
            IdentityError: The password is empty.
        """
        identity = self._wait_for(self._folder.identity, label)
        if identity is None:
            raise IdentityNotFoundError(label)
        return self._wait_for(to_pkcs12, label, identity, password)

    def delete_identity(self, label: str) -> None:
        """Remove an identity, damaged or not; harmless if there is none."""
        if self._wait_for(self._folder.delete, label):
            self._tell(label)

    def anonymous_identity(self) -> TLSIdentity:
        """Return the identity of listeners without one: kept, and renewed on its last day.

        Raises:
            KeyStoreDamagedError: Its file is damaged; deleting it helps, and
                clients that have pinned it will notice.

        Spec: tls-and-auth.md §4.2.
        """
        found = self.identity(ANONYMOUS_LABEL)
        if found is None:
            with suppress(DuplicateLabelError):  # another listener was faster
                return self._create(
                    ANONYMOUS_LABEL,
                    _ANONYMOUS_ATTRIBUTES,
                    KeyUsages.SERVER_AUTH,
                    None,
                    None,
                    KeyType.RSA_2048,
                )
            return self.anonymous_identity()
        if _is_about_to_expire(found):
            return self.renew_identity(ANONYMOUS_LABEL)
        return found

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Have the label of each identity that was made, renewed or deleted told.

        The callback runs where the change was asked for, after it; it must
        neither raise nor wait.

        Returns:
            What ends this.
        """
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    # --- users ---------------------------------------------------------------------

    def users(self) -> tuple[str, ...]:
        """Return the names of all users, sorted."""
        return tuple(sorted(self._wait_for(self._folder.verifiers)))

    def set_password(self, user: str, password: str) -> None:
        """Add a user, or change the password of one.

        Raises:
            KeyStoreError: The name or the password is one that no client can send.
        """
        check_user(user, password)
        self._wait_for(self._set_password, user, password)

    def check_password(self, user: str, password: str) -> bool:
        """Return whether there is such a user with this password.

        Takes as long for a user who does not exist. As the callback of a
        `ListenerPasswordAuthenticator` it lets in the users of this store.
        """
        return self._wait_for(self._check_password, user, password)

    def remove_user(self, user: str) -> None:
        """Remove a user; harmless if there is none."""
        self._wait_for(self._folder.remove_user, user)

    # --- inside --------------------------------------------------------------------

    def _create(
        self,
        label: str,
        attributes: Attributes,
        usages: KeyUsages,
        expiration: datetime | None,
        issuer: TLSIdentity | None,
        key_type: KeyType,
    ) -> TLSIdentity:
        def create() -> Identity:
            self._folder.check_new(label)
            identity = make_identity(
                attributes,
                usages=usages,
                now=datetime.now(UTC),
                expires=expiration,
                key_type=key_type,
                issuer=None if issuer is None else Identity(issuer.certs, issuer.private_key),
            )
            self._folder.add(label, identity)
            return identity

        identity = self._wait_for(create)
        self._tell(label)
        return _labelled(label, identity)

    def _set_password(self, user: str, password: str) -> None:
        self._folder.set_verifier(user, self._verifiers.make(password))

    def _check_password(self, user: str, password: str) -> bool:
        return self._verifiers.matches(self._folder.verifiers().get(user), password)

    def _tell(self, label: str) -> None:
        for callback in tuple(self._listeners):
            callback(label)

    def _wait_for(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if _thread_id() != self._thread:
            return function(*args, **kwargs)
        return _apart(function, *args, **kwargs)


class ServedIdentity:
    """The identity that a listener shows, and what becomes of it while it is shown.

    One with a label is what the key store has under it now. The anonymous one
    is the key store's, or lives as long as this object; its last day is looked
    for every ten minutes, as a small box may get the right time long after its start.
    """

    def __init__(
        self,
        wanted: TLSIdentity | None,
        key_store: KeyStore | None,
        changed: Callable[[TLSIdentity], None],
    ) -> None:
        """Store what is given; `changed` gets each later identity, and must not wait."""
        self._wanted = wanted
        self._key_store = key_store
        self._changed = changed
        self._current: TLSIdentity | None = None
        self._forget: Callable[[], None] | None = None
        self._greenlet: gevent.Greenlet[[Event], None] | None = None

    def find(self) -> TLSIdentity:
        """Return the identity to show now, or raise what the key store does; waits."""
        self._current = self._find()
        return self._current

    def follow(self) -> None:
        """Tell of other identities from now on."""
        wake, hub = Event(), get_hub()

        def note(label: str) -> None:
            if self._current is not None and label == self._current.label:
                hub.loop.run_callback_threadsafe(wake.set)  # the store may be used in any thread

        if self._key_store is not None:
            self._forget = self._key_store.on_change(note)
        self._greenlet = gevent.spawn(self._run, wake)

    def leave(self) -> None:
        """End that."""
        if self._forget is not None:
            self._forget()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._forget, self._greenlet = None, None

    def _run(self, wake: Event) -> None:
        while True:
            wake.wait(_LOOK_AGAIN_S)
            wake.clear()
            try:
                found = self._find()
                if found != self._current:
                    self._current = found
                    self._changed(found)
            except EdgeSyncError as error:
                _log.error("the TLS identity could not be looked at: %s; %s", error, error.hint)

    def _find(self) -> TLSIdentity:
        label = ANONYMOUS_LABEL if self._wanted is None else self._wanted.label
        if self._key_store is not None and label == ANONYMOUS_LABEL:
            return self._key_store.anonymous_identity()
        if self._wanted is not None:
            if self._key_store is None or label is None:
                return self._wanted
            # What was deleted is shown until another one is there.
            return self._key_store.identity(label) or self._current or self._wanted
        if self._current is None or _is_about_to_expire(self._current):
            return TLSIdentity.anonymous()
        return self._current


def _is_about_to_expire(identity: TLSIdentity) -> bool:
    return identity.expiration - datetime.now(UTC) < _ANONYMOUS_RENEWAL


def _apart(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a function in a thread of the hub's pool, which would print what is raised there."""

    def run() -> _T | EdgeSyncError:
        try:
            return function(*args, **kwargs)
        except EdgeSyncError as error:
            return error

    outcome = get_hub().threadpool.apply(run)
    if isinstance(outcome, EdgeSyncError):
        raise outcome
    return outcome


def _labelled(label: str | None, identity: Identity) -> TLSIdentity:
    return TLSIdentity(label, identity.certs, identity.private_key)


def _check_not_reserved(label: str) -> None:
    if label == ANONYMOUS_LABEL:
        raise IdentityError(f'the label "{label}" is kept for the anonymous identity')


def _make_anonymous() -> Identity:
    return make_identity(_ANONYMOUS_ATTRIBUTES, usages=KeyUsages.SERVER_AUTH, now=datetime.now(UTC))


def _renew(folder: KeyFolder, label: str, expiration: datetime | None) -> Identity:
    old = folder.identity(label)
    if old is None:
        raise IdentityNotFoundError(label)
    issuer = None if is_self_signed(old.certs[0]) else _issuer_of(folder, old.certs[0])
    renewed = renew(old, now=datetime.now(UTC), expires=expiration, issuer=issuer)
    folder.replace(label, renewed)
    return renewed


def _issuer_of(folder: KeyFolder, certificate: Certificate) -> Identity | None:
    for label in folder.labels():
        with suppress(KeyStoreDamagedError):  # then it is not this one that issues
            other = folder.identity(label)
            if other is not None and is_issued_by(certificate, other.certs[0]):
                return other
    return None
