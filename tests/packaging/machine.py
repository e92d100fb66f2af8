"""A Debian that runs in namespaces of its own, with systemd in it if the processor is ours.

Not systemd-nspawn, which wants a systemd outside, too: `unshare` makes the
namespaces, `pivot_root` the root (a mere chroot may not make the user
namespaces that the sandbox asks for), an overlay keeps the tree as it was.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BOOT = r"""
set -e
echo $$ >"$CGROUP/cgroup.procs"
exec unshare --mount --pid --ipc --uts --net --cgroup --fork sh -ec '
    mount --make-rprivate /
    mount -t overlay -o lowerdir="$LOWER",upperdir="$UPPER",workdir="$WORK" overlay "$ROOT"
    cd "$ROOT"
    hostname trial
    ip link set lo up
    mount -t proc proc proc
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs dev
    mount -t tmpfs -o mode=755 tmpfs run
    for device in null zero full random urandom tty; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/pts dev/shm
    mount -t tmpfs tmpfs dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    pivot_root . .
    umount -l .
    chroot . mount --make-rshared /
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . $INIT
'
"""
SYSTEMD = "/lib/systemd/systemd --log-target=console multi-user.target"
NO_SYSTEMD = "/bin/sleep infinity"
START_TIMEOUT_S = 60.0
MASKED = ("systemd-firstboot", "systemd-udevd", "systemd-modules-load", "console-getty")


class Machine:
    """A machine that is on."""

    def __init__(self, pid: int, root: Path, *, has_systemd: bool) -> None:
        self._pid = pid
        self.root = root
        self.has_systemd = has_systemd

    def run(self, *command: str, check: bool = True, timeout_s: float = 300) -> str:
        """Run a command as root and return what it prints.

        Raises:
            AssertionError: It failed.
        """
        ended = self.ended(*command, timeout_s=timeout_s)
        assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def ended(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as root and return how it ended."""
        return subprocess.run(
            [*self._entered("-a"), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def started(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command and leave it to itself."""
        return subprocess.Popen([*self._entered("-a"), *command], stdin=subprocess.DEVNULL)

    def run_beside(self, *command: str) -> str:
        """Run a command of this machine on that one's loopback, as a client."""
        ended = subprocess.run(
            [*self._entered("-n"), *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def file(self, path: str) -> Path:
        """Return where this machine sees a file of that one, its own mounts included."""
        return Path(f"/proc/{self._pid}/root{path}")

    def _entered(self, namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self._pid), namespaces, "--"]


@contextmanager
def machine(layers: Sequence[Path], folder: Path, *, has_systemd: bool) -> Iterator[Machine]:
    """Switch a machine on.

    Args:
        layers: Its root file system, the upper layers first; they are left as they are.
        folder: Where changes go; `upper` in it is a layer for other machines afterwards.
        has_systemd: Whether to boot; else there is a process that sleeps.
    """
    places = {name: folder / name for name in ("upper", "work", "root")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    mask = places["upper"] / "etc/systemd/system"
    mask.mkdir(parents=True, exist_ok=True)
    for unit in MASKED:  # what there is no hardware for
        with suppress(FileExistsError):
            (mask / f"{unit}.service").symlink_to("/dev/null")
    cgroup = _new_cgroup()
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(
            ["sh", "-c", BOOT],
            env={
                "PATH": os.environ["PATH"],
                "CGROUP": str(cgroup),
                "LOWER": ":".join(map(str, layers)),
                "INIT": SYSTEMD if has_systemd else NO_SYSTEMD,
                **{name.upper(): str(place) for name, place in places.items()},
            },
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
    try:
        on = Machine(_first_process(process), places["root"], has_systemd=has_systemd)
        _wait_until_up(on)
        yield on
    finally:
        for pid in _children(process.pid):
            os.kill(pid, 9)  # the first of a PID namespace takes all others along
        process.wait(timeout=20)
        _remove(cgroup)


def _new_cgroup() -> Path:
    mounts = Path("/proc/mounts").read_text().splitlines()
    where = next(fields[1] for line in mounts if (fields := line.split())[2] == "cgroup2")
    return Path(tempfile.mkdtemp(prefix="edgesync-", dir=where))


def _remove(cgroup: Path) -> None:
    for below in sorted(cgroup.rglob("*"), reverse=True):
        if below.is_dir():
            below.rmdir()
    cgroup.rmdir()


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _first_process(unshare: subprocess.Popen[bytes]) -> int:
    """Return what runs as number 1 over there, once it is what it will be."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert unshare.poll() is None, "the machine did not start; see its console"
        for child in _children(unshare.pid):
            # The last step is a root of its own with nothing of this machine's in it.
            if Path(f"/proc/{child}/comm").read_text().strip() in ("systemd", "sleep"):
                return child
        time.sleep(0.05)
    raise AssertionError("the machine did not start in time")


def _wait_until_up(on: Machine) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while on.has_systemd and time.monotonic() < deadline:
        state = on.run("systemctl", "is-system-running", check=False).strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.2)
    assert not on.has_systemd, "systemd did not come up in time"
