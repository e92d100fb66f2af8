"""A data partition without room: clients are told to come back, and do."""

from __future__ import annotations

import json
from contextlib import suppress

from appliance import Client
from qemu import Qemu
from tests.active_peer.failures import SyncError
from tests.active_peer.options import Result, SyncOptions
from tests.active_peer.sync import ContinuousSync

STATE = "/var/lib/edgesync"
SERVICE = "edgesync"
UNAVAILABLE = 503
DOCUMENTS = 40
FILLER = "x" * 20_000


def fill(appliance: Qemu, user: str = "root") -> None:
    """Leave no block; only root gets at those that ext4 keeps for it."""
    as_user = f"runuser --user={user} --"
    appliance.run(f"{as_user} dd if=/dev/zero of={STATE}/filler bs=64k", check=False)
    appliance.run(f"{as_user} dd if=/dev/zero of={STATE}/rest bs=1k; sync", check=False)


def as_far_as_it_goes(client: Client, *, push: bool = True, pull: bool = True) -> Result:
    """Synchronise; that the checkpoint cannot be saved shall not count."""
    syncing = ContinuousSync(client.database, client.url, SyncOptions(push=push, pull=pull))
    with suppress(SyncError):
        syncing.wait_idle(60)
    with suppress(SyncError):
        syncing.stop()
    return syncing.result


def test_clients_are_told_to_come_back_and_succeed_later(appliance: Qemu) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    fill(appliance)
    client = appliance.client
    for number in range(DOCUMENTS):
        client.database.save(f"reading-{number}", {"n": number, "text": FILLER})
    refused = as_far_as_it_goes(client, pull=False)
    codes = {failure.refusal.code for failure in refused.push_errors}
    assert codes == {UNAVAILABLE}
    assert all(failure.refusal.is_transient for failure in refused.push_errors)

    appliance.run(f"rm {STATE}/filler {STATE}/rest")
    accepted = client.sync(pull=False)
    assert accepted.push_errors == []
    looking = appliance.client
    assert looking.pull("boiler") == {"setpoint": 21}
    assert len(looking.database.default_collection) == DOCUMENTS + 1


def test_what_is_there_can_be_pulled_meanwhile(appliance: Qemu) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    fill(appliance)
    client = appliance.client
    as_far_as_it_goes(client, push=False)
    assert client.database.get("boiler") == {"setpoint": 21}


def test_the_doctor_says_that_the_disk_is_full(appliance: Qemu) -> None:
    fill(appliance)
    findings = json.loads(appliance.run("edgesync --json doctor", check=False))
    (disk,) = (each for each in findings if each["check"] == "disk")
    assert disk["level"] == "bad"
    assert disk["hint"]


def test_a_service_that_starts_on_a_full_disk_lets_clients_pull(appliance: Qemu) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    appliance.run("systemctl restart edgesyncd")  # what waits to be moved into its place is
    fill(appliance, SERVICE)
    appliance.run("systemctl restart edgesyncd")  # returns when it serves
    client = appliance.client
    as_far_as_it_goes(client, push=False)
    assert client.database.get("boiler") == {"setpoint": 21}
    appliance.run(f"rm {STATE}/filler {STATE}/rest")
    appliance.client.push("pump", {"on": True})


def test_a_service_that_cannot_start_on_a_full_disk_does_once_there_is_room(
    appliance: Qemu,
) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    fill(appliance)  # what root takes of its own is no room for the service, even if it is freed
    appliance.run("systemctl --no-block restart edgesyncd")
    appliance.wait_for(
        lambda: "free some space" in appliance.run("journalctl -q -o cat -u edgesyncd"),
        "it says what it lacks",
    )
    appliance.run(f"rm {STATE}/filler {STATE}/rest")
    appliance.wait_until_it_serves(180)
    assert appliance.client.pull("boiler") == {"setpoint": 21}
