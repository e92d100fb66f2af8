from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.daemon.config import (
    EMBEDDED,
    DatabaseConfig,
    KeyStoreConfig,
    ListenerConfig,
    parse_config,
    read_config,
)
from edgesync.errors import ConfigurationError
from edgesync.limits import Limits

FULL = """
[database.stock]
collections = ["_default", "inventory.items"]

[listener.field]
database = "stock"
collections = ["inventory.items"]
interface = "wlan0"
port = 4985
disable_tls = true
authenticator = "none"
enable_delta_sync = true
read_only = true
advertise = false

[limits]
max_connections = 3
ping_interval_s = 20
"""


def refused(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(text, "edgesync.toml")
    assert caught.value.hint
    return caught.value


def test_every_key_of_a_database_arrives() -> None:
    assert parse_config(FULL, "f").databases == (
        DatabaseConfig("stock", ("_default", "inventory.items")),
    )


def test_every_key_of_a_listener_arrives() -> None:
    assert parse_config(FULL, "f").listeners == (
        ListenerConfig(
            name="field",
            database="stock",
            collections=("inventory.items",),
            interface="wlan0",
            port=4985,
            disable_tls=True,
            enable_delta_sync=True,
            read_only=True,
            advertise=False,
        ),
    )


def test_limits_replace_their_defaults() -> None:
    limits = parse_config(FULL, "f").limits
    assert limits == Limits(max_connections=3, ping_interval_s=20)


def test_an_empty_file_is_the_embedded_configuration() -> None:
    config = parse_config("", EMBEDDED.source)
    assert config == EMBEDDED


def test_a_database_alone_gets_a_listener_on_this_machine() -> None:
    (listener,) = parse_config("[database.stock]", "f").listeners
    assert (listener.database, listener.interface) == ("stock", "127.0.0.1")


def test_a_database_has_the_default_collection_unless_told() -> None:
    (database,) = parse_config("[database.stock]", "f").databases
    assert database.collections == ("_default",)


def test_a_listener_needs_no_database_if_there_is_one_only() -> None:
    (listener,) = parse_config("[database.stock]\n[listener.field]", "f").listeners
    assert listener == ListenerConfig("field", database="stock")


def test_several_databases_need_a_listener() -> None:
    error = refused("[database.a]\n[database.b]")
    assert "listener is missing" in str(error)


def test_a_listener_of_several_databases_names_one() -> None:
    error = refused("[database.a]\n[database.b]\n[listener.x]\nport = 1")
    assert str(error) == "edgesync.toml: listener.x.database is missing"
    assert error.hint == "configured: a, b"


def test_an_unknown_database_is_refused() -> None:
    error = refused('[database.stock]\n[listener.x]\ndatabase = "stok"')
    assert 'listener.x.database names "stok", which is not configured' in str(error)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[databse.x]", "databse", 'write "database"'),
        ("[database.x]\ncolections = []", "database.x.colections", 'write "collections"'),
        ("[listener.x]\nprt = 1", "listener.x.prt", 'write "port"'),
        ("[listener.x]\nname = 'y'", "listener.x.name", "known here: "),
        ("[limits]\nmax_conections = 1", "limits.max_conections", 'write "max_connections"'),
    ],
)
def test_an_unknown_key_is_refused_with_the_likely_one(text: str, key: str, hint: str) -> None:
    error = refused(text)
    assert str(error) == f"edgesync.toml: {key} is not a key that edgesyncd knows"
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("database = 1", "database"),
        ("[database]\nx = 1", "database.x"),
        ("[database.x]\ncollections = 'a'", "database.x.collections"),
        ("[database.x]\ncollections = [1]", "database.x.collections"),
        ("[database.x]\ncollections = []", "database.x.collections"),
        ("[listener.x]\ndatabase = 1", "listener.x.database"),
        ("[listener.x]\ninterface = 1", "listener.x.interface"),
        ("[listener.x]\nport = '1'", "listener.x.port"),
        ("[listener.x]\nport = true", "listener.x.port"),
        ("[listener.x]\nport = 65536", "listener.x.port"),
        ("[listener.x]\nport = -1", "listener.x.port"),
        ("[listener.x]\ndisable_tls = 1", "listener.x.disable_tls"),
        ("[listener.x]\nenable_delta_sync = 'yes'", "listener.x.enable_delta_sync"),
        ("[listener.x]\nread_only = 0", "listener.x.read_only"),
        ("[limits]\nmax_connections = 0", "limits.max_connections"),
        ("[limits]\nmax_connections = 1.5", "limits.max_connections"),
        ("[limits]\nmax_connections = true", "limits.max_connections"),
        ("[limits]\nping_interval_s = nan", "limits.ping_interval_s"),
        ("limits = []", "limits"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(text: str, key: str) -> None:
    assert str(refused(text)).startswith(f"edgesync.toml: {key} ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tls_identity = 'kitchen'", "tls_identity needs a key store"),
        ("authenticator = 'password'", "authenticator needs a key store"),
        ("authenticator = 'passwort'", 'authenticator is "passwort"'),
        ("authenticator = 'certificate'", "client_roots is missing"),
        ("authenticator = 'certificate'\nclient_roots = []", "client_roots must not be empty"),
        (
            "authenticator = 'certificate'\nclient_roots = ['ca.pem']\ndisable_tls = true",
            "authenticator needs TLS",
        ),
        ("client_roots = ['ca.pem']", "client_roots is not used"),
        ("disable_tls = true\nclient_roots = ['ca.pem']", "client_roots is not used"),
    ],
)
def test_listener_that_would_let_in_others_than_it_says_is_refused(text: str, why: str) -> None:
    assert f"listener.x.{why}" in str(refused(f"[listener.x]\n{text}"))


def test_identity_of_a_plain_listener_is_ignored() -> None:
    text = "[key_store]\nunlock = 'passphrase'\n[listener.x]\ntls_identity = 'kitchen'\n"
    assert parse_config(f"{text}disable_tls = true", "f").listeners[0].disable_tls


@pytest.mark.parametrize(
    ("unlock", "expected"),
    [
        ("passphrase", KeyStoreConfig("passphrase")),
        ("credential:edgesync.key", KeyStoreConfig("credential", "edgesync.key")),
        ("file:/etc/edgesync/key", KeyStoreConfig("file", "/etc/edgesync/key")),
        ("file:key:2", KeyStoreConfig("file", "/etc/edgesync/key:2")),
    ],
)
def test_ways_to_unlock_the_key_store(unlock: str, expected: KeyStoreConfig) -> None:
    config = parse_config(f"[key_store]\nunlock = '{unlock}'", "/etc/edgesync/edgesync.toml")
    assert config.key_store == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unlock = ''",
        "unlock = 'password'",
        "unlock = 'passphrase:sesame'",
        "unlock = 'credential:'",
        "unlock = 'credential:../key'",
        "unlock = 'file:'",
    ],
)
def test_unknown_way_to_unlock_the_key_store_is_refused(text: str) -> None:
    assert "key_store.unlock" in str(refused(f"[key_store]\n{text}"))


def test_passphrase_has_no_place_in_the_file() -> None:
    assert "passphrase is not a key" in str(refused("[key_store]\npassphrase = 'sesame'"))


def test_without_a_section_there_is_no_key_store() -> None:
    assert parse_config("", "f").key_store is None


@pytest.mark.parametrize(
    ("one", "other"), [("wlan0", "wlan0"), (None, "wlan0"), ("wlan0", None), ("::", "wlan0")]
)
def test_two_listeners_on_one_port_are_refused(one: str | None, other: str | None) -> None:
    def listener(name: str, interface: str | None) -> str:
        line = f'interface = "{interface}"' if interface else ""
        return f"[listener.{name}]\nport = 5000\n{line}\n"

    error = refused(listener("a", one) + listener("b", other))
    assert "listener.b.port is 5000, as that of listener.a" in str(error)


def test_two_listeners_may_have_one_port_on_two_interfaces() -> None:
    text = '[listener.a]\ninterface = "wlan0"\n[listener.b]\ninterface = "eth0"\n'
    assert len(parse_config(text, "f").listeners) == 2


def test_any_number_of_listeners_may_have_a_free_port() -> None:
    text = "[listener.a]\nport = 0\n[listener.b]\nport = 0\n"
    assert len(parse_config(text, "f").listeners) == 2


def test_wrong_syntax_is_refused_with_its_line() -> None:
    assert "line 2" in str(refused("[limits]\nmax_connections = x\n"))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.toml cannot be read: No such file"):
        read_config(tmp_path / "no.toml")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9")
    with pytest.raises(ConfigurationError, match="not UTF-8 at byte 2"):
        read_config(path)


def test_a_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "edgesync.toml"
    path.write_text(FULL)
    assert read_config(path).source == str(path)


@given(st.text())
def test_noise_raises_configuration_errors_only(text: str) -> None:
    with suppress(ConfigurationError):
        parse_config(text, "f")
