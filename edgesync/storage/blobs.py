"""Blobs: files named by their digest, written aside, synced, renamed. Spec: documents.md §5."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from edgesync.documents.body import BlobDigest, is_blob_digest
from edgesync.documents.store_calls import (
    AppendBlob,
    BlobLength,
    BlobPiece,
    DropBlob,
    FinishBlob,
    ProveBlob,
    ReadBlob,
    StoreCall,
    StoreResult,
)
from edgesync.errors import BlobDigestError, BlobNotFoundError

INCOMING: Final = "incoming"
EVERY_SINK: Final = -1
"""For `DropBlob`, of a client that has gone."""
PROOF_PIECE_BYTES: Final = 1 << 20
MAX_USES: Final = 50_000
"""Of blobs, remembered for as long as they count: some 10 MB."""
_READ_ONLY: Final = os.O_RDONLY | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class BlobFiles:
    """The folder of blobs. Any thread may look and read; one thread adds, one removes.

    Documents refer to blobs, and this class knows no documents: it knows when each
    blob was last needed, that is stored, told to be there, read, or let go of by a
    document. One that was needed lately is not removed, as the document it belongs
    to may be on its way, or somebody may be reading it.
    """

    def __init__(
        self, folder: Path, grace_s: float = 0.0, uptime: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the folder if it is missing, and drop what did not come whole last time.

        Args:
            folder: Of these blobs alone.
            grace_s: How long a blob stays after it was needed last.
            uptime: Returns seconds that pass evenly, as the clock on the wall does not.
        """
        self._folder = str(folder)
        self._uses = _Uses(grace_s, uptime)
        # Between looking at a file and noting the use of it nobody removes it.
        self._lock = threading.Lock()
        self._incoming = f"{folder}/{INCOMING}"
        self._unsynced: set[str] = set()
        self._last_file = 0
        os.makedirs(self._incoming, exist_ok=True)
        for leftover in os.scandir(self._incoming):
            os.unlink(leftover)

    def path(self, digest: str) -> str:
        """Return where a blob's content is, or would be."""
        name = base64.b64decode(digest[5:]).hex()
        return f"{self._folder}/{name[:2]}/{name[2:]}"

    def has(self, digest: str) -> bool:
        """Tell whether a blob is stored, durably."""
        # In this order: a name is taken out of `_unsynced` only after it is durable.
        return (
            is_blob_digest(digest)
            and os.path.exists(self.path(digest))
            and digest not in self._unsynced
        )

    def offer(self, digest: str) -> bool:
        """Tell whether a blob is stored; if so, it stays for a while."""
        with self._lock:
            is_there = self.has(digest)
            if is_there:
                self._uses.note(digest)
            return is_there

    def missing(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Return those that are not stored; the others stay for a while."""
        return tuple(digest for digest in digests if not self.offer(digest))

    def length(self, digest: str) -> int | None:
        """Return the size of a blob in bytes, None if it is not stored; it stays for a while."""
        return self.size(digest) if self.offer(digest) else None

    def size(self, digest: str) -> int:
        """Return how many bytes of a blob there are, without any need of it."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return 0

    def read(self, digest: str, offset: int, max_bytes: int) -> BlobPiece:
        """Return a part of a blob's content.

        Raises:
            BlobNotFoundError: It is not stored.
        """
        if not self.offer(digest):
            raise BlobNotFoundError(digest)
        file = os.open(self.path(digest), _READ_ONLY)
        try:
            data = os.pread(file, max_bytes, offset)
            return BlobPiece(data, offset + len(data) >= os.fstat(file).st_size)
        finally:
            os.close(file)

    def proof(self, digest: str, nonce: bytes) -> str:
        """Return what proves that somebody has a blob. Spec: replication.md §3.9.

        Raises:
            BlobNotFoundError: It is not stored.
        """
        proof = BlobDigest()
        proof.update(bytes([len(nonce)]) + nonce)
        offset, is_last = 0, False
        while not is_last:
            data, is_last = self.read(digest, offset, PROOF_PIECE_BYTES)
            proof.update(data)
            offset += len(data)
        return proof.text()

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob that is stored."""
        for prefix in sorted(os.listdir(self._folder)):
            if prefix != INCOMING:
                for name in sorted(os.listdir(f"{self._folder}/{prefix}")):
                    text = base64.b64encode(bytes.fromhex(prefix + name))
                    yield "sha1-" + text.decode("ascii")

    def new_sink(self) -> BlobSink:
        """Return a place to write a blob to that is not yet named."""
        self._last_file += 1
        return BlobSink(f"{self._incoming}/{self._last_file}")

    def adopt(self, file: str, digest: str) -> None:
        """Give a synced file its name, durably; drop it if the blob is there already."""
        if self.offer(digest):
            os.unlink(file)
            return
        with self._lock:
            self._uses.note(digest)
        path = self.path(digest)
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            os.mkdir(folder)
            sync_folder(self._folder)
        self._unsynced.add(digest)
        os.rename(file, path)
        # If this fails the blob stays unsynced: for us it is not there.
        sync_folder(folder)
        self._unsynced.discard(digest)

    def let_go(self, digests: Iterable[str]) -> None:
        """Note that a document refers to blobs no more; who read it last may fetch them yet."""
        with self._lock:
            for digest in digests:
                self._uses.note(digest)

    def is_idle(self, digest: str) -> bool:
        """Tell whether nobody has needed a blob lately."""
        with self._lock:
            return self._uses.is_idle(digest)

    def forget_old_uses(self) -> None:
        """Free the memory of uses that do not count any more."""
        with self._lock:
            self._uses.forget_old()

    def remove(self, digest: str) -> bool:
        """Remove a blob unless somebody has needed it lately; return whether it is gone.

        On the thread that also decides which documents may refer to it.
        """
        with self._lock:
            if not self._uses.is_idle(digest):
                return False
            try:
                os.unlink(self.path(digest))
            except FileNotFoundError:
                return False
            return True


class _Uses:
    """When each blob was needed last, as far as it matters."""

    def __init__(self, grace_s: float, uptime: Callable[[], float]) -> None:
        self._grace_s = grace_s
        self._uptime = uptime
        self._since = uptime()  # all that was ever needed before counts as needed then
        self._latest: dict[str, float] = {}

    def note(self, digest: str) -> None:
        if len(self._latest) >= MAX_USES:
            self._since = self._uptime()
            self._latest.clear()
        self._latest[digest] = self._uptime()

    def is_idle(self, digest: str) -> bool:
        needed_at = self._latest.get(digest, self._since)
        return self._uptime() - max(needed_at, self._since) >= self._grace_s

    def forget_old(self) -> None:
        now = self._uptime()
        self._latest = {
            digest: needed_at
            for digest, needed_at in self._latest.items()
            if now - needed_at < self._grace_s
        }


class BlobSink:
    """A blob that is being written."""

    def __init__(self, path: str) -> None:
        """Open a new file."""
        self._path = path
        self._file = os.open(path, _NEW_FILE, 0o600)
        self._is_open = True
        self._digest = BlobDigest()
        self._length = 0
        self._failure: OSError | None = None

    def append(self, data: bytes) -> None:
        """Write the next piece; after a failure nothing more is taken."""
        if self._failure is not None:
            raise self._failure
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._failure = error
            raise
        self._digest.update(data)
        self._length += len(data)

    def finish(self, files: BlobFiles, digest: str, length: int | None) -> None:
        """Check what was written, and store it as a blob. The sink is used up in any case.

        Raises:
            BlobDigestError: It is not the content that the digest or length names.
        """
        try:
            if self._failure is not None:
                raise self._failure
            if length is not None and length != self._length:
                raise BlobDigestError(f"blob {digest} came with {self._length} bytes, not {length}")
            if digest != self._digest.text():
                raise BlobDigestError(f"what came as {digest} is {self._digest.text()}")
            self.store_as(files, digest)
        except BaseException:
            self.drop()
            raise

    def store_as(self, files: BlobFiles, digest: str) -> None:
        """Store what was written under a digest, unchecked: a copy of a blob keeps its faults."""
        os.fsync(self._file)
        self._close()
        files.adopt(self._path, digest)

    def drop(self) -> None:
        """Throw away what was written."""
        self._close()
        if os.path.exists(self._path):
            os.unlink(self._path)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._file)


class BlobSinks:
    """What clients read and write of blobs; a sink is a number that its client picked."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._sinks: dict[object, dict[int, BlobSink]] = {}

    def answer(self, client: object, call: StoreCall) -> StoreResult:
        """Carry out a call about a blob.

        Raises:
            BlobNotFoundError: The blob to be read is not stored.
            BlobDigestError: What came is not what it should be.
            OSError: The file system failed.
        """
        match call:
            case AppendBlob():
                self._append(client, call)
            case FinishBlob():
                self._finish(client, call)
            case DropBlob():
                self._drop(client, call.sink)
            case ReadBlob():
                return self._files.read(call.digest, call.offset, call.max_bytes)
            case ProveBlob():
                return self._files.proof(call.digest, call.nonce)
            case BlobLength():
                return self._files.length(call.digest)
            case _:
                raise RuntimeError(f"{type(call).__name__} is not about a blob")
        return None

    def _append(self, client: object, call: AppendBlob) -> None:
        sinks = self._sinks.setdefault(client, {})
        if call.sink not in sinks:
            sinks[call.sink] = self._files.new_sink()
        sinks[call.sink].append(call.data)

    def _finish(self, client: object, call: FinishBlob) -> None:
        sink = self._sinks.get(client, {}).pop(call.sink, None)
        if sink is None:  # an empty blob comes without a piece
            sink = self._files.new_sink()
        sink.finish(self._files, call.digest, call.length)

    def _drop(self, client: object, number: int) -> None:
        if number == EVERY_SINK:
            for sink in self._sinks.pop(client, {}).values():
                sink.drop()
        elif (dropped := self._sinks.get(client, {}).pop(number, None)) is not None:
            dropped.drop()


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, _READ_ONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
