"""What is installed beside the code says the same as the code."""

from __future__ import annotations

import ast
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest

import edgesync
from edgesync import errors
from edgesync.daemon.config import EMBEDDED, KeyStoreConfig, parse_config
from edgesync.daemon.edgesyncd import KEYS_FOLDER
from edgesync.daemon.systemd import MESSAGE_IDS_OF_ERRORS, MESSAGE_IDS_OF_TEXTS
from edgesync.errors import EdgeSyncError

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "image-build/debian"
CATALOG = (ROOT / "systemd/edgesync.catalog").read_text()
UNITS = sorted((ROOT / "systemd").glob("*.service"))
COMPLAINTS = {"warning", "error", "exception", "critical"}
ABOUT_ONE_OF_OUR_ERRORS = {
    "cannot run: %s%s",
    "%s: broke the protocol: %s",
    "%s: %s",
    "%s",
    "%s %s: %s",
    'database "%s" is not served: %s',
    'database "%s" is not as configured: %s',
    "%s: changes can't be told: %s",
    "the TLS identity could not be looked at: %s; %s",
    'listener "%s" does not serve: %s',
    'database "%s": %s; %s',
}
"""Texts that are always logged with an `EdgeSyncError`, whose class has the message ID."""


def logged_texts() -> Iterator[str]:
    """Yield the text of every warning and error in the package."""
    for source in (ROOT / "edgesync").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in COMPLAINTS
                and re.search(r"\b_?log\b|getLogger", ast.unparse(node.func.value))
            ):
                text = node.args[0]
                assert isinstance(text, ast.Constant), f"{source}:{node.lineno}"
                yield str(text.value)


# --- the catalogue ----------------------------------------------------------------------


def test_every_warning_and_error_has_a_message_id() -> None:
    assert set(logged_texts()) - set(MESSAGE_IDS_OF_TEXTS) - ABOUT_ONE_OF_OUR_ERRORS == set()


def test_no_message_id_is_of_a_text_that_nobody_logs() -> None:
    known = set(MESSAGE_IDS_OF_TEXTS) | ABOUT_ONE_OF_OUR_ERRORS
    assert known - set(logged_texts()) == set()


def test_every_message_id_is_explained_and_nothing_else() -> None:
    explained = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG, re.M)
    assert len(explained) == len(set(explained))
    assert set(explained) == {*MESSAGE_IDS_OF_ERRORS.values(), *MESSAGE_IDS_OF_TEXTS.values()}


def test_every_explanation_has_a_subject() -> None:
    for entry in re.split(r"^-- [0-9a-f]{32}\n", CATALOG, flags=re.M)[1:]:
        assert re.match(r"Subject: .+\nDefined-By: edgesync\nDocumentation: .+\n\n.", entry), entry


def test_every_error_has_a_message_id() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, EdgeSyncError):
            assert any(base in MESSAGE_IDS_OF_ERRORS for base in kind.__mro__)


# --- the units --------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_no_unit_forbids_what_callbacks_of_pyopenssl_need(unit: Path) -> None:
    if "/usr/bin/edgesyncd" in unit.read_text():
        assert "\nMemoryDenyWriteExecute=yes" not in unit.read_text()


def test_a_reload_sends_the_signal_that_the_service_takes_for_one() -> None:
    unit = (ROOT / "systemd/edgesyncd.service").read_text()
    (command,) = re.findall(r"^ExecReload=(.*)$", unit, re.M)
    program, option, script = shlex.split(command)
    with subprocess.Popen(["sleep", "60"]) as process:
        subprocess.run(
            [program, option, script],
            env={"MAINPID": str(process.pid)},
            check=True,
            timeout=10,
        )
        assert process.wait(timeout=10) == -signal.SIGHUP


def test_the_unit_has_what_the_service_relies_on() -> None:
    unit = (ROOT / "systemd/edgesyncd.service").read_text()
    for line in ("Type=notify", "StateDirectory=edgesync", "RuntimeDirectory=edgesync"):
        assert f"\n{line}\n" in unit


# --- the package ------------------------------------------------------------------------


def test_the_package_depends_on_what_the_code_requires() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options"]["install_requires"].split()
    required = {name.lower(): bound for name, bound in (line.split(">=") for line in lines)}
    required["openssl"] = required.pop("pyopenssl")
    control = (DEBIAN / "control").read_text()
    assert dict(re.findall(r"^ python3-([a-z-]+) \(>= (.+)\),$", control, re.M)) == required


def test_the_package_has_the_version_of_the_code() -> None:
    changelog = (DEBIAN / "changelog").read_text()
    assert changelog.startswith(f"edgesync ({edgesync.__version__}-")


def test_the_installed_configuration_is_the_embedded_one_with_a_key_store() -> None:
    config = parse_config((DEBIAN / "edgesync.toml").read_text(), EMBEDDED.source)
    assert config == replace(EMBEDDED, key_store=KeyStoreConfig("credential", "edgesync.key"))


def test_the_key_of_the_configuration_is_the_one_that_the_unit_loads() -> None:
    unit = (ROOT / "systemd/edgesyncd.service").read_text()
    assert "\nLoadCredentialEncrypted=edgesync.key\n" in unit


def test_the_key_unit_looks_for_the_key_store_where_it_is() -> None:
    unit = (ROOT / "systemd/edgesync-key.service").read_text()
    assert f"\nConditionDirectoryNotEmpty=!/var/lib/edgesync/{KEYS_FOLDER}\n" in unit


def test_the_examples_in_the_installed_configuration_are_accepted() -> None:
    lines = (DEBIAN / "edgesync.toml").read_text().splitlines()
    example = "\n".join(
        line.removeprefix("# ") for line in lines if re.match(r"(# )?(\[|\w+ =)", line)
    )
    assert set(tomllib.loads(example)) >= {"database", "listener"}
    assert parse_config(example, "example").listeners
