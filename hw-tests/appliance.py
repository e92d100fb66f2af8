"""What a test holds in its hands: a box that it switches on and off and talks to from outside.

A box is a machine in QEMU (`qemu.py`) or a board on the desk (`board.py`); tests
that ask for an `Appliance` run on both.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import socket
import ssl
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.active_peer.options import Result
from tests.active_peer.peer_database import Body, PeerDatabase
from tests.active_peer.sync import sync

SSH: Final = 22
LISTENER: Final = 4984
BOOT_TIMEOUT_S: Final = 400.0  # an emulated processor, on a busy machine
KNOCK_TIMEOUT_S: Final = 3.0
PAUSE_S: Final = 0.3


class Appliance(ABC):
    """A box with edgesyncd on it, and the SSH key of root, or of one who may become it."""

    def __init__(self, key: Path, user: str = "root") -> None:
        self._key = key
        self._user = user
        # Short, as paths of sockets are and those of tests are not.
        self.short_folder = Path(tempfile.mkdtemp(prefix="hw-"))
        self._line = self.short_folder / "ssh"

    # --- the power switch -------------------------------------------------------------

    @abstractmethod
    def off(self) -> None:
        """Cut the power."""

    @abstractmethod
    def power(self) -> None:
        """Give it power, and return at once."""

    @abstractmethod
    def address(self, port: int) -> tuple[str, int]:
        """Return where a TCP port of the box is reached from here."""

    def on(self, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Give it power and wait until it serves clients; return how many seconds that took."""
        began = time.monotonic()
        self.power()
        self.wait_until_it_serves(timeout_s)
        return time.monotonic() - began

    def reboot(self) -> float:
        """Restart in an orderly way; return the seconds from the command until it serves."""
        began = time.monotonic()
        before = self.boot_id()
        self.run("systemctl reboot", check=False)
        self.wait_for_boot_after(before)
        self.wait_until_it_serves()
        return time.monotonic() - began

    # --- a shell on it ----------------------------------------------------------------

    def run(self, command: str, *, check: bool = True, timeout_s: float = 120) -> str:
        """Run a shell command as root; return what it prints.

        Raises:
            AssertionError: It failed.
        """
        ended = self.ended(command, timeout_s=timeout_s)
        assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def ended(
        self, command: str, *, stdin: str = "", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root; return how it ended."""
        if self._user != "root":
            command = shlex.join(["sudo", "-n", "sh", "-c", command])
        return subprocess.run(
            [*self._ssh(), "--", command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def boot_id(self) -> str:
        """Return what changes with each boot; empty while nobody answers."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.ended("cat /proc/sys/kernel/random/boot_id", timeout_s=20).stdout.strip()
        return ""

    def hang_up(self) -> None:
        """Forget the connection of `run`: the box behind it is not there any more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*self._ssh(), "-O", "exit"], capture_output=True, timeout=10, check=False
            )
        self._line.unlink(missing_ok=True)

    def _ssh(self) -> list[str]:
        host, port = self.address(SSH)
        options = {
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self._key),
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "30",
            "ServerAliveInterval": "10",
            "ControlMaster": "auto",  # one key exchange for all commands
            "ControlPath": str(self._line),
            "ControlPersist": "60",
        }
        given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *given, "-p", str(port), f"{self._user}@{host}"]

    # --- waiting ----------------------------------------------------------------------

    def wait_for(
        self, happened: Callable[[], object], what: str, timeout_s: float = 60, pause_s: float = 1
    ) -> float:
        """Wait until something has happened; return the seconds."""
        began = time.monotonic()
        while not happened():
            assert time.monotonic() - began < timeout_s, f"not within {timeout_s:g} s: {what}"
            time.sleep(pause_s)
        return time.monotonic() - began

    def wait_until_it_serves(self, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Wait until a client would be let in."""
        return self.wait_for(self.fingerprint, "it serves clients", timeout_s, PAUSE_S)

    def wait_for_ssh(self, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Wait until one can log in."""
        return self.wait_for(self._has_ssh, "it can be logged in", timeout_s, PAUSE_S)

    def wait_for_boot_after(self, boot_id: str, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Wait until it has booted again, by itself."""

        def is_another() -> bool:
            self.hang_up()
            return self._has_ssh() and self.boot_id() not in ("", boot_id)

        return self.wait_for(is_another, "it boots again", timeout_s)

    def _has_ssh(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(self.address(SSH), timeout=KNOCK_TIMEOUT_S) as knocking,
        ):
            knocking.settimeout(KNOCK_TIMEOUT_S)
            return knocking.recv(4) == b"SSH-"
        return False

    # --- as a client sees it ----------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the outside finds the database."""
        host, port = self.address(LISTENER)
        return f"wss://{host}:{port}/db"

    @property
    def client(self) -> Client:
        """A new client that knows nothing yet."""
        return Client(self.url)

    def fingerprint(self) -> str:
        """Return SHA-256 of the certificate that clients see; empty while nobody serves."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection(self.address(LISTENER), KNOCK_TIMEOUT_S) as plain,
                context.wrap_socket(plain) as secure,
            ):
                return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
        except OSError:
            return ""


class Client:
    """An app on a phone: pushes and pulls documents, as real clients do."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = PeerDatabase()

    def push(self, doc_id: str, body: Body) -> Result:
        """Save a document and push it.

        Raises:
            SyncError: It did not get there.
        """
        self.database.save(doc_id, body)
        result = sync(self.database, self.url, pull=False)
        assert result.push_errors == []
        return result

    def pull(self, doc_id: str) -> Body | None:
        """Pull all there is; return what a document holds."""
        self.sync(push=False)
        return self.database.get(doc_id)

    def sync(self, *, push: bool = True, pull: bool = True) -> Result:
        """Synchronise once; failures of single documents are in the result."""
        return sync(self.database, self.url, push=push, pull=pull, timeout_s=120)
