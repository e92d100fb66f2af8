"""The units under the whole of Debian's systemd and kernel, on the processor of the boards."""

from __future__ import annotations

import json

from needs import Record
from qemu import Qemu

UNITS = ("edgesyncd.service", "edgesync-key.service")
MAX_EXPOSURE = 1.5


def test_an_outside_client_pushes_and_pulls(appliance: Qemu) -> None:
    appliance.client.push("boiler", {"setpoint": 21.5, "name": "Füllstand"})
    assert appliance.client.pull("boiler") == {"setpoint": 21.5, "name": "Füllstand"}


def test_status_tells_of_the_listeners(appliance: Qemu) -> None:
    status = json.loads(appliance.run("edgesync --json status"))
    states = {each["name"]: each["state"] for each in status["listeners"]}
    assert states == {"field": "serving", "lan": "serving"}


def test_the_doctor_finds_nothing_that_is_bad(appliance: Qemu) -> None:
    findings = json.loads(appliance.run("edgesync --json doctor"))
    assert [each for each in findings if each["level"] == "bad"] == []


def test_no_unit_failed(appliance: Qemu) -> None:
    assert appliance.run("systemctl --failed --plain --no-legend") == ""


def test_the_service_is_active(appliance: Qemu) -> None:
    assert appliance.run("systemctl is-active edgesyncd").strip() == "active"


def test_nothing_was_complained_about(appliance: Qemu) -> None:
    assert appliance.run("journalctl -q -o cat -p warning -u edgesyncd") == ""


def test_the_sandbox_is_tight_under_this_kernel(appliance: Qemu) -> None:
    for unit in UNITS:
        overview = appliance.run(f"systemd-analyze security --no-pager {unit}").splitlines()
        exposure = float(overview[-1].split(":")[1].split()[0])
        assert exposure <= MAX_EXPOSURE, overview[-1]


def test_it_serves_after_an_orderly_restart(appliance: Qemu, record: Record) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    record("vm: orderly restart, from the command to serving", appliance.reboot(), "s")
    assert appliance.client.pull("boiler") == {"setpoint": 21}
    assert appliance.run("systemctl --failed --plain --no-legend") == ""
