"""What the service costs on a small board: memory when idle, processor time for a document.

Processor times are those of an emulated processor: they compare with each other and with
those of other runs on the same computer, not with a board's.
"""

from __future__ import annotations

from needs import Record
from qemu import Qemu

DOCUMENTS = 2_000
MAX_IDLE_MB = 100.0
CGROUP = "/sys/fs/cgroup/system.slice/edgesyncd.service"
PSS = "cat /proc/$(systemctl show --value --property=MainPID edgesyncd)/smaps_rollup"


def kilobytes(lines: str, name: str) -> int:
    (found,) = (line.split()[1] for line in lines.splitlines() if line.startswith(f"{name}:"))
    return int(found)


def cpu_s(appliance: Qemu) -> float:
    lines = dict(line.split() for line in appliance.run(f"cat {CGROUP}/cpu.stat").splitlines())
    return int(lines["usage_usec"]) / 1e6


def test_memory_when_idle(appliance: Qemu, record: Record) -> None:
    rollup = appliance.run(PSS)
    pss_mb, anonymous_mb = kilobytes(rollup, "Pss") / 1024, kilobytes(rollup, "Anonymous") / 1024
    record("vm: memory of the idle service: PSS", pss_mb, "MiB")
    record("vm: memory of the idle service: of this, its own pages", anonymous_mb, "MiB")
    in_cgroup_mb = int(appliance.run(f"cat {CGROUP}/memory.current")) / 2**20
    record("vm: memory of the idle service: its cgroup, file cache too", in_cgroup_mb, "MiB")
    assert pss_mb < MAX_IDLE_MB


def test_processor_time_of_a_document(appliance: Qemu, record: Record) -> None:
    client = appliance.client
    for number in range(DOCUMENTS):
        client.database.save(
            f"reading-{number}", {"n": number, "unit": "°C", "at": "cellar", "text": "x" * 150}
        )
    before = cpu_s(appliance)
    assert client.sync(pull=False).pushed == DOCUMENTS
    pushed = cpu_s(appliance)
    assert appliance.client.sync(push=False).pulled == DOCUMENTS
    pulled = cpu_s(appliance)
    record("vm: processor time of a pushed document", (pushed - before) / DOCUMENTS * 1000, "ms")
    record("vm: processor time of a pulled document", (pulled - pushed) / DOCUMENTS * 1000, "ms")
    record("vm: PSS after that", kilobytes(appliance.run(PSS), "Pss") / 1024, "MiB")
