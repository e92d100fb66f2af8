"""What comes from this machine: the configuration, imports, backups, the local API."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import unquote_to_bytes

from edgesync.cli.output import Output
from edgesync.cli.transfer import import_file
from edgesync.daemon.config import parse_config
from edgesync.errors import ConfigurationError, EdgeSyncError
from edgesync.limits import Limits
from tests.api.box import Box
from tests.fuzz.document_targets import JSON_TOKENS
from tests.fuzz.target import Opened, Target, pure

ANSWER_TIMEOUT_S: Final = 10.0
TAKES_LONG: Final = (b"_edgesync/peers", b"_edgesync/unlock", b"_edgesync/events", b"follow",
                     b"continuous", b"longpoll")  # fmt: skip
"""Look around for seconds, stretch a passphrase, or wait for what happens next."""


# --- the configuration ---------------------------------------------------------------------


def configuration(data: bytes) -> bool:
    """Parse a configuration; its limits must be numbers that can be counted with."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    config = parse_config(text, "edgesync.toml")
    assert config.databases
    assert config.listeners
    assert all(0 < getattr(config.limits, name) < 2**63 for name in Limits.__slots__)
    return True


# --- a service -----------------------------------------------------------------------------


@contextmanager
def running(folder: Path) -> Iterator[Box]:
    """Give a service, as a process, with documents in its database."""
    settings = 'advertise = false\n[key_store]\nunlock = "file:key"\n'
    settings += "[limits]\nmax_api_body_bytes = 200000\nmax_document_bytes = 20000\n"
    box = Box(folder, settings=settings)
    with box:
        box.ask("PUT", "/db/boiler", {"setpoint": 21, "list": [1, {"a": None}]})
        blob = box.ask("POST", "/_edgesync/databases/db/blobs", body=b"x" * 100).json
        for name, odd in ODD_BLOBS.items():
            box.ask("PUT", f"/db/blob-{name}", {"b": {**blob, **odd}})
        yield box


ODD_BLOBS: Final[Mapping[str, Mapping[str, object]]] = {
    "plain": {},
    "split": {"content_type": "a\r\nX-Evil: 1"},
    "text": {"content_type": "t\u00e9xt/\u2603"},
    "type": {"content_type": ["x"]},
    "long": {"length": 10**6},
    "short": {"length": 1},
    "negative": {"length": -1},
    "bool": {"length": True},
    "lost": {"digest": "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="},
    "digest": {"digest": "../../etc/passwd\r\n"},
}
"""What a client with a right password might push to trouble the programs here."""


class Exchange:
    """Sends bytes to a service and looks at what comes back, and into its log."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._log = (box.folder / "log").open("rb")

    def __call__(self, data: bytes) -> bytes:
        """Return all that is answered."""
        answer = b""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(ANSWER_TIMEOUT_S)
            client.connect(str(self._box.socket))
            with suppress(ConnectionError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(65_536):
                    answer += piece
        assert b"the service failed" not in answer, self._log.read().decode()
        self.check_log()
        return answer

    def check_log(self) -> None:
        """Look for traces of what nobody expected."""
        logged = self._log.read()
        assert b"Traceback" not in logged, logged.decode()

    def close(self) -> None:
        self._log.close()


@contextmanager
def exchanging(folder: Path) -> Iterator[tuple[Box, Exchange]]:
    with running(folder) as box, closing(Exchange(box)) as exchange:
        yield box, exchange


def split_answer(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and content of an answer that ends with the connection."""
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert "x-evil" not in headers, "a header is split"
    return int(status[9:12] or 0), headers, content


# --- the local API -------------------------------------------------------------------------


@contextmanager
def api_requests(folder: Path) -> Iterator[Opened]:
    """Send whole requests: a line with method and target, one with If-Match, the content."""
    with exchanging(folder) as (box, exchange):

        def feed(data: bytes) -> bool:
            line, _, rest = data.partition(b"\n")
            match, _, content = rest.partition(b"\n")
            if any(word in unquote_to_bytes(line) for word in TAKES_LONG):
                return False
            method = line.partition(b" ")[0]
            head = (line, b" HTTP/1.1\r\nHost: box\r\nConnection: close\r\nIf-Match: ", match,
                    b"\r\nContent-Length: %d\r\n\r\n" % len(content))  # fmt: skip
            status, headers, got = split_answer(exchange(b"".join((*head, content))))
            if status == 200 and method != b"HEAD" and "content-length" in headers:
                assert int(headers["content-length"]) == len(got), "the answer is cut"
            return 200 <= status < 400

        yield Opened(feed, box.pid)


@contextmanager
def api_bytes(folder: Path) -> Iterator[Opened]:
    """Send bytes; none of them asks for a feed that never ends."""
    with exchanging(folder) as (box, exchange):
        yield Opened(lambda data: exchange(data).startswith(b"HTTP/1.1 2"), box.pid)


def request(line: str, value: object = None, match: str = "") -> bytes:
    content = b"" if value is None else json.dumps(value).encode()
    return f"{line}\n{match}\n".encode() + content


REQUESTS: Final = (
    request("GET /db/boiler"),
    request("GET /db/boiler/setpoint"),
    *(request(f"GET /db/blob-{name}/b") for name in (
        "plain", "split", "text", "type", "long", "short", "negative", "bool", "lost", "digest")),
    request("PUT /db/new?rev=1-aa", {"a": 1}),
    request("PUT /db/boiler", {"_rev": "1-aa", "n": 2}, '"1-aa"'),
    request("PUT /db/boiler", {"_deleted": True, "_rev": "1-aa"}),
    request("DELETE /db/boiler?rev=1-aa"),
    request("PUT /db/boiler/picture?rev=1-aa", "x"),
    request("DELETE /db/boiler/setpoint?rev=1-aa"),
    request("POST /db", {"_id": "x", "a": [1]}),
    request("GET /db.inventory.items"),
    request("POST /db.items/_bulk_docs", {"docs": [{"_id": "a", "n": 1}, {"_rev": "1-a"}]}),
    request('GET /db/_all_docs?startkey="a"&endkey="z"&limit=2&include_docs=true'),
    request("GET /db/_changes?since=0&limit=3&feed=normal&include_docs=true"),
    request("GET /_edgesync/status"),
    request("GET /_edgesync/listeners/field"),
    request("DELETE /_edgesync/connections/7"),
    request("GET /_edgesync/databases/db"),
    request("POST /_edgesync/databases", {"name": "two", "collections": 7}),
    request("POST /_edgesync/databases/db/verify"),
    request("POST /_edgesync/databases/db/blobs", "content"),
    request("GET /_edgesync/databases/db/blobs/sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="),
    request("POST /_edgesync/identities",
            {"label": "k", "data": "aGVsbG8=", "password": "x"}),
    request("POST /_edgesync/identities",
            {"label": "k", "attributes": {"CN": "a", "dNSName": ["b"]}, "usages": [],
             "days": 10, "issuer": "x"}),
    request("POST /_edgesync/identities/k/export", {"password": "x"}),
    request("POST /_edgesync/identities/k/renew", {"days": 3}),
    request("GET /_edgesync/identities"),
    request("DELETE /_edgesync/users/ann"),
    request("PUT /_edgesync/users/ann", {"password": ""}),
    request("GET /_edgesync/log?lines=3&follow=false"),
    request("GET /_edgesync/interfaces"),
    request("GET /metrics"),
)  # fmt: skip
API_TOKENS: Final = (*JSON_TOKENS, b"/", b"//", b"%2F", b"%ff", b"?", b"&", b"rev=", b"limit=",
                     b"limit=99999999999999999999", b"since=", b"_bulk_docs", b"_all_docs",
                     b"_changes", b"/_edgesync/", b"HEAD ", b"OPTIONS ", b"PATCH ", b"db.",
                     b'"usages": [[]]', b'"docs": [', b"\n\n", b'"')  # fmt: skip


RAW: Final = (
    b"GET /db/boiler HTTP/1.1\r\nHost: box\r\n\r\n",
    b'PUT /db/x HTTP/1.1\r\nHost: box\r\nContent-Length: 7\r\n\r\n{"a":1}GET /db HTTP/1.1\r\n\r\n',
    b'POST /db HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7;x=y\r\n{"a":1}\r\n0\r\nT: 1\r\n\r\n',
    b"GET /db/blob-plain/b HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET /db/blob-split/b HTTP/1.1\r\n\r\n",
    b"GET /db/blob-short/b HTTP/1.1\r\n\r\n",
    b"HEAD /metrics HTTP/1.0\r\n\r\n",
    b"POST /db HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
)
RAW_TOKENS: Final = (b"\r\n\r\n", b"\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"HEAD ", b"PUT ",
                     b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"0\r\n\r\n",
                     b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"%",
                     b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n")  # fmt: skip


# --- backups and lines of documents -------------------------------------------------------------


@contextmanager
def restore(folder: Path) -> Iterator[Opened]:
    """Put back a backup: it is the database again, or refused, and nothing else is written."""
    with exchanging(folder) as (box, exchange):
        databases, work = folder / "state" / "databases", folder / "state" / "work"

        def feed(data: bytes) -> bool:
            head = b"POST /_edgesync/databases/db/restore HTTP/1.1\r\nConnection: close\r\n"
            answer = exchange(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            for _ in range(500):  # what was replaced is removed after the last byte was sent
                names = {each.name for each in (*databases.iterdir(), *work.glob("*"))}
                if names <= FILES:
                    break
                time.sleep(0.002)
            assert names <= FILES, f"something is left behind: {names}"
            status, _, _ = split_answer(exchange(b"GET /db HTTP/1.0\r\n\r\n"))
            assert status == 200, "the database is gone"
            return b'"result"' in answer

        yield Opened(feed, box.pid)


FILES: Final = {"db.edgesync", "db.sequences"}


@cache
def backup_seeds() -> tuple[bytes, ...]:
    """Return a backup, and the beginning of one."""
    with TemporaryDirectory() as folder, Box(Path(folder)) as box:
        box.ask("POST", "/_edgesync/databases/db/blobs", body=b"x")
        whole = box.ask("GET", "/_edgesync/databases/db/backup").content
    return (whole, whole[:3072])


@contextmanager
def import_lines(folder: Path) -> Iterator[Opened]:
    """Import a file, with the command's own code."""
    with exchanging(folder) as (box, exchange):
        source = folder / "lines"
        quiet = Output(as_json=True, stream=io.StringIO(), errors=io.StringIO(), environment={})

        def feed(data: bytes) -> bool:
            source.write_bytes(data)
            try:
                outcome = import_file(box.client, "db", str(source), quiet, replace=False)
            finally:
                exchange.check_log()
            return outcome.stored > 0

        yield Opened(feed, box.pid)


LINES: Final = (
    b'{"_id":"a","n":1}\n{"_id":"b","n":[1,2]}\n',
    b'{"_blob":"sha1-Kq5sNclPz7QV2+lfQIuc6R7oRu0=","content_type":"text/plain",'
    b'"data":"aGVsbG8gd29ybGQ=","last":true}\n{"_id":"c","b":{"@type":"blob",'
    b'"digest":"sha1-Kq5sNclPz7QV2+lfQIuc6R7oRu0=","length":11}}\n',
    b'{"_blob":"sha1-Kq5sNclPz7QV2+lfQIuc6R7oRu0=","data":"aGVsbG8=","last":false}\n'
    b'{"_blob":"sha1-Kq5sNclPz7QV2+lfQIuc6R7oRu0=","data":"IHdvcmxk","last":true}\n',
)
TOML_TOKENS: Final = (b"[database.stock]\n", b"[listener.field]\n", b"[limits]\n", b"[[", b"]]",
                      b"[key_store]\n", b"port = ", b"inf", b"nan", b"true", b'"""', b"'''", b"0x",
                      b"authenticator = ", b'"certificate"', b"= {", b"1979-05-27",
                      b".a")  # fmt: skip
TAR_TOKENS: Final = (b"SHA256SUMS", b"database.sqlite3", b"blobs/00/11", b"../evil", b"ustar\x0000",
                     b"ustar  \0", b"5", b"x", b"L", b"S", b"\x80\0\0\0", b"\xff" * 8,
                     b"11 path=x\n", b"22 size=1\n", b"GNU.sparse.map=1")  # fmt: skip

TARGETS: Final = (
    Target(
        "configuration",
        pure(configuration),
        (ConfigurationError,),
        tokens=TOML_TOKENS,
        weight=2,
        short=1500,
        max_bytes=6000,  # tomllib takes the square of a dotted key's length
    ),
    Target(
        "API, requests",
        api_requests,
        seeds=lambda: REQUESTS,
        tokens=API_TOKENS,
        weight=4,
        max_open_files=100,  # some requests make databases, of six files each
        short=600,
    ),
    Target("API, bytes", api_bytes, seeds=lambda: RAW, tokens=RAW_TOKENS, short=500),
    Target("restore", restore, seeds=backup_seeds, tokens=TAR_TOKENS, max_bytes=500_000, short=100),
    Target(
        "import",
        import_lines,
        (EdgeSyncError,),
        lambda: LINES,
        (*JSON_TOKENS, b'"_blob":', b'"data":', b'"last":false', b"\n", b"\xc3\xa9="),
        short=300,
    ),
)
