"""What happened and what was logged, kept and followed."""

from __future__ import annotations

import json
import logging

import gevent

from edgesync.api.events import KEPT_EVENTS, Events, RecentLog


def test_only_the_last_events_are_kept() -> None:
    events = Events()
    for number in range(KEPT_EVENTS + 10):
        events.record("tick", str(number))
    kept = [json.loads(line)["text"] for line in events.lines(2**31, follow=False)]
    assert len(kept) == KEPT_EVENTS
    assert kept[-1] == str(KEPT_EVENTS + 9)


def test_followers_first_see_the_last_ones() -> None:
    events = Events()
    for number in range(5):
        events.record("tick", str(number))
    following = events.lines(2, follow=True)
    assert next(following) == b"\n"
    assert [json.loads(next(following))["text"] for _ in range(2)] == ["3", "4"]


def test_followers_see_what_comes() -> None:
    events = Events()
    events.record("before", "it was not asked for")
    following = events.lines(0, follow=True)
    assert next(following) == b"\n"
    gevent.spawn_later(0.05, events.record, "now", "now")
    assert json.loads(next(following))["text"] == "now"


def test_log_lines_have_their_level() -> None:
    recent = RecentLog()
    recent.handle(logging.LogRecord("x", logging.WARNING, "", 1, "%s left", ("peer",), None))
    (line,) = recent.lines(10, follow=False)
    assert json.loads(line)["line"].endswith("WARNING peer left")
