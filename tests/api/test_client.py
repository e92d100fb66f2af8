"""The client of the local API: what it makes of a service that is not there, or refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgesync.api.client import ApiClient, find_socket, path_of
from edgesync.api.places import socket_to_serve, sockets_to_try, state_folder
from edgesync.errors import ApiError, ServiceNotRunningError
from tests.api.box import Box


def test_a_service_that_does_not_run_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ServiceNotRunningError) as caught:
        ApiClient(tmp_path / "none").get("/_edgesync/status")
    assert "systemctl start edgesyncd" in caught.value.hint


@pytest.mark.needs_root
def test_a_user_who_may_not_is_told_how_he_may(box: Box) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from edgesync.api.client import ApiClient\n"
        "from edgesync.errors import NotPermittedError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: ApiClient(Path(sys.argv[1])).status()\n"
        "except NotPermittedError as error: print(error.hint)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(box.socket)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert 'group "edgesync"' in said


def test_a_refusal_brings_reason_and_hint(box: Box) -> None:
    with pytest.raises(ApiError, match='no listener "x"') as caught:
        box.client.listener("x")
    assert caught.value.hint == "there is: test"


def test_names_are_quoted_whatever_is_in_them() -> None:
    assert path_of("db", "a/b ?%ü") == "/db/a%2Fb%20%3F%25%C3%BC"


def test_a_refusal_before_all_is_sent_is_understood(box: Box) -> None:
    big = (b"x" * 1_000_000 for _ in range(25))
    with pytest.raises(ApiError), box.client.open("PUT", "/db/too-large", body=big):
        pass


def test_the_socket_that_is_there_is_found(box: Box) -> None:
    assert find_socket({"STATE_DIRECTORY": str(box.folder / "state")}) == box.socket


def test_the_environment_decides_on_both_sides(tmp_path: Path) -> None:
    environment = {"EDGESYNC_SOCKET": "/a/b"}
    assert socket_to_serve(environment, tmp_path) == Path("/a/b")
    assert list(sockets_to_try(environment)) == [Path("/a/b")]


def test_systemd_decides_where_it_is(tmp_path: Path) -> None:
    environment = {"RUNTIME_DIRECTORY": "/run/x:/run/y"}
    assert socket_to_serve(environment, tmp_path) == Path("/run/x/edgesync.sock")


def test_without_home_the_state_is_that_of_the_user() -> None:
    assert state_folder({}) == Path.home() / ".local/state/edgesync"
    assert state_folder({"HOME": "/h"}) == Path("/h/.local/state/edgesync")


def test_the_client_needs_the_standard_library_alone() -> None:
    program = (
        "import sys; import edgesync.api.client\n"
        "own = {'edgesync'} | set(sys.stdlib_module_names)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - own - {'__main__'}))"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert said == "[]\n"
