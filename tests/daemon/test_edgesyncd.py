"""The command as a process: what it says, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

import edgesync
from edgesync.api.client import state_folder

COMMAND = (sys.executable, "-m", "edgesync.daemon.edgesyncd")
LISTENER = '[listener.local]\ninterface = "127.0.0.1"\nport = 0\n'
PLAIN = f"{LISTENER}disable_tls = true\n"
TRY_AGAIN = b"\x0f\xa1"  # 4001


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "STATE_DIRECTORY": str(folder / "state"), **more}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def written(folder: Path, text: str) -> str:
    path = folder / "edgesync.toml"
    path.write_text(text)
    return str(path)


class Running:
    """An edgesyncd that has said what it serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said = self._read_announcement()

    def _read_announcement(self) -> str:
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if line.startswith("look around with"):
                return said
        raise AssertionError(self._process.communicate()[1])

    @property
    def port(self) -> int:
        found = re.search(r"wss?://127\.0\.0\.1:(\d+)/", self.said)
        assert found is not None
        return int(found[1])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Return the exit code and what was logged."""
        self._process.send_signal(number)
        _, logged = self._process.communicate(timeout=15)
        return self._process.returncode, logged

    def connect(self) -> socket.socket:
        """Return the socket of a client that is past the upgrade."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=15)
        client.sendall(
            b"GET /db/_blipsync HTTP/1.1\r\nHost: edgesync\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: BLIP_3+CBMobile_3\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += client.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return client


@contextmanager
def running(
    folder: Path, text: str, *, command: Sequence[str] = COMMAND, **more: str
) -> Iterator[Running]:
    process = subprocess.Popen(
        [*command, "--config", written(folder, text)],
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.communicate()


def test_it_says_which_url_to_give_to_a_client(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN) as service:
        assert f'listener "local": ws://127.0.0.1:{service.port}/db' in service.said


def test_it_says_how_to_look_around(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN) as service:
        assert "look around with: edgesync status\n" in service.said


def test_it_says_where_the_command_is_if_a_shell_would_not_find_it(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    command = [str(scripts / "edgesyncd")]
    with running(tmp_path, PLAIN, command=command, PATH=str(tmp_path)) as service:
        assert f"look around with: {scripts}/edgesync status\n" in service.said
    with running(tmp_path, PLAIN, command=command, PATH=str(scripts)) as service:
        assert "look around with: edgesync status\n" in service.said


def test_the_environment_says_where_its_socket_is(tmp_path: Path) -> None:
    socket_path = str(tmp_path / "own.sock")
    with running(tmp_path, PLAIN, EDGESYNC_SOCKET=socket_path) as service:
        assert "look around with: edgesync status\n" in service.said
        assert Path(socket_path).exists()


def test_it_says_the_fingerprint_of_the_certificate_it_shows(tmp_path: Path) -> None:
    with running(tmp_path, LISTENER) as service:
        pem = ssl.get_server_certificate(("127.0.0.1", service.port), timeout=15)
        fingerprint = sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        assert fingerprint in service.said.replace(":", "").lower()


def test_databases_are_below_the_state_folder(tmp_path: Path) -> None:
    with running(tmp_path, f"[database.stock]\n{PLAIN}"):
        (found,) = (tmp_path / "state/databases").iterdir()
        assert found.name.startswith("stock.")


def test_the_state_is_closed_to_other_users(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN):
        assert (tmp_path / "state/databases").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, PLAIN) as service:
        assert service.stop(number)[0] == 0


def test_clients_are_told_to_come_back_when_it_stops(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN) as service, service.connect() as client:
        os.kill(service._process.pid, signal.SIGTERM)
        received = client.recv(1000)
        assert received[0] == 0x88
        assert received[2:4] == TRY_AGAIN


def test_a_client_that_does_not_answer_delays_the_end_by_less_than_10_s(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN) as service, service.connect():
        began = time.monotonic()
        code, _ = service.stop()
        assert code == 0
        assert time.monotonic() - began < 10


def test_systemd_hears_of_start_life_and_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(10)
        manager.bind(str(tmp_path / "notify"))
        more = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with running(tmp_path, PLAIN, **more) as service:
            assert manager.recv(1000).startswith(b"READY=1\nSTATUS=listeners: 1, clients: 0")
            assert manager.recv(1000) == b"WATCHDOG=1"
            with service.connect():
                while (told := manager.recv(1000)) == b"WATCHDOG=1":
                    pass
                assert told.startswith(b"STATUS=listeners: 1, clients: 1")
            service.stop()
            told = b""
            while told != b"STOPPING=1":
                told = manager.recv(1000)


def test_the_log_in_a_terminal_has_a_time(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN) as service:
        service.connect().close()
        _, logged = service.stop()
        assert re.search(r"^\d{4}-\d\d-\d\d .* INFO 127\.0\.0\.1:\d+: connected", logged, re.M)


def test_a_second_one_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, PLAIN):
        second = run(tmp_path, "--config", written(tmp_path, PLAIN))
        assert second.returncode == 1
        assert re.fullmatch(r"edgesyncd: .*is open already.*\n", second.stderr)


def test_a_busy_port_is_named_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = PLAIN.replace("port = 0", f"port = {port}")
        ended = run(tmp_path, "--config", written(tmp_path, text))
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"edgesyncd: port {port} on 127.0.0.1 is in use; ")
        assert ended.stderr.count("\n") == 1


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file is in the way")
    ended = run(tmp_path, "--config", written(tmp_path, PLAIN))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"edgesyncd: the folder {tmp_path}/state")
    assert ended.stderr.count("\n") == 1


def test_check_is_content_with_a_good_file(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    ended = run(tmp_path, "--config", path, "--check")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{path}: ok\n", "")


def test_check_leaves_no_trace(tmp_path: Path) -> None:
    run(tmp_path, "--config", written(tmp_path, PLAIN), "--check")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[database.'a/b']", "database.a/b"),
        ("[database.x]\ncollections = ['a b']", "database.x.collections"),
        ("[listener.x]\ncollections = ['items']", "listener.x.collections"),
        ("[listener.x]\nspeed = 3", "listener.x.speed"),
    ],
)
def test_check_names_file_and_key_of_what_is_wrong(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    ended = run(tmp_path, "--config", path, "--check")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"edgesyncd: {path}: {key}")
    assert "; " in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    assert run(tmp_path, "--fast").returncode == 2


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"edgesyncd {edgesync.__version__}\n"


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"STATE_DIRECTORY": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"STATE_DIRECTORY": "/a:/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/edgesync"),
        ({"XDG_STATE_HOME": "relative"}, str(Path.home() / ".local/state/edgesync")),
        ({}, str(Path.home() / ".local/state/edgesync")),
    ],
)
def test_the_state_folder_is_what_the_environment_says(given: dict[str, str], folder: str) -> None:
    assert state_folder(given) == Path(folder)
