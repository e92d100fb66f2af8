"""What tests need of their environment, and say by name when it is not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Record = Callable[[str, float, str], None]
"""(what was measured, the number, its unit)"""


def reason_to_skip(mark: str) -> str:
    """Return what a mark needs and is not there; empty if all is."""
    if mark == "needs_qemu" and shutil.which("qemu-system-aarch64") is None:
        return "needs qemu-system-aarch64, to boot a machine"
    if mark == "needs_root" and os.geteuid() != 0:
        return "needs root, for a network namespace of its own"
    if mark == "nightly" and not os.environ.get("EDGESYNC_NIGHTLY"):
        return "takes minutes for little: EDGESYNC_NIGHTLY is not set"
    return ""


def named(variable: str, what: str) -> Path:
    """Return the path that a variable of the environment names; skip if there is none."""
    if not os.environ.get(variable):
        pytest.skip(f"needs {what}: {variable} is not set, as by make hw-test")
    path = Path(os.environ[variable]).absolute()
    if not path.exists():
        pytest.skip(f"needs {what}: {path}, named by {variable}, is not there")
    return path
