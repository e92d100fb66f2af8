"""What a package promises, on every processor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.packaging.machine import Machine

URL = "wss://127.0.0.1:4984/db"
START_TIMEOUT_S = 120.0  # under emulation
LISTENS = " 0100007F:1378 00000000:0000 0A "  # 127.0.0.1:4984, as /proc/net/tcp writes it

ASK_FINGERPRINT = """
import hashlib, ssl
pem = ssl.get_server_certificate(("127.0.0.1", 4984), timeout=30)
print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest())
"""
MAKE_KEY = """
[ -d /opt/key ] || {
    mkdir /opt/key
    head -c 32 /dev/urandom >/opt/key/edgesync.key
    chown -R edgesync /opt/key
    chmod -R go= /opt/key
}
"""

START = """
echo $$ >/root/pid
exec setpriv --reuid=edgesync --regid=edgesync --clear-groups --reset-env \\
    env STATE_DIRECTORY=/var/lib/edgesync CREDENTIALS_DIRECTORY=/opt/key \\
    /usr/bin/edgesyncd --config /etc/edgesync/edgesync.toml
"""


@contextmanager
def serving(box: Machine) -> Iterator[None]:
    """Have the service run: systemd does it, or we as it would."""
    if box.has_systemd:
        wait_until_it_serves(box)
        yield
        return
    box.run("sh", "-ec", MAKE_KEY)
    process = box.started("sh", "-ec", START)
    try:
        wait_until_it_serves(box)
        yield
    finally:
        box.run("sh", "-ec", 'kill "$(cat /root/pid)"')
        assert process.wait(timeout=60) == 0


def wait_until_it_serves(box: Machine) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while LISTENS not in box.file("/proc/1/net/tcp").read_text():
        assert time.monotonic() < deadline, "nobody listens"
        time.sleep(0.1)


def push(box: Machine, folder: Path, **documents: object) -> None:
    folder.mkdir()
    for name, body in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    box.run_beside(sys.executable, "-m", "tests.active_peer", "push", URL, str(folder))


def pull(box: Machine, folder: Path) -> dict[str, object]:
    folder.mkdir()
    box.run_beside(sys.executable, "-m", "tests.active_peer", "pull", URL, str(folder))
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    found.pop(".active_peer", None)
    return found


def fingerprint(box: Machine) -> str:
    """Return that of the certificate that clients see."""
    return box.run_beside(sys.executable, "-c", ASK_FINGERPRINT)


def newer(package: Path, folder: Path) -> Path:
    """Make the package's next version."""
    content, made = folder / "content", folder / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", package, content], check=True, timeout=60)
    control = content / "DEBIAN/control"
    control.write_text(control.read_text().replace("Version: ", "Version: 1:", 1))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", content, made],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return made


def test_a_client_pushes_and_pulls(box: Machine, tmp_path: Path) -> None:
    with serving(box):
        push(box, tmp_path / "from", boiler={"setpoint": 21.5, "name": "Füllstand"})
        assert pull(box, tmp_path / "to") == {"boiler": {"setpoint": 21.5, "name": "Füllstand"}}


def test_the_command_finds_the_service(box: Machine) -> None:
    with serving(box):
        socket = [] if box.has_systemd else ["--socket", "/var/lib/edgesync/edgesync.sock"]
        status = json.loads(box.run("edgesync", *socket, "--json", "status"))
        assert [each["name"] for each in status["listeners"]] == ["local"]


def test_an_upgrade_keeps_documents_and_identity(
    box: Machine, package: Path, tmp_path: Path
) -> None:
    with serving(box):
        push(box, tmp_path / "from", boiler={"setpoint": 21})
        before = fingerprint(box)
    shutil.copy(newer(package, tmp_path), box.file("/root/newer.deb"))
    box.run("dpkg", "--install", "/root/newer.deb")
    assert box.run("dpkg-query", "-Wf", "${Version}", "edgesync").startswith("1:")
    with serving(box):
        assert pull(box, tmp_path / "to") == {"boiler": {"setpoint": 21}}
        assert fingerprint(box) == before


def test_an_upgrade_keeps_an_edited_configuration(
    box: Machine, package: Path, tmp_path: Path
) -> None:
    box.file("/etc/edgesync/edgesync.toml").write_text("[database.mine]\n")
    shutil.copy(newer(package, tmp_path), box.file("/root/newer.deb"))
    box.run("dpkg", "--install", "/root/newer.deb")
    assert box.file("/etc/edgesync/edgesync.toml").read_text() == "[database.mine]\n"


def test_removing_keeps_documents_and_configuration(box: Machine, tmp_path: Path) -> None:
    with serving(box):
        push(box, tmp_path / "from", boiler={"setpoint": 21})
    box.run("dpkg", "--remove", "edgesync")
    kept = box.run("find", "/etc/edgesync", "/var/lib/edgesync", "-type", "f")
    assert "/etc/edgesync/edgesync.toml" in kept
    assert "/var/lib/edgesync/databases/db.edgesync/database.sqlite3" in kept


def test_nothing_is_left_after_purging(box: Machine, tmp_path: Path) -> None:
    with serving(box):
        push(box, tmp_path / "from", boiler={"setpoint": 21})
    box.run("dpkg", "--purge", "edgesync")
    left = box.run("find", "/etc", "/usr", "/var", "/run", "-name", "*edgesync*")
    assert left == ""
