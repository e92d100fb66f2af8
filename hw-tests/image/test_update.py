"""Updates: the other slot takes over, or the old one comes back."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from card import Card
from needs import Record, named
from tests.active_peer.options import SyncOptions
from tests.active_peer.sync import ContinuousSync

HOST = "10.0.2.2"  # this computer, as QEMU's network calls it
BUNDLE = "/var/lib/edgesync/update.raucb"
BOOT_TIMEOUT_S = 600.0


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bundle() -> Iterator[str]:
    """Offer the update to the machine; return its URL."""
    path = named("EDGESYNC_BUNDLE", "an update")
    handler = partial(Quiet, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_address[1]}/{path.name}"
        server.shutdown()
        thread.join()


def slot(card: Card) -> str:
    (found,) = (
        word.partition("=")[2]
        for word in card.run("cat /proc/cmdline").split()
        if word.startswith("rauc.slot=")
    )
    return found


def install(card: Card, bundle: str) -> None:
    card.run(f"curl --silent --show-error --fail --output {BUNDLE} {bundle}", timeout_s=300)
    card.run(f"rauc install {BUNDLE}; status=$?; rm {BUNDLE}; exit $status", timeout_s=900)


def restart(card: Card) -> None:
    before = card.boot_id()
    card.run("systemctl reboot", check=False)
    card.wait_for_boot_after(before, BOOT_TIMEOUT_S)


@pytest.mark.timeout(1800)
def test_an_update_while_clients_sync_takes_over(card: Card, bundle: str, record: Record) -> None:
    client = card.client
    assert slot(card) == "a"
    client.database.save("before", {"setpoint": 1})
    with ContinuousSync(client.database, card.url, SyncOptions(), retry_after_s=5.0) as syncing:
        install(card, bundle)
        client.database.save("while", {"setpoint": 2})
        syncing.wait_for(lambda: syncing.is_idle and syncing.result.pushed == 2, 60)
        restart(card)
        client.database.save("after", {"setpoint": 3})
        card.wait_until_it_serves()
        syncing.wait_for(lambda: syncing.is_idle and syncing.result.pushed == 1, 120)
    assert slot(card) == "b"
    looking = card.client
    looking.sync(push=False)
    assert looking.database.default_collection.ids() == ["after", "before", "while"]
    seconds = card.wait_for(
        lambda: "confirmed=b" in card.run("cat /boot/firmware/config.txt"), "it is confirmed", 300
    )
    record("image: a new system, from serving to confirmed", seconds, "s")
    restart(card)
    assert slot(card) == "b"


@pytest.mark.timeout(1800)
def test_a_system_that_does_not_start_falls_back(card: Card, bundle: str) -> None:
    card.client.push("boiler", {"setpoint": 21})
    install(card, bundle)
    card.run("dd if=/dev/urandom of=/dev/disk/by-partlabel/system_b bs=1M count=8 conv=fsync")
    restart(card)
    assert slot(card) == "a"
    card.wait_until_it_serves()
    assert card.client.pull("boiler") == {"setpoint": 21}


@pytest.mark.nightly  # it is given ten minutes
@pytest.mark.timeout(3600)
def test_a_system_whose_service_does_not_come_up_falls_back(card: Card, bundle: str) -> None:
    card.client.push("boiler", {"setpoint": 21})
    install(card, bundle)
    broken = "[Service]\\nExecStartPre=+/bin/sh -c '! grep -q rauc.slot=b /proc/cmdline'\\n"
    folder = "/etc/systemd/system/edgesyncd.service.d"
    card.run(f'mkdir -p {folder}; printf "{broken}" >{folder}/test.conf')
    restart(card)
    assert slot(card) == "b"
    card.wait_until_it_serves(1800)
    card.hang_up()
    assert slot(card) == "a"
    assert card.client.pull("boiler") == {"setpoint": 21}


def test_an_update_of_a_stranger_is_refused(card: Card, bundle: str) -> None:
    card.run(f"curl --silent --show-error --fail --output {BUNDLE} {bundle}", timeout_s=300)
    card.run(f"printf x | dd of={BUNDLE} bs=1 seek=$(($(stat -c %s {BUNDLE}) - 100)) conv=notrunc")
    ended = card.ended(f"rauc install {BUNDLE}", timeout_s=300)
    assert ended.returncode != 0
    assert slot(card) == "a"
