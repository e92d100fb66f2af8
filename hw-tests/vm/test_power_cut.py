"""A box that loses its power while it works."""

from __future__ import annotations

import os
import random

import pytest

from cuts import check_ext4, cut_while_pushing, damage, lost
from needs import Record
from qemu import Qemu

CUTS = int(os.environ.get("EDGESYNC_POWER_CUTS", "20"))
SEED = int(os.environ.get("EDGESYNC_POWER_CUTS_SEED", "0")) or random.randrange(1, 2**31)
DATA = 1  # the second disk


def test_acknowledged_revision_survives_a_power_cut(appliance: Qemu) -> None:
    appliance.client.push("boiler", {"setpoint": 21})
    appliance.off()
    appliance.on()
    assert appliance.client.pull("boiler") == {"setpoint": 21}


@pytest.mark.timeout(200 * (CUTS + 1))
def test_nothing_is_lost_or_damaged_by_power_cuts_at_random_moments(
    appliance: Qemu, record: Record
) -> None:
    fingerprint = appliance.fingerprint()
    client, chance = appliance.client, random.Random(SEED)
    print(f"seed {SEED}")
    confirmed, boots = 0, []
    for number in range(1, CUTS + 1):
        confirmed += cut_while_pushing(appliance, client, chance)
        check_ext4(appliance.copied(DATA))
        boots.append(appliance.on())
        appliance.wait_for_ssh()
        where = f"cut {number} of {CUTS}, seed {SEED}"
        assert damage(appliance) == [], where
        assert lost(appliance, client) == [], where
        assert appliance.fingerprint() == fingerprint, where
        print(f"{where}: {confirmed} revisions confirmed so far, up after {boots[-1]:.0f} s")
    record("vm: power cuts while pushing, nothing lost", CUTS, "cuts")
    record("vm: revisions confirmed meanwhile, all there", confirmed, "")
    record("vm: boot after a power cut, on average", sum(boots) / len(boots), "s")
