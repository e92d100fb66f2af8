"""Marks that skip by name where their environment is absent, and Hypothesis' profiles."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# Derandomised, a failure in CI is the change's own; the usual profile keeps looking for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers():
            if reason := reason_to_skip(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def reason_to_skip(mark: pytest.Mark) -> str:
    """Return what a mark needs and this machine lacks; empty if all is there."""
    if mark.name == "needs_cbl":
        variable = f"EDGESYNC_CBL_{mark.args[0]}"
        library = os.environ.get(variable, "")
        if not library:
            return f"needs Couchbase Lite: {variable} does not name libcblite.so"
        if not Path(library).is_file():
            return f"needs Couchbase Lite: {variable} names {library}, which is not there"
    if mark.name == "needs_root" and os.geteuid() != 0:
        return "needs root, for a network namespace of its own"
    if mark.name == "needs_qemu" and shutil.which("qemu-system-aarch64") is None:
        return "needs qemu-system-aarch64, to boot a machine"
    return ""
