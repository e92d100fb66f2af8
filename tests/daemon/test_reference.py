"""The table of keys, the parser, the example and the man page say the same."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from edgesync.daemon.config import (
    EMBEDDED,
    DatabaseConfig,
    ListenerConfig,
    ServiceConfig,
    parse_config,
)
from edgesync.daemon.config_keys import (
    DATABASE,
    KEY_STORE,
    LIMITS_AT_NEXT_START,
    LIMITS_OF_BOTH,
    LISTENER,
    NUMBER,
    SECTIONS,
    SWITCH,
    TEXT,
    TEXTS,
    Key,
    Section,
)
from edgesync.daemon.reference import all_sections, example, in_toml, limit_keys, man_page
from edgesync.errors import ConfigurationError
from edgesync.limits import Limits

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "share/edgesync.toml"
MAN_PAGE = ROOT / "share/man/man5/edgesync.toml.5"
WRONG = {TEXT: "1", TEXTS: '"a"', SWITCH: "1", NUMBER: '"1"', "a number": '"1"'}
LISTENERS = ("net", "replication", "blip", "documents", "listener.py", "authenticator.py")
OTHERS = ("storage", "identity", "api", "database.py", "tls_identity.py", "net/mdns*.py")

KEYS = [
    pytest.param(section, key, id=f"{section.header}.{key.name}")
    for section in all_sections()
    for key in section.keys
]


def uncommented(*, with_examples: bool) -> str:
    """Return the example with its keys in effect."""
    text = EXAMPLE.read_text()
    if with_examples:
        text = re.sub(r"^# e\.g\. ", "", text, flags=re.M)
    return re.sub(r"^#(?=\[|\w+ = )", "", text, flags=re.M)


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "edgesync.daemon.edgesyncd", "--config", str(path), "--check")
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


# --- the table and the parser --------------------------------------------------------------


def test_every_key_of_the_values_is_in_the_table() -> None:
    for section, kind in ((DATABASE, DatabaseConfig), (LISTENER, ListenerConfig)):
        assert {key.name for key in section.keys} == {each.name for each in fields(kind)} - {"name"}


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_of_another_type_is_refused(section: Section, key: Key) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"{section.header}.{key.name} ")):
        parse_config(f"[{section.header}]\n{key.name} = {WRONG[key.kind]}", "f")


@pytest.mark.parametrize("key", LISTENER.keys, ids=lambda key: key.name)
def test_the_default_of_a_listener_s_key_is_that_of_the_table(key: Key) -> None:
    (listener,) = parse_config("[database.stock]\n[listener.field]", "f").listeners
    without = "stock" if key.name == "database" else key.default
    assert (getattr(listener, key.name) or None) == (without or None)


def test_the_default_of_a_database_s_key_is_that_of_the_table() -> None:
    (database,) = parse_config("[database.stock]", "f").databases
    assert database.collections == DATABASE.keys[0].default


def test_a_key_is_one_line_with_a_sentence_and_has_a_default_or_says_what_holds_without() -> None:
    for section in all_sections():
        for key in section.keys:
            assert key.reason.endswith("."), key
            assert (key.default is None) == bool(key.without), key
            assert (key.default is None) == (key.example is not None), key


def test_limits_are_in_the_reference_with_unit_and_reason() -> None:
    keys = {key.name: key for key in limit_keys()}
    assert keys.keys() == {each.name for each in fields(Limits)}
    units = {"ping_interval_s": "seconds", "max_blob_bytes": "bytes", "max_headers": ""}
    assert {name: keys[name].unit for name in units} == units


def users(folders: tuple[str, ...]) -> Iterator[str]:
    """Yield the limits that the code of some folders looks at."""
    for folder in folders:
        for path in (ROOT / "edgesync").glob(folder):
            for source in path.rglob("*.py") if path.is_dir() else [path]:
                if not (source.name.startswith("mdns") and "net" in folders):
                    yield from re.findall(r"limits\.(\w+)", source.read_text())


def test_a_reload_does_to_each_limit_what_the_table_says() -> None:
    """Listeners get theirs when they are made anew; others keep what they started with."""
    names = {each.name for each in fields(Limits)}
    of_listeners, of_others = set(users(LISTENERS)) & names, set(users(OTHERS)) & names
    assert of_others - of_listeners | {"max_discovered"} == LIMITS_AT_NEXT_START
    assert of_listeners & of_others == LIMITS_OF_BOTH


# --- the example ------------------------------------------------------------------------------


def test_the_example_is_that_of_the_table() -> None:
    assert EXAMPLE.read_text() == example(), "python -m edgesync.daemon.reference example"


def test_the_example_as_it_is_changes_nothing() -> None:
    assert parse_config(EXAMPLE.read_text(), EMBEDDED.source) == EMBEDDED


def test_the_example_with_all_defaults_in_effect_changes_but_names() -> None:
    assert parse_config(uncommented(with_examples=False), "f") == ServiceConfig(
        "f",
        (DatabaseConfig("stock"),),
        (ListenerConfig("field", database="stock"),),
        Limits(),
    )


def test_the_example_with_everything_in_effect_is_understood() -> None:
    text = uncommented(with_examples=True)
    text = text.replace('authenticator = "none"', 'authenticator = "certificate"')
    config = parse_config(text, "f")
    assert config.key_store is not None
    (listener,) = config.listeners
    for key in LISTENER.keys:
        if key.example is not None and key.name != "client_roots":
            assert getattr(listener, key.name) == key.example


@pytest.mark.parametrize("is_in_effect", [False, True])
def test_check_is_content_with_the_example(tmp_path: Path, is_in_effect: bool) -> None:
    path = tmp_path / "edgesync.toml"
    path.write_text(uncommented(with_examples=False) if is_in_effect else EXAMPLE.read_text())
    assert (checked(path).returncode, checked(path).stderr) == (0, "")


def test_the_example_has_every_key_once() -> None:
    for section in all_sections():
        part = EXAMPLE.read_text().partition(f"[{section.header}]")[2]
        for key in section.keys:
            value = key.default if key.default is not None else key.example
            assert value is not None
            line = f"{key.name} = {in_toml(value)}\n"
            assert len(re.findall(f"^# ?(?:e\\.g\\. )?{re.escape(line)}", part, re.M)) >= 1, line


# --- the man page -----------------------------------------------------------------------------


def test_the_man_page_is_that_of_the_table() -> None:
    shipped = MAN_PAGE.read_text()
    assert shipped == man_page(), "python -m edgesync.daemon.reference man"


def test_the_man_page_has_every_key() -> None:
    page = man_page().replace("\\-", "-")
    for section in (*SECTIONS, KEY_STORE):
        for key in section.keys:
            assert f"\\fB{key.name}\\fR = " in page
