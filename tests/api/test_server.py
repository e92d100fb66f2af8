"""The socket: who may use it, what it refuses, what it bears."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.api.box import Box


def test_the_socket_is_for_owner_and_group(box: Box) -> None:
    mode = box.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_plain_curl_can_use_it(box: Box) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    command = [curl, "-sS", "--unix-socket", str(box.socket), "-d", '{"n": 1}', "http://x/db/"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert '"ok":true' in said


def test_an_unknown_path_is_told_as_json(box: Box) -> None:
    reply = box.ask("PATCH", "/db")
    assert reply.status == 405
    assert set(reply.json) == {"error", "reason", "hint"}


def test_a_connection_serves_one_request_after_the_other(box: Box) -> None:
    connection = box.connection()
    for number in range(3):
        connection.request("PUT", f"/db/kept-alive-{number}", body=b"{}")
        response = connection.getresponse()
        assert response.status == 201
        response.read()
    connection.close()


def test_requests_at_once_are_served_at_once(box: Box) -> None:
    waiting = [box.connection() for _ in range(20)]
    for connection in waiting:
        connection.request("GET", "/db/_changes?feed=longpoll&since=now&timeout=20000")
    began = time.monotonic()
    assert box.ask("GET", "/_edgesync/status").status == 200
    assert time.monotonic() - began < 2
    for connection in waiting:
        connection.close()


def test_who_says_nothing_is_cut_off(tmp_path: Path) -> None:
    with Box(tmp_path, settings="[limits]\napi_idle_timeout_s = 0.5") as box:
        silent = box.connection()
        silent.sock.sendall(b"GET /db")
        assert silent.sock.recv(1000) == b""
        silent.close()
        slow = box.connection()
        slow.putrequest("PUT", "/db/slow")
        slow.putheader("Content-Length", "100")
        slow.endheaders()
        slow.send(b"{")
        assert slow.getresponse().status == 400
        slow.close()
        assert box.ask("GET", "/db").status == 200


def test_more_connections_than_allowed_wait(tmp_path: Path) -> None:
    with Box(tmp_path, settings="[limits]\nmax_api_connections = 2") as box:
        open_ones = [box.connection() for _ in range(2)]
        for connection in open_ones:
            connection.request("GET", "/db")
            connection.getresponse().read()
        late = box.connection()
        late.sock.settimeout(0.5)
        late.request("GET", "/db")
        with pytest.raises(TimeoutError):
            late.getresponse()
        open_ones[0].close()
        late.sock.settimeout(10)
        assert late.sock.recv(8) == b"HTTP/1.1"
        late.close()
        open_ones[1].close()


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    box = Box(tmp_path)
    with box:
        box.kill()
        assert box.socket.exists()
    with box:
        assert box.ask("GET", "/db").status == 200
        assert box.stop() == 0
    assert not box.socket.exists()


def test_a_socket_that_is_served_is_not_taken(box: Box, tmp_path: Path) -> None:
    ended = start(tmp_path, box.socket)
    assert ended.returncode == 1
    assert "another edgesyncd does" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert box.ask("GET", "/db").status == 200


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("mine")
    ended = start(tmp_path, path)
    assert ended.returncode == 1
    assert path.read_text() == "mine"


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    ended = start(tmp_path, tmp_path / ("x" * 120))
    assert "too long" in ended.stderr
    assert "EDGESYNC_SOCKET" in ended.stderr


def start(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    config = folder / "other.toml"
    config.write_text('[listener.x]\ninterface = "127.0.0.1"\nport = 0\n')
    return subprocess.run(
        [sys.executable, "-m", "edgesync.daemon.edgesyncd", "--config", str(config)],
        env={
            **os.environ,
            "STATE_DIRECTORY": str(folder / "other"),
            "EDGESYNC_SOCKET": str(path),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_garbage_harms_nobody(box: Box) -> None:
    for garbage in (b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 100_000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(10)
            client.connect(str(box.socket))
            try:
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                client.recv(1000)
            except ConnectionError:
                pass  # it hung up before we were done
    assert box.ask("GET", "/db").status == 200
    assert "Traceback" not in box.log
