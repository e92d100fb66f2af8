"""A board without a battery: it wakes up in the past."""

from __future__ import annotations

import json
import time

from qemu import Power, Qemu

DAY_S = 86_400


def test_it_serves_with_a_clock_of_1970(appliance: Qemu) -> None:
    fingerprint = appliance.fingerprint()
    appliance.client.push("boiler", {"setpoint": 21})
    # Debian keeps the last known time; a new card has none, and then counts from its systemd's age.
    appliance.run("rm -f /var/lib/systemd/timesync/clock; sync")
    appliance.off()
    appliance.power(Power(rtc="1970-01-01"))
    appliance.wait_until_it_serves()
    now_s = int(appliance.run("date +%s"))
    assert now_s < time.time() - DAY_S, "the clock was right all the same"
    assert appliance.fingerprint() == fingerprint
    client = appliance.client
    assert client.pull("boiler") == {"setpoint": 21}
    client.push("boiler", {"setpoint": 22})
    findings = json.loads(appliance.run("edgesync --json doctor", check=False))
    clock = [each for each in findings if each["check"] in ("clock", "time server")]
    assert all(each["level"] != "ok" for each in clock), clock
    assert all(each["hint"] for each in clock)
    # The time comes while it runs, as from a time server.
    appliance.run(f"date --set=@{time.time():.0f}")
    assert appliance.client.pull("boiler") == {"setpoint": 22}
    assert appliance.fingerprint() == fingerprint
