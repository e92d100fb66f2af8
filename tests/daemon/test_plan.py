"""What another configuration changes, as a value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgesync.daemon.config import (
    DatabaseConfig,
    KeyStoreConfig,
    ListenerConfig,
    ServiceConfig,
)
from edgesync.daemon.plan import Plan, Running, plan_for
from edgesync.limits import Limits

STOCK = DatabaseConfig("stock", ("_default", "items"))
YARD = DatabaseConfig("yard")
ALL = ListenerConfig("all", database="stock")
ITEMS = ListenerConfig("items", database="stock", collections=("items",), port=5000)
CONFIG = ServiceConfig("f", (STOCK,), (ALL, ITEMS), Limits())
RUNNING = Running(CONFIG, CONFIG, sound_databases={"stock"})


def touched(plan: Plan) -> set[str]:
    listeners = [each.name for each in (*plan.restarted, *plan.added)]
    return {*listeners, *plan.removed, *plan.closed, *(each.name for each in plan.opened)}


def with_listeners(*listeners: ListenerConfig) -> ServiceConfig:
    return replace(CONFIG, listeners=listeners)


def test_the_same_configuration_touches_nothing() -> None:
    plan = plan_for(RUNNING, CONFIG)
    assert touched(plan) == set()
    assert list(plan.in_words()) == []


def test_a_new_listener_is_started_alone() -> None:
    new = ListenerConfig("new", database="stock", port=6000)
    plan = plan_for(RUNNING, with_listeners(ALL, ITEMS, new))
    assert (plan.added, touched(plan)) == ((new,), {"new"})


def test_a_listener_that_is_gone_is_stopped_alone() -> None:
    plan = plan_for(RUNNING, with_listeners(ALL))
    assert (plan.removed, touched(plan)) == (("items",), {"items"})


@pytest.mark.parametrize(
    "change",
    [
        {"port": 7000},
        {"interface": "wlan0"},
        {"disable_tls": True},
        {"tls_identity": "kitchen"},
        {"authenticator": "password"},
        {"collections": ("_default",)},
        {"read_only": True},
        {"enable_delta_sync": True},
        {"prove_blobs": True},
    ],
)
def test_a_listener_that_is_another_is_restarted_alone(change: dict[str, object]) -> None:
    changed = replace(ITEMS, **change)  # type: ignore[arg-type]  # one key of any type
    plan = plan_for(RUNNING, with_listeners(ALL, changed))
    assert (plan.restarted, touched(plan)) == ((changed,), {"items"})


def test_announcing_touches_no_listener() -> None:
    plan = plan_for(RUNNING, with_listeners(ALL, replace(ITEMS, advertise=False)))
    assert touched(plan) == set()
    assert not plan.config.listeners[1].advertise


def test_a_listener_whose_files_changed_is_restarted() -> None:
    assert touched(plan_for(replace(RUNNING, other_roots={"items"}), CONFIG)) == {"items"}


def test_a_listener_that_does_not_serve_is_tried_again() -> None:
    assert touched(plan_for(replace(RUNNING, idle_listeners={"all"}), CONFIG)) == {"all"}


def test_databases_come_and_go() -> None:
    both = replace(CONFIG, databases=(STOCK, YARD))
    assert plan_for(RUNNING, both).opened == (YARD,)
    assert plan_for(Running(both, both, {"stock", "yard"}), CONFIG).closed == ("yard",)


def test_a_database_that_could_not_be_opened_is_tried_again() -> None:
    assert plan_for(replace(RUNNING, sound_databases=frozenset()), CONFIG).opened == (STOCK,)


def test_new_collections_restart_listeners_of_the_whole_database() -> None:
    more = replace(STOCK, collections=("_default", "items", "orders"))
    assert touched(plan_for(RUNNING, replace(CONFIG, databases=(more,)))) == {"stock", "all"}


def test_collections_that_are_no_longer_listed_disturb_nobody() -> None:
    fewer = replace(STOCK, collections=("items",))
    assert touched(plan_for(RUNNING, replace(CONFIG, databases=(fewer,)))) == {"stock"}


@pytest.mark.parametrize(
    ("limits", "listeners", "later"),
    [
        (Limits(max_connections=1), {"all", "items"}, ()),
        (Limits(max_api_connections=1), set(), ("limits.max_api_connections",)),
        (Limits(max_document_bytes=9), {"all", "items"}, ("limits.max_document_bytes",)),
    ],
)
def test_limits_are_put_into_effect_where_they_can_be(
    limits: Limits, listeners: set[str], later: tuple[str, ...]
) -> None:
    plan = plan_for(RUNNING, replace(CONFIG, limits=limits))
    assert (touched(plan), plan.at_next_start) == (listeners, later)
    again = plan_for(replace(RUNNING, config=plan.config), replace(CONFIG, limits=limits))
    assert (touched(again), again.at_next_start) == (set(), later)


def test_the_key_store_stays_until_the_next_start() -> None:
    wanted = replace(CONFIG, key_store=KeyStoreConfig("passphrase"))
    plan = plan_for(RUNNING, wanted)
    assert (touched(plan), plan.at_next_start) == (set(), ("key_store.unlock",))
    assert plan.config.key_store is None
