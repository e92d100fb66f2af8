"""The configuration file `edgesync.toml`, as frozen values.

Every key is optional. What is not understood is refused: a key that is
silently ignored is worse than a service that does not start. Names are
checked where they are used, by the database.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from edgesync.daemon.config_keys import DATABASE, KEY_STORE, LISTENER, SECTIONS, Section
from edgesync.errors import ConfigurationError
from edgesync.limits import Limits

V = TypeVar("V")
Table = Mapping[str, object]

DEFAULT_PORT: Final = 4984  # the one that Couchbase's own servers use for sync
MAX_PORT: Final = 65535
_TOO_LARGE: Final = 2**53  # for a limit: no clock and no size counts further; infinity is more
_MAX_SHOWN: Final = 200
DEFAULT_COLLECTIONS: Final = ("_default",)
ALL_INTERFACES: Final = (None, "0.0.0.0", "::")  # noqa: S104  # compared, not bound


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """A `[database.NAME]`."""

    name: str
    collections: tuple[str, ...] = DEFAULT_COLLECTIONS
    """Made if they are missing."""


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """A `[listener.NAME]`."""

    name: str
    database: str
    """Required if there is more than one."""
    collections: tuple[str, ...] = ()
    """None given: all of the database."""
    interface: str | None = None
    """A name or an address; None: all."""
    port: int = DEFAULT_PORT
    """0: any free one."""
    disable_tls: bool = False
    tls_identity: str | None = None
    """A label in the key store; None: the anonymous identity."""
    authenticator: str = "none"
    """One of `AUTHENTICATORS`."""
    client_roots: tuple[Path, ...] = ()
    """PEM files with the certificates that vouch for clients, with "certificate"."""
    enable_delta_sync: bool = False
    read_only: bool = False
    prove_blobs: bool = False
    """Clients must prove that they have the blobs they refer to."""
    advertise: bool = True
    """Over mDNS, on the networks where it listens."""


@dataclass(frozen=True, slots=True)
class KeyStoreConfig:
    """The `[key_store]`: with what it is unlocked."""

    kind: Literal["credential", "file", "passphrase"]
    name: str = ""
    """Of the credential that systemd passes, or of the file."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """All that the service runs."""

    source: str
    """The file's name, for messages."""
    databases: tuple[DatabaseConfig, ...]
    listeners: tuple[ListenerConfig, ...]
    limits: Limits
    key_store: KeyStoreConfig | None = None
    """None: there is none, and the anonymous identity lives as long as the process."""


EMBEDDED: Final = ServiceConfig(
    source="the embedded configuration",
    databases=(DatabaseConfig("db"),),
    listeners=(ListenerConfig("local", database="db", interface="127.0.0.1"),),
    limits=Limits(),
)
"""What runs without a file: reachable from this machine alone."""

AUTHENTICATORS: Final = ("none", "password", "certificate")


def read_config(path: Path) -> ServiceConfig:
    """Read a configuration file.

    Raises:
        ConfigurationError: It cannot be read, or says what cannot be done.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}", hint="name another file with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 at byte {error.start}", hint="save it as UTF-8"
        ) from error
    return parse_config(text, str(path))


def parse_config(text: str, source: str) -> ServiceConfig:
    """Parse the text of a configuration file.

    Args:
        text: TOML.
        source: The file's name, for messages.

    Raises:
        ConfigurationError: It says what cannot be done.
    """
    try:
        root = _Section(tomllib.loads(text), source)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and what tomllib forgets
        raise ConfigurationError(f"{source}: {error}", hint="correct the syntax") from error
    root.allow(*(section.header.partition(".")[0] for section in SECTIONS), "limits")
    key_store = _key_store(root.section("key_store")) if "key_store" in root.table else None
    databases = tuple(_database(section) for section in root.sections("database"))
    databases = databases or EMBEDDED.databases
    listeners = tuple(_listener(section, databases) for section in root.sections("listener"))
    _check_ports(root, listeners)
    if key_store is None:
        _check_nobody_needs_keys(root, listeners)
    return ServiceConfig(
        source,
        databases,
        listeners or (_default_listener(root, databases),),
        _limits(root.section("limits")),
        key_store,
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """A table, and where it stands."""

    table: Table
    source: str
    path: tuple[str, ...] = ()

    def error(self, key: str, reason: str, hint: str) -> ConfigurationError:
        """Return an error that names file, key, reason and way out."""
        return ConfigurationError(
            f"{self.source}: {'.'.join((*self.path, key))} {reason}", hint=hint
        )

    def allow(self, *known: str) -> None:
        """Refuse all other keys."""
        for key in self.table:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f'write "{close[0]}"' if close else f"known here: {', '.join(sorted(known))}"
                raise self.error(key, "is not a key that edgesyncd knows", hint)

    def value(self, key: str, kind: type[V], default: V) -> V:
        """Return a value of the given type."""
        value = self.table.get(key, default)
        # A bool is an int to Python, but not to the person who wrote the file.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, f"must be {_KINDS[kind]}", f"it is {_shown(value)}")
        return value

    def optional(self, key: str) -> str | None:
        """Return a string, None if the key is absent."""
        return self.value(key, str, "") if key in self.table else None

    def strings(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of strings, of which there is at least one."""
        value = self.table.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "must be a list of strings", f"it is {_shown(value)}")
        if key in self.table and not value:
            raise self.error(key, "must not be empty", "name one, or remove the key")
        return tuple(value)

    def section(self, key: str) -> _Section:
        """Return the table under a key, empty if it is absent."""
        table: Table = self.value(key, dict, {})
        return _Section(table, self.source, (*self.path, key))

    def sections(self, key: str) -> list[_Section]:
        """Return the named tables under a key."""
        parent = self.section(key)
        return [parent.section(name) for name in parent.table]


def _shown(value: object) -> str:
    """Return a value as a person would know it again."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, written in base 16
        return "too large"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


_KINDS: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    dict: "a table",
}


def _names(section: Section) -> Iterator[str]:
    return (key.name for key in section.keys)


def _database(section: _Section) -> DatabaseConfig:
    section.allow(*_names(DATABASE))
    name = section.path[-1]
    return DatabaseConfig(name, section.strings("collections", DEFAULT_COLLECTIONS))


def _listener(section: _Section, databases: tuple[DatabaseConfig, ...]) -> ListenerConfig:
    section.allow(*_names(LISTENER))
    names = [database.name for database in databases]
    database = section.value("database", str, names[0] if len(names) == 1 else "")
    if database not in names:
        reason = f'names "{database}", which is not configured' if database else "is missing"
        raise section.error("database", reason, f"configured: {', '.join(names)}")
    port = section.value("port", int, DEFAULT_PORT)
    if not 0 <= port <= MAX_PORT:
        hint = f"choose one of 0 to {MAX_PORT}; 0: any free one"
        raise section.error("port", f"is {_shown(port)}", hint)
    disable_tls = section.value("disable_tls", bool, False)
    authenticator, client_roots = _admission(section, disable_tls=disable_tls)
    return ListenerConfig(
        name=section.path[-1],
        database=database,
        collections=section.strings("collections", ()),
        interface=section.optional("interface"),
        port=port,
        disable_tls=disable_tls,
        tls_identity=section.optional("tls_identity"),
        authenticator=authenticator,
        client_roots=client_roots,
        enable_delta_sync=section.value("enable_delta_sync", bool, False),
        read_only=section.value("read_only", bool, False),
        prove_blobs=section.value("prove_blobs", bool, False),
        advertise=section.value("advertise", bool, True),
    )


def _admission(section: _Section, *, disable_tls: bool) -> tuple[str, tuple[Path, ...]]:
    """Return who may come in, and the files that it needs."""
    chosen = section.value("authenticator", str, "none")
    roots = section.strings("client_roots", ())
    if chosen not in AUTHENTICATORS:
        hint = f"choose one of {', '.join(AUTHENTICATORS)}"
        raise section.error("authenticator", f'is "{chosen}"', hint)
    if chosen != "certificate":
        if roots:
            hint = 'add authenticator = "certificate", or remove the key'
            raise section.error("client_roots", "is not used by this authenticator", hint)
        return chosen, ()
    if disable_tls:
        hint = "remove disable_tls, or choose another authenticator"
        raise section.error("authenticator", "needs TLS, which is disabled", hint)
    if not roots:
        hint = "name PEM files with the certificates that vouch for clients"
        raise section.error("client_roots", "is missing", hint)
    folder = Path(section.source).parent
    return chosen, tuple(folder / root for root in roots)


def _key_store(section: _Section) -> KeyStoreConfig:
    section.allow(*_names(KEY_STORE))
    unlock = section.value("unlock", str, "")
    kind, _, name = unlock.partition(":")
    if unlock == "passphrase":
        return KeyStoreConfig("passphrase")
    if kind == "credential" and name and "/" not in name:
        return KeyStoreConfig("credential", name)
    if kind == "file" and name:
        return KeyStoreConfig("file", str(Path(section.source).parent / name))
    # The value is not shown: it may be the passphrase itself, in the wrong place.
    raise section.error(
        "unlock",
        "says no way to unlock it" if unlock else "is missing",
        'write "credential:NAME", "file:PATH" or "passphrase"',
    )


def _check_nobody_needs_keys(root: _Section, listeners: tuple[ListenerConfig, ...]) -> None:
    for listener in listeners:
        wants = {
            "tls_identity": listener.tls_identity is not None,
            "authenticator": listener.authenticator == "password",
        }
        for key in (key for key, is_wanted in wants.items() if is_wanted):
            raise root.error(
                f"listener.{listener.name}.{key}",
                "needs a key store, and there is none",
                'add [key_store] with unlock = "passphrase", "file:PATH" or "credential:NAME"',
            )


def _check_ports(root: _Section, listeners: tuple[ListenerConfig, ...]) -> None:
    """Refuse two listeners that would bind the same port."""
    for index, one in enumerate(listeners):
        for other in listeners[:index]:
            if one.port == other.port != 0 and (
                one.interface == other.interface
                or one.interface in ALL_INTERFACES
                or other.interface in ALL_INTERFACES
            ):
                raise root.error(
                    f"listener.{one.name}.port",
                    f"is {one.port}, as that of listener.{other.name} on the same interface",
                    "choose another port",
                )


def _default_listener(root: _Section, databases: tuple[DatabaseConfig, ...]) -> ListenerConfig:
    if len(databases) > 1:
        raise root.error(
            "listener",
            "is missing, and there is more than one database",
            f'add [listener.local] with database = "{databases[0].name}"',
        )
    return replace(EMBEDDED.listeners[0], database=databases[0].name)


def _limits(section: _Section) -> Limits:
    """Return the limits, with those that the file sets."""
    kinds = {field.name: field.type for field in fields(Limits)}
    section.allow(*kinds)
    # Any: the types were compared with the fields', which a type checker cannot follow.
    values: dict[str, Any] = {key: _limit(section, key, kinds[key]) for key in section.table}
    return replace(Limits(), **values)


def _limit(section: _Section, key: str, kind: object) -> int | float:
    value = section.table[key]
    # Types of fields are strings, as annotations are not evaluated.
    allowed, words = ((int, float), "number") if kind == "float" else ((int,), "whole number")
    if isinstance(value, bool) or not isinstance(value, allowed) or not 0 < value < _TOO_LARGE:
        raise section.error(key, f"must be a positive {words}", f"it is {_shown(value)}")
    return value
