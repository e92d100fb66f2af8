"""PouchDB Server and its own client, beside edgesync and ours, with the same documents."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bodies import bodies
from bench.harness import Figure, Measurement, Skipped
from bench.service import PLAIN, Process, service
from bench.sync_cases import full_database, pull, push

SOURCE = Path(__file__).parent / "pouchdb"
INSTALLED = Path("build/pouchdb").absolute()
INSTALL_TIMEOUT_S = 600.0
START_TIMEOUT_S = 30.0
POLL_S = 0.05
TRIES = 2  # in turn, and the faster one counts: both have to do with a busy machine


def pouchdb_figures(count: int) -> Iterator[Figure | Skipped]:
    """Push documents to either server, then pull them into an empty database."""
    if (missing := _install()) is not None:
        yield Skipped(missing)
        return
    tries = [(_pouchdb(count), _edgesync(count)) for _ in range(TRIES)]
    for place, name in enumerate(("push", "pull")):
        floor = min((theirs[place] for theirs, _ in tries), key=lambda each: each.wall_s)
        found = min((ours[place] for _, ours in tries), key=lambda each: each.wall_s)
        floor_name = "PouchDB Server"
        yield Figure(
            f"{name}: documents per second", found.each_second, "/s", floor.each_second, floor_name
        )
        yield Figure(
            f"{name}: CPU per document", found.cpu_us_each, "us", floor.cpu_us_each, floor_name
        )


def _edgesync(count: int) -> tuple[Measurement, Measurement]:
    database = full_database(count)
    with service(PLAIN) as server:
        pushed = server.measure(count, lambda: push(database, server.url))
        return pushed, server.measure(count, lambda: pull(server.url, count))


def _pouchdb(count: int) -> tuple[Measurement, Measurement]:
    documents = [{"_id": f"document-{number}", **body} for number, body in enumerate(bodies(count))]
    with TemporaryDirectory(prefix="edgesync-bench-") as name, _server(Path(name)) as (server, url):
        file = Path(name) / "documents.json"
        file.write_text(json.dumps(documents))
        return (
            _replicate(server, "push", url, file, count),
            _replicate(server, "pull", url, file, count),
        )


def _install() -> str | None:
    """Install what package.json names, once; say why not."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "npm is missing: apt install npm"
    INSTALLED.mkdir(parents=True, exist_ok=True)
    wanted = (SOURCE / "package.json").read_text()
    done = INSTALLED / "installed"
    if not done.exists() or done.read_text() != wanted:
        (INSTALLED / "package.json").write_text(wanted)
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            subprocess.run(  # noqa: S603 - our own command
                command, cwd=INSTALLED, check=True, timeout=INSTALL_TIMEOUT_S, capture_output=True
            )
        except (subprocess.SubprocessError, OSError) as error:
            return f"npm install failed: {error}"
        done.write_text(wanted)
    shutil.copy(SOURCE / "client.js", INSTALLED)  # node looks for modules beside it
    return None


@contextmanager
def _server(folder: Path) -> Iterator[tuple[Process, str]]:
    """Run PouchDB Server as it comes, on loopback; give it and the URL of a database."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = str(INSTALLED / "node_modules/pouchdb-server/lib/index.js")
    where = ["--host", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    logs = ["--config", str(folder / "config.json"), "--no-stdout-logs", "--no-color-logs"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        ["node", script, *where, *logs],  # noqa: S607 - wherever it is installed
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield Process(process.pid), f"http://127.0.0.1:{port}/db"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(POLL_S)
    raise RuntimeError("PouchDB Server did not start")


def _replicate(server: Process, direction: str, url: str, file: Path, count: int) -> Measurement:
    with subprocess.Popen(  # noqa: S603 - our own command
        ["node", "client.js", direction, url, str(file)],  # noqa: S607
        cwd=INSTALLED,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdout.readline()
        cpu, wall = server.cpu_s(), time.perf_counter()
        client.stdin.write("go\n")
        client.stdin.flush()
        written = client.stdout.readline().strip()
        took = Measurement(count, server.cpu_s() - cpu, time.perf_counter() - wall)
    if written != str(count):
        raise RuntimeError(f"{written} of {count} documents were replicated")
    return took
