"""The command `edgesyncd`: builds what the configuration says, runs it, stops it."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import gevent
from gevent.event import Event

from edgesync import ConnectionStatus, KeyStore, URLEndpointListener, __version__
from edgesync.api.box import Box
from edgesync.api.client import find_socket, socket_to_serve, state_folder
from edgesync.api.events import Events, RecentLog
from edgesync.api.server import ApiServer
from edgesync.api.upkeep import WORK_FOLDER
from edgesync.daemon.config import EMBEDDED, KeyStoreConfig, ServiceConfig, read_config
from edgesync.daemon.follower import Follower
from edgesync.daemon.hosted import Service
from edgesync.daemon.memory import collect_garbage_less_often, give_back_large_blocks
from edgesync.daemon.reload import Reloader
from edgesync.daemon.systemd import (
    JournalFormatter,
    JournalHandler,
    ServiceManager,
    is_journal,
)
from edgesync.daemon.unlocking import CREDENTIALS, ServiceKeys, unlock_key
from edgesync.errors import ConfigurationError, EdgeSyncError

log: Final = logging.getLogger(__name__)

API_STOP_TIMEOUT_S: Final = 0.5  # of the promised 10 s; feeds never end by themselves
GOODBYE_TIMEOUT_S: Final = 0.5  # after the listeners have stopped, which takes longer mostly
CROWD: Final = 50  # each time that a client comes or goes, all of them are looked at;
TELL_EVERY_S: Final = 0.2  # of a crowd only so often
KEYS_FOLDER: Final = "keys"
FAILED: Final = 1  # argparse itself ends with 2 on wrong usage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    recent = _log_to_stderr(os.environ)
    try:
        config = read_config(options.config) if options.config is not None else EMBEDDED
        if options.check:
            check(config)
            print(f"{config.source}: ok")
        else:
            manager = ServiceManager(os.environ, os.getpid())
            serve(config, options.config, state_folder(os.environ), manager, recent)
    except EdgeSyncError as error:
        hint = f"; {error.hint}" if error.hint else ""
        if is_journal(sys.stderr, os.environ):
            log.error("cannot run: %s%s", error, hint)
        else:
            print(f"edgesyncd: {error}{hint}", file=sys.stderr)
        return FAILED
    return 0


def check(config: ServiceConfig) -> None:
    """Build what the configuration says, in a folder that is thrown away.

    Raises:
        EdgeSyncError: What would stop the start, but for ports and interfaces.
    """
    _check_unlock_key(config.key_store)
    # Identities are in the real key store; one that is missing keeps but its listener idle.
    listeners = tuple(replace(each, tls_identity=None) for each in config.listeners)
    with TemporaryDirectory(prefix="edgesyncd-check-") as folder:
        keys = ServiceKeys(None, Path(folder), os.environ, config.limits)
        keys.store = KeyStore.open(Path(folder) / KEYS_FOLDER, unlock=secrets.token_bytes(32))
        Service.build(replace(config, listeners=listeners), Path(folder), keys).stop()


def _check_unlock_key(key_store: KeyStoreConfig | None) -> None:
    if key_store is None or key_store.kind == "passphrase":
        return
    if key_store.kind == "file" or os.environ.get(CREDENTIALS):  # else it is for another place
        unlock_key(key_store, os.environ)


def serve(
    config: ServiceConfig,
    path: Path | None,
    folder: Path,
    manager: ServiceManager,
    recent: RecentLog,
) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        config: What to run.
        path: The file that it comes from, which SIGHUP has read anew; None: SIGHUP is as usual.
        folder: Where the state lives; made if it is missing.
        manager: Is told how it goes.
        recent: The last lines of the log.

    Raises:
        EdgeSyncError: It cannot start, or did not stop in time.
    """
    stop, reload = Event(), Event()
    watchers = [gevent.signal_handler(n, stop.set) for n in (signal.SIGTERM, signal.SIGINT)]
    if path is not None:
        watchers.append(gevent.signal_handler(signal.SIGHUP, reload.set))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold keys and documents
    give_back_large_blocks()
    keys = ServiceKeys(config.key_store, folder / KEYS_FOLDER, os.environ, config.limits)
    keys.open()
    service = Service.build(config, _made(folder / "databases"), keys)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)  # of backups that were cut off
    socket = socket_to_serve(os.environ, folder)
    events = Events()
    follower = Follower(service.listeners, lambda: service.advertised, events, config.limits)
    where = (config.source, folder, socket)
    box = _box(service, keys, follower, where, events, recent)
    server = ApiServer(box, socket, config.limits)
    service.on_change.append(follower.follow)
    clients = _Clients(service, events, manager)
    reloader = None
    if path is not None:
        reloader = Reloader(path, service, check, manager, events, reload)
    try:
        server.start()
        service.start()
        follower.start()
        clients.watch()
        collect_garbage_less_often()
        manager.ready(service.summary())
        box.events.tell("started", f"edgesyncd {__version__} started")
        _announce(service, folder, socket)
        if reloader is not None:
            reloader.start()
        while not stop.wait(manager.watchdog_interval_s):
            manager.watchdog()
    finally:
        manager.stopping()
        if reloader is not None:
            reloader.stop()
        server.stop(API_STOP_TIMEOUT_S)
        goodbye = gevent.spawn(follower.stop)
        service.stop()
        clients.stop()
        goodbye.join(GOODBYE_TIMEOUT_S)
        for watcher in watchers:
            watcher.cancel()


class _Clients:
    """Tells of clients that come and go."""

    def __init__(self, service: Service, events: Events, manager: ServiceManager) -> None:
        self._service = service
        self._events = events
        self._manager = manager
        self._watched: dict[str, URLEndpointListener] = {}
        self._connected: dict[str, str] = {}
        self._changed = Event()
        self._teller = gevent.spawn(self._tell_of_crowds)
        service.on_change.append(self.watch)

    def watch(self) -> None:
        """Watch all listeners, those that were made anew, too."""
        for name in self._watched.keys() - self._service.listeners.keys():
            del self._watched[name]
        for name, listener in self._service.listeners.items():
            if self._watched.get(name) is not listener:
                self._watched[name] = listener
                listener.add_change_listener(self._take)

    def stop(self) -> None:
        """Tell of the last changes."""
        self._teller.kill()
        self._tell()

    def _take(self, status: ConnectionStatus) -> None:
        if status.connection_count <= CROWD:
            self._tell()
        else:
            self._changed.set()

    def _tell_of_crowds(self) -> None:
        while self._changed.wait():
            self._changed.clear()
            self._tell()
            gevent.sleep(TELL_EVERY_S)

    def _tell(self) -> None:
        self._manager.status(self._service.summary())
        now = {
            info.id: (name, info.peer_address)
            for name, listener in self._service.listeners.items()
            for info in listener.connections
        }
        for key, (name, peer) in now.items():
            if key not in self._connected:
                self._connected[key] = peer
                self._events.record(
                    "client_connected", f'{peer} came to listener "{name}"', listener=name, id=key
                )
        for key in self._connected.keys() - now.keys():
            peer = self._connected.pop(key)
            self._events.record("client_gone", f"{peer} has gone", id=key)


def _box(
    service: Service,
    keys: ServiceKeys,
    follower: Follower,
    where: tuple[str, Path, Path],
    events: Events,
    recent: RecentLog,
) -> Box:
    """Return the service as the local API needs it."""
    source, folder, socket = where
    return Box(
        config=source,
        state_folder=folder,
        socket=socket,
        databases=service.databases,
        closed_databases=service.closed_databases,
        listeners=service.listeners,
        idle_listeners=service.idle_listeners,
        restart_listener=service.restart_listener,
        create_database=service.create_database,
        replace_database=service.replace_database,
        key_store=lambda: keys.store,
        is_locked=lambda: keys.is_locked,
        unlock=service.unlock,
        mdns_names=lambda: follower.names,
        mdns_problems=lambda: follower.problems,
        config_problems=lambda: service.config_problems,
        events=events,
        log=recent,
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


def _announce(service: Service, folder: Path, socket: Path) -> None:
    """Print what a person needs to connect a client."""
    print(f"edgesyncd {__version__}, state below {folder}")
    for name, listener in service.listeners.items():
        for url in listener.urls:
            print(f'listener "{name}": {url}')
        if listener.waiting_for is not None:
            print(f'listener "{name}": waits for {listener.waiting_for}')
        if (identity := listener.tls_identity) is not None:
            print(f"    certificate SHA-256: {identity.fingerprint.hex(':').upper()}")
    for name, reason in service.idle_listeners.items():
        print(f'listener "{name}" does not serve: {reason}')
    where = "" if socket == find_socket(os.environ) else f"--socket {socket} "
    print(f"look around with: {_command()} {where}status", flush=True)


def _command() -> str:
    """Return what starts `edgesync` here: not all that is installed is on the search path."""
    beside = Path(sys.argv[0]).with_name("edgesync")
    if shutil.which("edgesync") is None and os.access(beside, os.X_OK):
        return str(beside)
    return "edgesync"


def _log_to_stderr(environment: Mapping[str, str]) -> RecentLog:
    """Log to the journal, else to standard error, and keep the last lines."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if is_journal(sys.stderr, environment):
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
        handler = JournalHandler(handler)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    recent = RecentLog()
    logging.basicConfig(level=logging.INFO, handlers=[handler, recent])
    return recent


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
