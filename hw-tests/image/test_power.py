"""The box that we ship loses its power, or its kernel."""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import suppress

import pytest

from appliance import Appliance
from card import Card, partitions
from cuts import check_ext4, cut_while_pushing, damage, lost
from needs import Record

CUTS = int(os.environ.get("EDGESYNC_IMAGE_POWER_CUTS", "3"))
SEED = int(os.environ.get("EDGESYNC_POWER_CUTS_SEED", "0")) or random.randrange(1, 2**31)


@pytest.mark.timeout(300 * (CUTS + 1))
def test_nothing_is_lost_or_damaged_by_power_cuts(appliance: Appliance, record: Record) -> None:
    fingerprint = appliance.fingerprint()
    client, chance = appliance.client, random.Random(SEED)
    confirmed, boots = 0, []
    for number in range(1, CUTS + 1):
        confirmed += cut_while_pushing(appliance, client, chance)
        if isinstance(appliance, Card):
            check_ext4(appliance.copied_part(*partitions(appliance.copied())["data"]))
        boots.append(appliance.on())
        appliance.wait_for_ssh()
        where = f"cut {number} of {CUTS}, seed {SEED}"
        assert damage(appliance) == [], where
        assert lost(appliance, client) == [], where
        assert appliance.fingerprint() == fingerprint, where
    record("image: power cuts while pushing, nothing lost", CUTS, "cuts")
    record("image: revisions confirmed meanwhile, all there", confirmed, "")
    record("image: boot after a power cut, on average", sum(boots) / len(boots), "s")


def test_a_kernel_that_crashed_is_reset_by_the_board(appliance: Appliance) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    before = appliance.boot_id()
    with suppress(subprocess.TimeoutExpired):  # nobody is left to answer
        appliance.ended("echo c >/proc/sysrq-trigger", timeout_s=5)
    appliance.hang_up()
    appliance.wait_for_boot_after(before)
    appliance.wait_until_it_serves()
    assert appliance.client.pull("boiler") == {"setpoint": 21}
