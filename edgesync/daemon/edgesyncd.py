"""The command `edgesyncd`: builds what the configuration says, runs it, stops it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import gevent
from gevent.event import Event

from edgesync import Database, URLEndpointListener, URLEndpointListenerConfiguration, __version__
from edgesync.daemon.config import (
    EMBEDDED,
    DatabaseConfig,
    ListenerConfig,
    ServiceConfig,
    read_config,
)
from edgesync.daemon.systemd import JournalFormatter, ServiceManager, is_journal
from edgesync.errors import (
    CollectionNotFoundError,
    ConfigurationError,
    EdgeSyncError,
    InvalidNameError,
)

log: Final = logging.getLogger(__name__)

STOP_TIMEOUT_S: Final = 9.0  # clients may take 5 s to answer a CLOSE; the promise is 10 s
FAILED: Final = 1  # argparse itself ends with 2 on wrong usage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    _log_to_stderr(os.environ)
    try:
        config = read_config(options.config) if options.config is not None else EMBEDDED
        if options.check:
            check(config)
            print(f"{config.source}: ok")
        else:
            serve(config, state_folder(os.environ), ServiceManager(os.environ, os.getpid()))
    except EdgeSyncError as error:
        hint = f"; {error.hint}" if error.hint else ""
        print(f"edgesyncd: {error}{hint}", file=sys.stderr)
        return FAILED
    return 0


def check(config: ServiceConfig) -> None:
    """Build what the configuration says, in a folder that is thrown away.

    Raises:
        EdgeSyncError: What would stop the start, but for ports and interfaces.
    """
    with TemporaryDirectory(prefix="edgesyncd-check-") as folder:
        Service.build(config, Path(folder)).stop()


def serve(config: ServiceConfig, folder: Path, manager: ServiceManager) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        config: What to run.
        folder: Where the state lives; made if it is missing.
        manager: Is told how it goes.

    Raises:
        EdgeSyncError: It cannot start, or did not stop in time.
    """
    stop = Event()
    watchers = [gevent.signal_handler(n, stop.set) for n in (signal.SIGTERM, signal.SIGINT)]
    service = Service.build(config, _made(folder / "databases"))
    try:
        service.start(manager)
        _announce(service, folder)
        while not stop.wait(manager.watchdog_interval_s):
            manager.watchdog()
    finally:
        manager.stopping()
        service.stop()
        for watcher in watchers:
            watcher.cancel()


class Service:
    """The databases and listeners of a configuration."""

    def __init__(
        self, databases: Mapping[str, Database], listeners: Mapping[str, URLEndpointListener]
    ) -> None:
        """Use `Service.build`."""
        self._databases = databases
        self.listeners = listeners

    @classmethod
    def build(cls, config: ServiceConfig, folder: Path) -> Service:
        """Open the databases and make the listeners.

        Raises:
            ConfigurationError: The configuration asks for what cannot be.
            StoreError: A database cannot be opened.
        """
        databases: dict[str, Database] = {}
        with ExitStack() as undo:
            for wanted in config.databases:
                databases[wanted.name] = _open_database(wanted, config, folder)
                undo.callback(databases[wanted.name].close)
                _make_collections(databases[wanted.name], wanted, config)
            listeners = {
                wanted.name: _make_listener(wanted, databases[wanted.database], config)
                for wanted in config.listeners
            }
            undo.pop_all()
        return cls(databases, listeners)

    def start(self, manager: ServiceManager) -> None:
        """Start all listeners, and show from now on how many clients there are.

        Raises:
            ListenerError: One cannot start.
        """
        for listener in self.listeners.values():
            listener.start()
            listener.add_change_listener(lambda _status: manager.status(self.summary()))
        manager.ready(self.summary())

    def stop(self) -> None:
        """Close all connections with 1001, then the databases.

        Raises:
            EdgeSyncError: It takes longer than the promised time.
        """
        # All listeners at once: each waits for its clients.
        late = EdgeSyncError("the service did not stop in time", hint="see the log")
        with gevent.Timeout(STOP_TIMEOUT_S, late):
            gevent.joinall([gevent.spawn(each.stop) for each in self.listeners.values()])
            for database in self._databases.values():
                database.close()

    def summary(self) -> str:
        """Return the state of the service in a line."""
        statuses = [listener.status for listener in self.listeners.values()]
        clients = sum(status.connection_count for status in statuses)
        active = sum(status.active_connection_count for status in statuses)
        return f"listeners: {len(statuses)}, clients: {clients}, of these active: {active}"


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return where the state lives: as systemd says, else as a desktop says, else at home."""
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])  # systemd lists all of a unit's folders
    if (state_home := Path(environment.get("XDG_STATE_HOME", ""))).is_absolute():
        return state_home / "edgesync"
    return Path.home() / ".local/state/edgesync"


def _open_database(wanted: DatabaseConfig, config: ServiceConfig, folder: Path) -> Database:
    try:
        return Database.open(wanted.name, directory=folder, limits=config.limits)
    except InvalidNameError as error:
        raise ConfigurationError(
            f"{config.source}: database.{wanted.name}: {error}", hint="choose another name"
        ) from error


def _make_collections(database: Database, wanted: DatabaseConfig, config: ServiceConfig) -> None:
    for name in wanted.collections:
        try:
            database.create_collection(name)
        except InvalidNameError as error:
            raise ConfigurationError(
                f"{config.source}: database.{wanted.name}.collections: {error}",
                hint="choose another name",
            ) from error


def _make_listener(
    wanted: ListenerConfig, database: Database, config: ServiceConfig
) -> URLEndpointListener:
    where = f"{config.source}: listener.{wanted.name}.collections"
    try:
        collections = [database.collection(name) for name in wanted.collections]
    except (CollectionNotFoundError, InvalidNameError) as error:
        raise ConfigurationError(
            f"{where}: {error}", hint=f"list it in database.{database.name}.collections"
        ) from error
    return URLEndpointListener(
        URLEndpointListenerConfiguration(
            collections=collections or database.collections,
            port=wanted.port,
            network_interface=wanted.interface,
            disable_tls=wanted.disable_tls,
            enable_delta_sync=wanted.enable_delta_sync,
            read_only=wanted.read_only,
            limits=config.limits,
        )
    )


def _made(folder: Path) -> Path:
    """Make a folder that only its owner enters."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the folder {folder} cannot be made: {error.strerror}",
            hint="name one that can be written to in the environment variable STATE_DIRECTORY",
        ) from error
    return folder


def _announce(service: Service, folder: Path) -> None:
    """Print what a person needs to connect a client."""
    print(f"edgesyncd {__version__}, state below {folder}")
    for name, listener in service.listeners.items():
        for url in listener.urls:
            print(f'listener "{name}": {url}')
        if (identity := listener.tls_identity) is not None:
            print(f"    certificate SHA-256: {identity.fingerprint.hex(':').upper()}")
    url = next(iter(service.listeners.values())).urls[0]
    print(f"look around with: python -m tests.active_peer pull {url} FOLDER", flush=True)


def _log_to_stderr(environment: Mapping[str, str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if is_journal(sys.stderr, environment):
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgesyncd",
        description="Serve databases to Couchbase Lite clients.",
        epilog="Without a file: one database, db, for clients on this machine.",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="an edgesync.toml")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--version", action="version", version=f"edgesyncd {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
