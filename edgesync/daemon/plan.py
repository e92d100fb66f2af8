"""What another configuration changes in a service that runs: a value made of values."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace

from edgesync.daemon.config import DatabaseConfig, ListenerConfig, ServiceConfig
from edgesync.daemon.config_keys import OnReload, changed_limits

TOUCHES_LISTENERS = (OnReload.RESTARTS_ALL, OnReload.RESTARTS_ALL_AND_NEXT_START)


@dataclass(frozen=True, slots=True)
class Running:
    """What runs."""

    at_start: ServiceConfig
    """What the service was started with: its key store and some limits stay until it ends."""
    config: ServiceConfig
    """What is in effect."""
    sound_databases: Set[str] = frozenset()
    """Those that are open and have all collections that they should."""
    idle_listeners: Set[str] = frozenset()
    """Those that do not serve."""
    other_roots: Set[str] = frozenset()
    """Listeners whose files with client roots have changed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps from one configuration to another, in their order."""

    config: ServiceConfig
    """What is in effect then."""
    removed: tuple[str, ...]
    """Listeners to stop for good."""
    restarted: tuple[ListenerConfig, ...]
    """Listeners to stop, and to make and start anew."""
    closed: tuple[str, ...]
    """Databases to close."""
    opened: tuple[DatabaseConfig, ...]
    """Databases to open, or to make new collections in."""
    added: tuple[ListenerConfig, ...]
    """Listeners to make and start."""
    at_next_start: tuple[str, ...]
    """Keys that differ from what the service was started with, and keep doing so."""

    def in_words(self) -> Iterator[str]:
        """Yield what changes, for people."""
        for what, names in (
            ("stopped listener", self.removed),
            ("restarted listener", [each.name for each in self.restarted]),
            ("closed database", self.closed),
            ("opened or extended database", [each.name for each in self.opened]),
            ("started listener", [each.name for each in self.added]),
        ):
            for name in names:
                yield f'{what} "{name}"'


def plan_for(running: Running, wanted: ServiceConfig) -> Plan:
    """Return the way from what runs to what is wanted; what is equal is not in it."""
    old_databases = {each.name: each for each in running.config.databases}
    old_listeners = {each.name: each for each in running.config.listeners}
    new_listeners = {each.name: each for each in wanted.listeners}
    wanted_databases = {each.name for each in wanted.databases}
    opened = tuple(
        each
        for each in wanted.databases
        if each.name not in running.sound_databases or each != old_databases.get(each.name)
    )
    touched = {each.name for each in opened if _has_new_collections(each, old_databases)}
    changes = changed_limits(running.config.limits, wanted.limits).values()
    all_restart = any(change in TOUCHES_LISTENERS for change in changes)

    def must_restart(new: ListenerConfig) -> bool:
        return (
            all_restart
            or new.name in running.idle_listeners
            or new.name in running.other_roots
            or (new.database in touched and not new.collections)
            or replace(new, advertise=True) != replace(old_listeners[new.name], advertise=True)
        )

    return Plan(
        config=replace(wanted, key_store=running.at_start.key_store),
        removed=tuple(name for name in old_listeners if name not in new_listeners),
        restarted=tuple(
            each for each in wanted.listeners if each.name in old_listeners and must_restart(each)
        ),
        closed=tuple(name for name in old_databases if name not in wanted_databases),
        opened=opened,
        added=tuple(each for each in wanted.listeners if each.name not in old_listeners),
        at_next_start=tuple(_at_next_start(running.at_start, wanted)),
    )


def _has_new_collections(new: DatabaseConfig, old: dict[str, DatabaseConfig]) -> bool:
    known = old[new.name].collections if new.name in old else ()
    return not set(new.collections) <= set(known)


def _at_next_start(started: ServiceConfig, wanted: ServiceConfig) -> Iterator[str]:
    if started.key_store != wanted.key_store:
        yield "key_store.unlock"
    for name, change in changed_limits(started.limits, wanted.limits).items():
        if change is not OnReload.RESTARTS_ALL:
            yield f"limits.{name}"
