"""Has the service follow its configuration file, whenever SIGHUP says that it has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gevent
from gevent.event import Event

from edgesync.api.events import Events
from edgesync.daemon.config import ServiceConfig, read_config
from edgesync.daemon.hosted import Service
from edgesync.daemon.plan import Plan
from edgesync.daemon.systemd import ServiceManager
from edgesync.errors import EdgeSyncError

log: Final = logging.getLogger(__name__)


class Reloader:
    """Reads the file anew, one time after the other, in a greenlet of its own.

    A new configuration is built in a folder that is thrown away before anything that
    runs is touched. So a file with any mistake in it changes nothing, and is told of by
    the log, systemd's status and `edgesync status`, until one that can be used comes.
    """

    def __init__(
        self,
        path: Path,
        service: Service,
        check: Callable[[ServiceConfig], None],
        manager: ServiceManager,
        events: Events,
        wanted: Event,
    ) -> None:
        """Store what is given.

        Args:
            path: Of the file.
            service: Which runs what was in it.
            check: Raises `EdgeSyncError` if a configuration cannot be built. Not to be run
                in a thread: what ends there is the thread's hub, and gevent crashes.
            manager: Is told when we begin and when we are ready.
            events: Are told what has changed.
            wanted: Is set whenever somebody wants the file read.
        """
        self._path = path
        self._service = service
        self._check = check
        self._manager = manager
        self._events = events
        self._wanted = wanted
        self._greenlet: gevent.Greenlet[[], None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End it, in the middle of a reload, too: what it has begun is stopped anyway."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()  # before we read: who asks from here on is for another time
            self._manager.reloading()
            try:
                self._reload()
            except Exception:  # the top of a greenlet, and the service goes on
                log.exception("the configuration could not be put into effect")
            self._manager.ready(self._service.summary())

    def _reload(self) -> None:
        try:
            wanted = read_config(self._path)
            self._check(wanted)
            plan = self._service.plan(wanted)
        except EdgeSyncError as error:
            self._refuse(f"{error}; {error.hint}" if error.hint else str(error))
            return
        except OSError as error:  # of the folder that is thrown away
            self._refuse(f"it cannot be tried: {error}; make room in /tmp")
            return
        self._service.config_problems = tuple(
            f"{key} takes effect at the next start" for key in plan.at_next_start
        )
        for key in plan.at_next_start:
            log.warning('%s takes effect at the next start: "systemctl restart edgesyncd"', key)
        self._service.apply(plan)
        self._tell(plan)

    def _refuse(self, reason: str) -> None:
        problem = f"the configuration was not reloaded, and the former one goes on: {reason}"
        self._service.config_problems = (problem,)
        log.error("the configuration was not reloaded, and the former one goes on: %s", reason)
        self._events.record("reload_failed", problem)

    def _tell(self, plan: Plan) -> None:
        changes = ", ".join(plan.in_words()) or "nothing to stop or start"
        self._events.tell("reloaded", f"the configuration was reloaded: {changes}")
