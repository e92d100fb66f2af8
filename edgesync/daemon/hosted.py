"""What the service runs: databases and listeners, made as the configuration says."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import gevent
from gevent.lock import RLock

from edgesync import Database, TLSIdentity, URLEndpointListener
from edgesync.daemon import construction
from edgesync.daemon.config import DatabaseConfig, ListenerConfig, ServiceConfig
from edgesync.daemon.construction import Security
from edgesync.daemon.plan import Plan, Running, plan_for
from edgesync.daemon.unlocking import ServiceKeys
from edgesync.errors import (
    EdgeSyncError,
    IdentityError,
    IdentityNotFoundError,
    KeyStoreError,
    ListenerError,
    StoreDamagedError,
    StoreError,
    StoreVersionError,
    UnknownNameError,
)

log: Final = logging.getLogger(__name__)

STOP_TIMEOUT_S: Final = 9.0  # clients may take 5 s to answer a CLOSE; the promise is 10 s
DATABASE_SUFFIX: Final = ".edgesync"
REPLACED_SUFFIX: Final = ".replaced"


class Service:
    """The databases and listeners of a configuration.

    A database that is damaged does not keep the others from being served: it and
    its listeners are told of, with the reason, until a backup is put back.

    Attributes:
        databases: Those that are open, by name.
        closed_databases: Why others are not.
        listeners: Those that could be made, by name.
        idle_listeners: Why others, or those, do not serve.
        on_change: Called when listeners were started, made anew or removed.
        config_problems: What of the configuration file is not in effect, and why.
    """

    def __init__(self, config: ServiceConfig, folder: Path, keys: ServiceKeys) -> None:
        """Use `Service.build`."""
        self._config = config
        self._at_start = config
        self._keys = keys
        self._making = RLock()
        self._folder = folder
        self.databases: dict[str, Database] = {}
        self.closed_databases: dict[str, str] = {}
        self.listeners: dict[str, URLEndpointListener] = {}
        self.idle_listeners: dict[str, str] = {}
        self.config_problems: tuple[str, ...] = ()
        self._identities: dict[str, TLSIdentity] = {}
        self._roots: dict[str, tuple[bytes, ...]] = {}
        self._incomplete: set[str] = set()  # databases that lack a configured collection
        self.on_change: list[Callable[[], None]] = []

    @classmethod
    def build(cls, config: ServiceConfig, folder: Path, keys: ServiceKeys) -> Service:
        """Open the databases and make the listeners.

        Those databases are opened, too, that are in the folder without being
        configured, as they were made by command.

        Raises:
            ConfigurationError: The configuration asks for what cannot be.
            StoreError: A database cannot be opened, and is not damaged.
        """
        service = cls(config, folder, keys)
        _finish_replacements(folder)
        with ExitStack() as undo:
            undo.callback(service._close_databases)
            for wanted in (*config.databases, *_others(config, folder)):
                service._open(wanted)
            for listener in config.listeners:
                service._make(listener)
            undo.pop_all()
        service._watch_keys()
        return service

    def start(self) -> None:
        """Start all listeners.

        Raises:
            ListenerError: One cannot start.
        """
        for name, listener in self.listeners.items():
            try:
                listener.start(wait=True)
            except (KeyStoreError, IdentityError) as error:
                self._note_idle(name, error)

    def stop(self) -> None:
        """Close all connections, then the databases.

        Clients are told to come back: the box restarts, or is updated, and a phone
        that syncs all the time would not try again after a 1001. Spec: blip.md §1.5.

        Raises:
            EdgeSyncError: It takes longer than the promised time.
        """
        # All listeners at once: each waits for its clients.
        late = EdgeSyncError("the service did not stop in time", hint="see the log")
        with gevent.Timeout(STOP_TIMEOUT_S, late):
            gevent.joinall(
                [gevent.spawn(each.stop, for_good=False) for each in self.listeners.values()]
            )
            self._close_databases()

    def summary(self) -> str:
        """Return the state of the service in a line."""
        statuses = [listener.status for listener in self.listeners.values()]
        clients = sum(status.connection_count for status in statuses)
        active = sum(status.active_connection_count for status in statuses)
        summary = f"listeners: {len(statuses)}, clients: {clients}, of these active: {active}"
        return "; ".join((summary, *self.config_problems))

    @property
    def advertised(self) -> frozenset[str]:
        """The names of the listeners that are announced over mDNS."""
        return frozenset(each.name for each in self._config.listeners if each.advertise)

    # --- the key store ---------------------------------------------------------------------

    def unlock(self, passphrase: str) -> None:
        """Open the key store, and start what waits for it.

        Raises:
            WrongUnlockKeyError: It was locked with another passphrase.
            KeyStoreError: It cannot be opened.
        """
        self._keys.unlock(passphrase)
        self._watch_keys()
        self._start_what_waits()

    def _watch_keys(self) -> None:
        if self._keys.store is not None:
            self._keys.store.on_change(self._look_again)

    def _look_again(self, _label: str) -> None:
        gevent.spawn(self._start_what_waits)  # who changes the key store does not wait for it

    def _start_what_waits(self) -> None:
        """Make and start the listeners that lacked the key store, or an identity in it."""
        with self._making:
            for wanted in self._config.listeners:
                if wanted.name in self.idle_listeners:
                    self._make(wanted)
                    with suppress(EdgeSyncError):  # it is told of
                        self._start(wanted.name)

    # --- while it runs -------------------------------------------------------------------

    def restart_listener(self, name: str) -> None:
        """Stop and start a listener; clients come back by themselves.

        Raises:
            UnknownNameError: There is none of that name.
            ListenerError: It could be stopped, and not started.
        """
        with self._making:
            if name not in self.listeners:
                raise UnknownNameError("listener", name, self.listeners)
            self.listeners[name].stop(for_good=False)
            self._start(name)

    def create_database(self, name: str, collections: Sequence[str]) -> Database:
        """Make a database; it is opened again with the service, configured or not.

        Raises:
            InvalidNameError: No database or collection may have that name.
            StoreError: It cannot be made.
        """
        database = Database.open(name, directory=self._folder, limits=self._config.limits)
        try:
            for collection in collections:
                database.create_collection(collection)
        except EdgeSyncError:
            database.delete()
            raise
        self.databases[name] = database
        return database

    def replace_database(self, name: str, copy: Path) -> None:
        """Put a copy in the place of a database and serve it; put the old one back if it fails.

        Its listeners stop meanwhile, and their clients come back by themselves.

        Args:
            name: Of the database; it may be one that could not be opened, or is not there.
            copy: A database's folder on the same file system; it is moved.

        Raises:
            EdgeSyncError: The copy cannot be opened.
        """
        with self._making:
            former = self._replace(name, copy)
        gevent.get_hub().threadpool.apply(shutil.rmtree, (former,), {"ignore_errors": True})

    def _replace(self, name: str, copy: Path) -> Path:
        """Return where the former files are."""
        place = self._folder / f"{name}{DATABASE_SUFFIX}"
        former = place.with_name(place.name + REPLACED_SUFFIX)
        served = [each for each in self._config.listeners if each.database == name]
        self._keep_identities(served)
        self._stop_listeners([each.name for each in served])
        if name in self.databases:
            self.databases.pop(name).close()
        shutil.rmtree(former, ignore_errors=True)
        if place.exists():
            place.rename(former)
        try:
            copy.rename(place)
            self._open_again(name)
            if name in self.closed_databases:
                raise StoreDamagedError(self.closed_databases[name])
        except (EdgeSyncError, OSError):
            if former.exists():
                shutil.rmtree(place, ignore_errors=True)
                former.rename(place)
            self._open_again(name)
            raise
        return former

    def _keep_identities(self, configured: Iterable[ListenerConfig]) -> None:
        """Remember the anonymous certificates by which clients know listeners."""
        for each in configured:
            listener = self.listeners.get(each.name)
            if each.tls_identity is None and listener is not None and listener.tls_identity:
                self._identities[each.name] = listener.tls_identity

    def _open_again(self, name: str) -> None:
        known = {wanted.name: wanted for wanted in self._config.databases}
        self._open(known.get(name, DatabaseConfig(name)))
        for wanted in self._config.listeners:
            if wanted.database == name:
                self._make(wanted)
                # It is told of, and no fault of the database.
                with suppress(ListenerError, KeyStoreError, IdentityError):
                    self._start(wanted.name)

    # --- another configuration ----------------------------------------------------------------

    def plan(self, wanted: ServiceConfig) -> Plan:
        """Return what another configuration changes; nothing is changed yet.

        Raises:
            ConfigurationError: A file that it names cannot be used.
        """
        roots = {
            each.name: construction.client_roots(each, wanted.source) for each in wanted.listeners
        }
        running = Running(
            self._at_start,
            self._config,
            sound_databases=self.databases.keys() - self._incomplete,
            idle_listeners=frozenset(self.idle_listeners),
            other_roots=frozenset(
                name for name, content in roots.items() if self._roots.get(name, ()) != content
            ),
        )
        return plan_for(running, wanted)

    def apply(self, plan: Plan) -> None:
        """Put another configuration into effect; what cannot be done is told of as at the start."""
        with self._making:
            known = {each.name: each for each in self._config.listeners}
            restarted = [each.name for each in plan.restarted]
            self._keep_identities(known[name] for name in restarted)
            self._stop_listeners(restarted, for_good=plan.removed)
            for name in plan.removed:
                self._identities.pop(name, None)
                self.idle_listeners.pop(name, None)
            for name in plan.closed:
                self.closed_databases.pop(name, None)
                if name in self.databases:
                    self.databases.pop(name).close()
            self._config = plan.config
            for database in plan.opened:
                self._open_or_note(database)
            for listener in (*plan.restarted, *plan.added):
                self._make_and_start(listener)
        for told in self.on_change:
            told()

    def _stop_listeners(self, for_now: Iterable[str], *, for_good: Iterable[str] = ()) -> None:
        """Stop listeners, all at once, as each waits for its clients."""
        stopping = [
            gevent.spawn(self.listeners.pop(name).stop, for_good=is_for_good)
            for names, is_for_good in ((for_now, False), (for_good, True))
            for name in names
            if name in self.listeners
        ]
        gevent.joinall(stopping)

    def _open_or_note(self, wanted: DatabaseConfig) -> None:
        """Open a database, or make the new collections of one that is open."""
        self._incomplete.discard(wanted.name)
        try:
            if wanted.name in self.databases:
                construction.make_collections(self.databases[wanted.name], wanted, self._config)
            else:
                self._open(wanted)
        except StoreError as error:
            log.error('database "%s" is not as configured: %s', wanted.name, error)
            if wanted.name in self.databases:
                self._incomplete.add(wanted.name)
            else:
                self.closed_databases[wanted.name] = str(error)

    def _make_and_start(self, wanted: ListenerConfig) -> None:
        try:
            self._make(wanted)
            self._start(wanted.name)
        except EdgeSyncError as error:
            self._note_idle(wanted.name, error)

    def _start(self, name: str) -> None:
        if name not in self.listeners:
            return
        try:
            self.listeners[name].start(wait=True)
            self.idle_listeners.pop(name, None)
        except (ListenerError, KeyStoreError, IdentityError) as error:
            self._note_idle(name, error)
            raise
        finally:
            for told in self.on_change:
                told()

    # --- making ------------------------------------------------------------------------

    def _open(self, wanted: DatabaseConfig) -> None:
        try:
            database = construction.opened(wanted, self._config, self._folder)
        except (StoreDamagedError, StoreVersionError) as error:
            log.error('database "%s" is not served: %s', wanted.name, error)
            self.closed_databases[wanted.name] = str(error)
            return
        self.databases[wanted.name] = database
        self.closed_databases.pop(wanted.name, None)
        construction.make_collections(database, wanted, self._config)

    def _make(self, wanted: ListenerConfig) -> None:
        if (reason := self.closed_databases.get(wanted.database)) is not None:
            self.listeners.pop(wanted.name, None)
            self.idle_listeners[wanted.name] = f'database "{wanted.database}": {reason}'
            return
        try:
            security = self._security(wanted)
        except (KeyStoreError, IdentityError) as error:
            self.listeners.pop(wanted.name, None)
            self._note_idle(wanted.name, error)
            return
        database = self.databases[wanted.database]
        self.listeners[wanted.name] = construction.listener(
            wanted, database, self._config, security
        )
        self.idle_listeners.pop(wanted.name, None)

    def _security(self, wanted: ListenerConfig) -> Security:
        """Return what a listener gets of the key store, and who may come in.

        Raises:
            KeyStoreError: It is locked, not there yet, or cannot be read.
            IdentityNotFoundError: The identity is not there.
            ConfigurationError: A file with certificates cannot be used.
        """
        has_password = wanted.authenticator == "password"
        has_label = wanted.tls_identity is not None and not wanted.disable_tls
        needs_keys = not wanted.disable_tls or has_password
        store = self._keys.opened() if needs_keys else None
        if store is None and (has_password or has_label):
            raise KeyStoreError(
                "the service runs without the key store that was configured since it started",
                hint='restart it: "systemctl restart edgesyncd"',
            )
        roots = self._roots[wanted.name] = construction.client_roots(wanted, self._config.source)
        authenticator = construction.authenticator(wanted, store, roots)
        identity = self._identities.get(wanted.name)
        if store is not None and wanted.tls_identity is not None and has_label:
            identity = store.identity(label := wanted.tls_identity)
            if identity is None:
                missing = IdentityNotFoundError(label)
                missing.hint = f'make it with "edgesync identity create {label}", or import it'
                raise missing
        return Security(store, identity, authenticator)

    def _note_idle(self, name: str, error: EdgeSyncError) -> None:
        reason = f"{error}; {error.hint}" if error.hint else str(error)
        if self.idle_listeners.get(name) != reason:
            log.error('listener "%s" does not serve: %s', name, error)
        self.idle_listeners[name] = reason

    def _close_databases(self) -> None:
        for database in self.databases.values():
            database.close()


def _finish_replacements(folder: Path) -> None:
    """Undo or finish what a power cut interrupted in `Service.replace_database`."""
    for former in folder.glob(f"*{DATABASE_SUFFIX}{REPLACED_SUFFIX}"):
        place = former.with_suffix("")
        if place.exists():
            shutil.rmtree(former)
        else:
            former.rename(place)


def _others(config: ServiceConfig, folder: Path) -> list[DatabaseConfig]:
    """Return the databases of a folder that are not configured."""
    configured = {database.name for database in config.databases}
    found = sorted(path.stem for path in folder.glob(f"*{DATABASE_SUFFIX}") if path.is_dir())
    return [DatabaseConfig(name) for name in found if name not in configured]
