"""A card of its own: a file system in a file, that fills up and fails as a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

CARD_MIB = 24
"""The smallest that ext4 gives a journal to."""
CHUNK = b"\xff" * 65_536


class Card:
    """An ext4 file system, mounted until `remove`."""

    def __init__(self, folder: Path) -> None:
        """Make and mount it.

        Raises:
            OSError: This machine does not let us.
        """
        self._image = folder / "card.img"
        self.folder = folder / "card"
        self.folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(CARD_MIB * 1024 * 1024)
        # A real card's blocks: with smaller ones, SQLite's shared memory is SIGBUS on a full card.
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", str(self._image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.folder))

    def fill(self, leave_bytes: int) -> None:
        """Leave only so much room."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            before = -1
            while file.tell() > before:
                before = file.tell()
                with suppress(OSError):  # it is full
                    while file.write(CHUNK):
                        pass
                os.fsync(file.fileno())  # there is room again that was held back for this
            file.truncate(file.tell() - leave_bytes)

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()

    def fail(self) -> None:
        """Have the kernel find an error, and take no more writes until it is mounted again."""
        _run("mount", "-o", "remount,abort", str(self.folder))

    def repair(self) -> None:
        """Check it, and mount it again.

        A copy of it: as long as another namespace has the file system mounted, too, it would
        come back as it was.
        """
        _run("umount", str(self.folder))
        worn = self._image.rename(self._image.with_suffix(".worn"))
        shutil.copyfile(worn, self._image)
        worn.unlink()
        subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, check=False)
        self.mount()

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
        self._image.unlink()


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"{' '.join(command)}: {ended.stderr.strip()}")
