"""What becomes of listeners, databases and clients when the configuration file has changed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgesync.errors import ApiError
from tests.active_peer.peer_database import PeerDatabase
from tests.active_peer.sync import ContinuousSync, sync
from tests.integration.service import free_port
from tests.net.tls_clients import authorities, pem_of
from tests.security.service import Box
from tests.waiting import eventually

RELOADED = "the configuration was reloaded"
REFUSED = "the configuration was not reloaded"


def listener(name: str, port: int, **keys: str) -> str:
    lines = [f"{key} = {value}" for key, value in keys.items()]
    header = f'[listener.{name}]\ninterface = "127.0.0.1"\nport = {port}\ndisable_tls = true\n'
    return header + "\n".join(lines) + "\n"


def write(box: Box, text: str) -> None:
    """Replace the file at once: one that is half written may be read, too."""
    new = box.config.with_suffix(".new")
    new.write_text(text)
    new.replace(box.config)


def reload(box: Box, text: str) -> str:
    """Have a service take another configuration; return what it logged about that."""
    before = box.log
    write(box, text)
    os.kill(box.pid, signal.SIGHUP)
    eventually(lambda: bool(re.search(f"{RELOADED}|{REFUSED}", box.log[len(before) :])))
    return box.log[len(before) :]


def states(box: Box) -> dict[str, str]:
    return {each["name"]: each["state"] for each in box.api.listeners()}


@contextmanager
def client_of(port: int, database: str = "db") -> Iterator[tuple[PeerDatabase, ContinuousSync]]:
    """Return a client that stays connected."""
    here = PeerDatabase()
    with ContinuousSync(here, f"ws://127.0.0.1:{port}/{database}") as syncing:
        syncing.wait_idle()
        yield here, syncing


@contextmanager
def undisturbed(box: Box, port: int, database: str = "db") -> Iterator[None]:
    """Have a client of a listener that must stay connected, and go on syncing."""
    with client_of(port, database) as (here, syncing):
        connections = {each["id"] for each in box.api.connections()}
        yield
        assert connections <= {each["id"] for each in box.api.connections()}
        here.save("after", {"n": 1})
        syncing.wait_for(lambda: syncing.result.pushed == 1)
        assert syncing.error is None


def pushes(port: int, database: str = "db") -> bool:
    here = PeerDatabase()
    here.save("new", {"n": 1})
    return sync(here, f"ws://127.0.0.1:{port}/{database}", pull=False).pushed == 1


# --- listeners ----------------------------------------------------------------------------


def test_a_listener_without_changes_keeps_its_clients_while_others_come_change_and_go(
    tmp_path: Path,
) -> None:
    field, yard = free_port(), free_port()
    text = listener("field", field)
    with Box(tmp_path, text) as box, undisturbed(box, field):
        assert f'{RELOADED}: started listener "yard"' in reload(box, text + listener("yard", yard))
        assert pushes(yard)
        changed = reload(box, text + listener("yard", yard, read_only="true"))
        assert f'{RELOADED}: restarted listener "yard"' in changed
        assert box.api.listener("yard")["read_only"]
        assert f'{RELOADED}: stopped listener "yard"' in reload(box, text)
        assert states(box) == {"field": "serving"}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", yard))


def test_a_changed_listener_takes_its_clients_back(tmp_path: Path) -> None:
    port = free_port()
    with Box(tmp_path, listener("field", port)) as box:
        here = PeerDatabase()
        url = f"ws://127.0.0.1:{port}/db"
        with ContinuousSync(here, url, retry_after_s=0.05) as syncing:
            syncing.wait_idle()
            reload(box, listener("field", port, enable_delta_sync="true"))
            here.save("after", {"n": 1})
            syncing.wait_for(lambda: syncing.result.pushed == 1)
        assert box.api.listener("field")["delta_sync"]


def test_clients_come_back_when_a_listener_is_restarted_by_command(tmp_path: Path) -> None:
    port = free_port()
    with Box(tmp_path, listener("field", port)) as box:
        here = PeerDatabase()
        with ContinuousSync(here, f"ws://127.0.0.1:{port}/db", retry_after_s=0.05) as syncing:
            syncing.wait_idle()
            box.api.send("POST", "/_edgesync/listeners/field/restart")
            here.save("after", {"n": 1})
            syncing.wait_for(lambda: syncing.result.pushed == 1)


def test_clients_of_a_removed_listener_do_not_come_back(tmp_path: Path) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}/db"
    with (
        Box(tmp_path, listener("field", port)) as box,
        ContinuousSync(PeerDatabase(), url, retry_after_s=0.05) as syncing,
    ):
        syncing.wait_idle()
        reload(box, listener("yard", free_port()))
        syncing.join()
        assert syncing.error is not None
        assert syncing.error.close_code == 1001


def test_announcing_begins_and_ends_without_a_restart(tmp_path: Path) -> None:
    port = free_port()
    text = listener("field", port, advertise="false")
    with Box(tmp_path, text) as box, undisturbed(box, port):
        told = reload(box, text.replace("false", "true"))
        assert "restarted" not in told
        assert "restarted" not in reload(box, text)


def test_a_listener_keeps_its_certificate_when_it_is_restarted(tmp_path: Path) -> None:
    text = listener("field", free_port()).replace("disable_tls = true", "")
    with Box(tmp_path, text) as box:
        before = box.api.listener("field")["fingerprint"]
        reload(box, text + "read_only = true\n")
        assert box.api.listener("field")["fingerprint"] == before


def test_the_port_of_a_removed_listener_is_free_for_another(tmp_path: Path) -> None:
    port = free_port()
    with Box(tmp_path, listener("field", port)) as box:
        reload(box, listener("yard", port))
        assert states(box) == {"yard": "serving"}
        assert pushes(port)


def test_a_listener_whose_port_is_taken_is_told_of_and_tried_again(tmp_path: Path) -> None:
    field, taken = free_port(), socket.create_server(("127.0.0.1", 0))
    yard = taken.getsockname()[1]
    text = listener("field", field)
    with taken, Box(tmp_path, text) as box, undisturbed(box, field):
        reload(box, text + listener("yard", yard))
        assert states(box) == {"field": "serving", "yard": "stopped"}
        taken.close()
        reload(box, text + listener("yard", yard))
        assert states(box) == {"field": "serving", "yard": "serving"}


def test_files_with_client_roots_are_read_anew(tmp_path: Path) -> None:
    one, other = authorities(1), authorities(1)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(pem_of(one))
    text = f"{listener('field', free_port())}[listener.door]\n" + (
        f'interface = "127.0.0.1"\nport = {free_port()}\n'
        'authenticator = "certificate"\nclient_roots = ["roots.pem"]\n'
    )
    with Box(tmp_path, text) as box:
        assert "nothing to stop or start" in reload(box, text)
        roots.write_bytes(pem_of(other))
        assert f'{RELOADED}: restarted listener "door"\n' in reload(box, text)
        roots.write_bytes(b"no certificate")
        assert "roots.pem: " in reload(box, text)
        assert states(box) == {"field": "serving", "door": "serving"}


# --- databases ----------------------------------------------------------------------------


def test_databases_come_and_go_with_their_listeners(tmp_path: Path) -> None:
    field, yard = free_port(), free_port()
    text = "[database.db]\n" + listener("field", field, database='"db"')
    more = "[database.yard]\n" + listener("yard", yard, database='"yard"')
    with Box(tmp_path, text) as box, undisturbed(box, field):
        reload(box, text + more)
        assert pushes(yard, "yard")
        reload(box, text)
        assert [each["name"] for each in box.api.databases()] == ["db"]
        reload(box, text + more)
        (found,) = box.api.database("yard")["collections"]
        assert found == {"keyspace": "yard", "documents": 1}


def test_a_new_collection_is_made_and_named_listeners_stay(tmp_path: Path) -> None:
    port = free_port()
    door = listener("field", port, collections='["_default"]')
    text = f'[database.db]\ncollections = ["_default"]\n{door}'
    with Box(tmp_path, text) as box, undisturbed(box, port):
        told = reload(box, text.replace('["_default"]', '["_default", "inventory.items"]', 1))
        assert "restarted" not in told
        keyspaces = [each["keyspace"] for each in box.api.database("db")["collections"]]
        assert keyspaces == ["db", "db.inventory.items"]


def test_a_listener_of_all_collections_serves_the_new_one(tmp_path: Path) -> None:
    door = listener("field", free_port())
    with Box(tmp_path, f"[database.db]\n{door}") as box:
        reload(box, f'[database.db]\ncollections = ["_default", "inventory.items"]\n{door}')
        assert "inventory.items" in box.api.listener("field")["collections"]


def test_a_database_that_cannot_be_made_does_not_disturb_the_others(tmp_path: Path) -> None:
    """The folder takes no writes any more, as on a card that the system has made read-only."""
    port = free_port()
    text = "[database.db]\n" + listener("field", port, database='"db"')
    more = "[database.yard]\n" + listener("yard", free_port(), database='"yard"')
    box = Box(tmp_path, text)
    if os.getuid() == 0:  # who may write in spite of that
        box.launcher = ("setpriv", "--bounding-set=-dac_override")
    with box, undisturbed(box, port):
        (box.state / "databases").chmod(0o500)
        told = reload(box, text + more)
        assert 'database "yard" is not as configured: the file system does not take' in told
        assert states(box) == {"field": "serving", "yard": "stopped"}
        reload(box, text)  # what needs no writing is done
        assert states(box) == {"field": "serving"}
        (box.state / "databases").chmod(0o700)
        reload(box, text + more)
        assert states(box) == {"field": "serving", "yard": "serving"}


# --- what changes nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("[listener.field]\nprt = 1\n", "listener.field.prt is not a key"),
        ("[listener", "at end of document"),
        ("[database.a]\n[database.b]\n", "listener is missing"),
        ("[database.'a/b']\n", "database.a/b"),
        ("[database.db]\ncollections = ['a b']\n", "database.db.collections"),
        ("[listener.x]\nport = 0\ncollections = ['nosuch']\n", "listener.x.collections"),
        ("[key_store]\nunlock = 'file:nosuch'\n", "the unlock key"),
    ],
)
def test_a_broken_file_changes_nothing(tmp_path: Path, broken: str, why: str) -> None:
    port = free_port()
    with Box(tmp_path, listener("field", port)) as box, undisturbed(box, port):
        databases = sorted((box.state / "databases").iterdir())
        told = reload(box, broken)
        assert re.search(f"ERROR {REFUSED}, .*{re.escape(why)}.*; ", told)
        assert sorted((box.state / "databases").iterdir()) == databases
        (problem,) = box.api.status()["config_problems"]
        assert why in problem
        assert problem in box.api.status()["problems"]


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    port = free_port()
    with Box(tmp_path, listener("field", port)) as box, undisturbed(box, port):
        box.config.unlink()
        os.kill(box.pid, signal.SIGHUP)
        eventually(lambda: REFUSED in box.log)
        assert "cannot be read: No such file" in box.log


def test_a_corrected_file_ends_the_complaint(tmp_path: Path) -> None:
    text = listener("field", free_port())
    with Box(tmp_path, text) as box:
        reload(box, "[listener")
        reload(box, text)
        assert box.api.status()["config_problems"] == []


def test_what_takes_effect_at_the_next_start_is_said(tmp_path: Path) -> None:
    port = free_port()
    text = listener("field", port)
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    more = '[key_store]\nunlock = "file:key"\n[limits]\nmax_api_connections = 7\n'
    with Box(tmp_path, text) as box, undisturbed(box, port):
        for _ in range(2):  # as long as it is so
            told = reload(box, text + more)
            assert "WARNING key_store.unlock takes effect at the next start" in told
            assert "WARNING limits.max_api_connections takes effect at the next start" in told
            assert len(box.api.status()["config_problems"]) == 2
        reload(box, text)
        assert box.api.status()["config_problems"] == []


def test_a_listener_that_needs_the_next_start_s_key_store_waits_for_it(tmp_path: Path) -> None:
    port = free_port()
    text = listener("field", port)
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    with Box(tmp_path, text) as box, undisturbed(box, port):
        door = listener("door", free_port(), authenticator='"password"')
        reload(box, f'{text}{door}[key_store]\nunlock = "file:key"\n')
        assert states(box) == {"field": "serving", "door": "stopped"}
        assert "systemctl restart edgesyncd" in box.api.listener("door")["problem"]


def test_a_limit_of_listeners_restarts_them(tmp_path: Path) -> None:
    port = free_port()
    text = listener("field", port)
    with Box(tmp_path, text) as box:
        assert 'restarted listener "field"' in reload(box, f"{text}[limits]\nmax_connections = 1\n")
        with client_of(port), socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(b"GET /db/_blipsync HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 503 " in second.recv(100)


# --- signals ----------------------------------------------------------------------------------


def test_a_second_signal_in_the_middle_leads_to_the_latest_file(tmp_path: Path) -> None:
    field, yard = free_port(), free_port()
    text = listener("field", field)
    with Box(tmp_path, text) as box, undisturbed(box, field):
        for _ in range(5):
            write(box, text + listener("yard", yard))
            os.kill(box.pid, signal.SIGHUP)
            time.sleep(0.01)
            write(box, text)
            os.kill(box.pid, signal.SIGHUP)
            time.sleep(0.03)
        write(box, text + listener("shed", yard))
        os.kill(box.pid, signal.SIGHUP)
        eventually(lambda: states(box) == {"field": "serving", "shed": "serving"})


def test_it_stops_in_the_middle_of_a_reload(tmp_path: Path) -> None:
    port = free_port()
    with Box(tmp_path, listener("field", port)) as box:
        silent = socket.create_connection(("127.0.0.1", port))  # of whose goodbye nothing comes
        silent.sendall(
            b"GET /db/_blipsync HTTP/1.1\r\nHost: edgesync\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: BLIP_3+CBMobile_3\r\n\r\n"
        )
        with silent:
            assert b" 101 " in silent.recv(1000)
            write(box, listener("field", port, read_only="true"))
            os.kill(box.pid, signal.SIGHUP)
            eventually(lambda: states(box) == {})  # stopped, and not made anew yet
            assert box.stop() == 0


def test_systemd_hears_of_a_reload_and_the_watchdog_goes_on(tmp_path: Path) -> None:
    text = listener("field", free_port())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(10)
        manager.bind(str(tmp_path / "notify"))
        more = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        with Box(tmp_path, text, **more) as box:

            def heard(box: Box, text: str) -> list[bytes]:
                write(box, text)
                os.kill(box.pid, signal.SIGHUP)
                told: list[bytes] = []
                while not (told and told[-1].startswith(b"READY=1")):
                    told.append(manager.recv(1000))
                return told[next(i for i, each in enumerate(told) if b"RELOADING" in each) :]

            while not manager.recv(1000).startswith(b"READY=1"):
                pass
            first, *between, last = heard(box, text)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", first)
            assert b"WATCHDOG=1" in between
            assert last.startswith(b"READY=1\nSTATUS=listeners: 1, clients: 0")
            assert REFUSED.encode() in heard(box, "[listener")[-1]


def test_without_a_file_a_hangup_ends_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgesync.daemon.edgesyncd"],
        env={
            **os.environ,
            "STATE_DIRECTORY": str(tmp_path),
            "EDGESYNC_SOCKET": str(tmp_path / "s"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == -signal.SIGHUP
    finally:
        process.kill()
        process.communicate()


def test_nobody_asks_a_listener_that_is_gone(tmp_path: Path) -> None:
    text = listener("field", free_port())
    with Box(tmp_path, text + listener("yard", free_port())) as box:
        reload(box, text)
        with pytest.raises(ApiError, match="yard"):
            box.api.listener("yard")
