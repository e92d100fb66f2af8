"""What hangs is started anew: the service by systemd, the kernel by the board."""

from __future__ import annotations

import subprocess
from contextlib import suppress

from needs import Record
from qemu import Qemu

SERVICE_TIMEOUT_S = 120.0  # WatchdogSec=, TimeoutStopSec=, and a start
RESET_BY_WATCHDOG = "32"


def test_a_service_that_hangs_is_started_anew(appliance: Qemu, record: Record) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    before = appliance.run("systemctl show --value --property=MainPID edgesyncd")
    appliance.run("kill -STOP $(systemctl show --value --property=MainPID edgesyncd)")
    seconds = appliance.wait_for(
        lambda: (
            appliance.fingerprint()
            and appliance.run("systemctl show --value --property=MainPID edgesyncd") != before
        ),
        "another process serves",
        SERVICE_TIMEOUT_S,
    )
    record("vm: a stopped service, until another one serves", seconds, "s")
    assert "watchdog" in appliance.run("journalctl -q -o cat -u edgesyncd")
    assert appliance.client.pull("boiler") == {"setpoint": 21}


def test_a_kernel_that_crashed_is_reset_by_the_board(appliance: Qemu, record: Record) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    before = appliance.boot_id()
    with suppress(subprocess.TimeoutExpired):  # nobody is left to answer
        appliance.ended("echo c >/proc/sysrq-trigger", timeout_s=5)
    appliance.hang_up()
    seconds = appliance.wait_for_boot_after(before)
    record("vm: a crashed kernel, until one can log in again", seconds, "s")
    bootstatus = appliance.run("cat /sys/class/watchdog/watchdog0/bootstatus")
    assert bootstatus.strip() == RESET_BY_WATCHDOG
    appliance.wait_until_it_serves()
    assert appliance.client.pull("boiler") == {"setpoint": 21}
