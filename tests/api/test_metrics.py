"""Measurements, as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import sync
from tests.api.box import Box


def read(box: Box) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return all samples by name and labels."""
    reply = box.ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.content.decode())
        for sample in family.samples
    }


def test_what_clients_push_is_counted(box: Box) -> None:
    before = read(box)
    client = PeerDatabase()
    for number in range(5):
        client.save(f"metric-{number}", {"n": number})
    sync(client, box.url, pull=False)
    after = read(box)
    key = ("edgesync_revisions_in_total", ("test",))
    assert after[key] - before[key] == 5
    assert after["edgesync_documents", ("db",)] - before["edgesync_documents", ("db",)] == 5


def test_the_state_of_all_parts_is_told(box: Box) -> None:
    samples = read(box)
    assert samples["edgesync_listener_serving", ("test",)] == 1
    assert samples["edgesync_database_open", ("db",)] == 1
    assert samples["edgesync_disk_free_bytes", ()] > 0
    assert samples["process_resident_memory_bytes", ()] > 0
