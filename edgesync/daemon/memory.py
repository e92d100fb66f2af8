"""How the process keeps house with memory, of which a small box has little."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # in glibc's malloc.h
_LARGE_BYTES: Final = 1024 * 1024


def give_back_large_blocks() -> None:
    """Have the C library keep no large block that was freed.

    After the first one it would: each thread that has ever stretched a password would
    keep the 16 MB that this takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def collect_garbage_less_often() -> None:
    """Leave out what is there for good, and look at the rest every 10,000 new objects.

    Else looking for cycles, of which there are hardly any, takes a twentieth of what a
    busy service computes.
    """
    gc.freeze()
    gc.set_threshold(10_000)
