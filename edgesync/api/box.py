"""The service as the API sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edgesync import Collection, Database, KeyStore, URLEndpointListener
from edgesync.api.events import Events, RecentLog
from edgesync.errors import CollectionNotFoundError, StoreError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Box:
    """What the API shows and steers; whoever runs the service makes it.

    The mappings are live: what is in them changes while the service runs.
    """

    config: str
    """Where the configuration comes from."""
    state_folder: Path
    socket: Path
    databases: Mapping[str, Database]
    """Those that are open."""
    closed_databases: Mapping[str, str]
    """Those that could not be opened, with the reason."""
    listeners: Mapping[str, URLEndpointListener]
    idle_listeners: Mapping[str, str]
    """Those that could not be made or started, with the reason."""
    restart_listener: Callable[[str], None]
    """Stop and start a listener; its clients come back by themselves."""
    create_database: Callable[[str, Sequence[str]], Database]
    """Make a database with these collections."""
    replace_database: Callable[[str, Path], None]
    """Put a folder, on the same file system, in a database's place, and serve it."""
    key_store: Callable[[], KeyStore | None]
    """The key store, None if none is configured."""
    is_locked: Callable[[], bool]
    """Whether the key store waits for its passphrase."""
    unlock: Callable[[str], None]
    """Open the key store with its passphrase, and start what waits for it."""
    mdns_names: Callable[[], Mapping[str, Sequence[str]]]
    """Under which names each listener is announced."""
    mdns_problems: Callable[[], Mapping[str, str]]
    """Why nothing is announced, by interface."""
    config_problems: Callable[[], Sequence[str]]
    """What of the configuration file is not in effect, and why."""
    events: Events
    log: RecentLog
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def database(self, name: str) -> Database:
        """Return an open database.

        Raises:
            UnknownNameError: There is none of that name.
            StoreError: It could not be opened.
        """
        if (reason := self.closed_databases.get(name)) is not None:
            raise StoreError(
                f'database "{name}" is not open: {reason}',
                hint=f'put a backup back with "edgesync database restore {name} FILE"',
            )
        if (found := self.databases.get(name)) is None:
            raise UnknownNameError("database", name, self.databases)
        return found

    def collection(self, keyspace: str) -> Collection:
        """Return the collection of `db`, `db.collection` or `db.scope.collection`.

        Raises:
            UnknownNameError: There is none of that name.
            StoreError: The database could not be opened.
        """
        name, _, path = keyspace.partition(".")
        database = self.database(name)
        if not path:
            return database.default_collection
        try:
            return database.collection(path)
        except CollectionNotFoundError as error:
            known = [keyspace_of(each) for each in database.collections]
            raise UnknownNameError("keyspace", keyspace, known) from error

    def listener(self, name: str) -> URLEndpointListener:
        """Return a listener.

        Raises:
            UnknownNameError: There is none of that name.
        """
        if (found := self.listeners.get(name)) is None:
            raise UnknownNameError("listener", name, [*self.listeners, *self.idle_listeners])
        return found


def keyspace_of(collection: Collection) -> str:
    """Return the shortest name of a collection in the API."""
    database = collection.database.name
    if collection.scope != "_default":
        return f"{database}.{collection.path}"
    return database if collection.name == "_default" else f"{database}.{collection.name}"
