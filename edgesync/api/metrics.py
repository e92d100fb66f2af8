"""Measurements in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import falcon
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import edgesync
from edgesync.api.box import Box
from edgesync.api.documents import Application
from edgesync.api.service import all_databases, all_listeners, disk
from edgesync.limits import Limits

_TOTALS: Final = (
    ("connections", "Connections of clients that were accepted."),
    ("revisions_in", "Revisions that clients pushed."),
    ("revisions_out", "Revisions that were sent to clients."),
    ("bytes_in", "Bytes of messages from clients."),
    ("bytes_out", "Bytes of messages to clients."),
)


def add_routes(application: Application, box: Box, _limits: Limits) -> None:
    """Add the path of this module."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_BoxCollector(box))
    ProcessCollector(registry=registry)
    application.add_route("/metrics", _Metrics(registry))


@dataclass(frozen=True, slots=True)
class _Metrics:
    registry: CollectorRegistry

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = CONTENT_TYPE_LATEST
        response.data = generate_latest(self.registry)


class _BoxCollector(Collector):
    """Reads everything when it is asked, so that nothing is counted twice."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what there is depends on the configuration."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all measurements."""
        yield from self._of_listeners()
        yield from self._of_databases()
        yield from self._of_the_machine()

    def _of_listeners(self) -> Iterator[Metric]:
        listeners = all_listeners(self._box)
        label = ["listener"]
        for name, text in _TOTALS:
            counter = CounterMetricFamily(f"edgesync_{name}", text, labels=label)
            for listener in listeners:
                counter.add_metric([listener["name"]], listener["totals"][name])  # type: ignore[literal-required]  # names of its keys
            yield counter
        serving = GaugeMetricFamily(
            "edgesync_listener_serving", "Whether clients can connect.", labels=label
        )
        connected = GaugeMetricFamily(
            "edgesync_clients", "Clients that are connected now.", labels=label
        )
        active = GaugeMetricFamily(
            "edgesync_clients_active", "Those that are not just waiting.", labels=label
        )
        for listener in listeners:
            name = listener["name"]
            serving.add_metric([name], listener["state"] == "serving")
            connected.add_metric([name], listener["connections"])
            active.add_metric([name], listener["active"])
        yield from (serving, connected, active)
        yield from self._expirations()

    def _expirations(self) -> Iterator[Metric]:
        expires = GaugeMetricFamily(
            "edgesync_certificate_expires_seconds",
            "When the certificate in use ends, in seconds since 1970.",
            labels=["listener"],
        )
        for name, listener in self._box.listeners.items():
            if (identity := listener.tls_identity) is not None:
                expires.add_metric([name], identity.expiration.timestamp())
        yield expires

    def _of_databases(self) -> Iterator[Metric]:
        is_open = GaugeMetricFamily(
            "edgesync_database_open", "Whether the database could be opened.", labels=["database"]
        )
        size = GaugeMetricFamily(
            "edgesync_database_bytes", "Size of the file, without blobs.", labels=["database"]
        )
        documents = GaugeMetricFamily(
            "edgesync_documents", "Documents that are not deleted.", labels=["keyspace"]
        )
        for database in all_databases(self._box):
            is_open.add_metric([database["name"]], database["open"])
            size.add_metric([database["name"]], database["bytes"])
            for collection in database["collections"]:
                documents.add_metric([collection["keyspace"]], collection["documents"])
        yield from (is_open, size, documents)

    def _of_the_machine(self) -> Iterator[Metric]:
        found = disk(self._box)
        yield GaugeMetricFamily(
            "edgesync_disk_free_bytes", "Room for databases.", value=found["free_bytes"]
        )
        yield GaugeMetricFamily(
            "edgesync_uptime_seconds",
            "Since the service was started.",
            value=time.time() - self._box.started_at.timestamp(),
        )
        about = GaugeMetricFamily("edgesync_info", "The version.", labels=["version"])
        about.add_metric([edgesync.__version__], 1)
        yield about
