"""Says what blocks a hub: gevent's own monitor, without what is not the code's doing.

A machine that runs something else, a collection of all that a test run has gathered, or
a test that computes: none of them is a greenlet of ours that keeps the others waiting.
"""

from __future__ import annotations

import gc
import threading
import warnings
from pathlib import Path
from typing import Final

import gevent
from gevent import events

import edgesync

MAX_BLOCKING_S: Final = 0.05
OURS: Final = Path(edgesync.__file__).parent


class HubWatch:
    """Notes, from `start` to `stop`, where this thread's hub was kept from running for 50 ms.

    By code below a folder, the package's own if no other is named.
    """

    def __init__(self, folder: Path = OURS) -> None:
        self._of_ours = f'File "{folder}/'
        self.reports: list[str] = []
        self._schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._starved_s = 0.0

    def start(self) -> None:
        gc.freeze()  # what is there already is not ours to collect
        gevent.config.monitor_thread = True
        gevent.config.max_blocking_time = MAX_BLOCKING_S
        gevent.config.print_blocking_reports = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would like psutil to watch memory as well
            self._monitor = gevent.get_hub().start_periodic_monitoring_thread()
        # Runs after each look at the hub, so that a report knows how it was at the look before.
        self._monitor.add_monitoring_function(self._remember, MAX_BLOCKING_S)
        events.subscribers.append(self._note)

    def stop(self) -> None:
        events.subscribers.remove(self._note)
        self._monitor.kill()
        gevent.get_hub().periodic_monitoring_thread = None
        gevent.config.monitor_thread = False
        gc.unfreeze()

    def _note(self, event: object) -> None:
        if not isinstance(event, events.EventLoopBlocked):
            return
        report = "\n".join(str(line) for line in event.info)
        starved_s = self._starved() - self._starved_s
        if self._of_ours in report.partition("Info:")[0] and starved_s < MAX_BLOCKING_S / 2:
            self.reports.append(report)

    def _remember(self, _: object) -> None:
        self._starved_s = self._starved()

    def _starved(self) -> float:
        """Return for how many seconds this thread could have run, but had no processor."""
        try:
            return int(self._schedstat.read_text().split()[1]) / 1e9
        except OSError:  # a kernel without these statistics
            return 0.0
