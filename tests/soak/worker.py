"""Many clients as greenlets of one process; told what to do by lines on standard input.

live SECONDS    they edit and sync that long; answered by "done"
settle          each syncs once; answered by the number of revisions that moved
report          answered by a line of JSON: what each client ends with
"""

# ruff: noqa: E402 - patching comes before everything
from gevent import monkey

monkey.patch_all()

import json
import sys
import time

import gevent
from gevent.fileobject import FileObjectThread

from tests.soak.application import Application

ARRIVE_WITHIN_S = 5.0


def live(applications: list[Application], seconds: float) -> None:
    until = time.monotonic() + seconds
    arrive_s = min(ARRIVE_WITHIN_S, seconds / 4)
    greenlets = [
        gevent.spawn_later(arrive_s * place / len(applications), each.live, until)
        for place, each in enumerate(applications)
    ]
    gevent.joinall(greenlets, raise_error=True)


def settle(applications: list[Application]) -> int:
    greenlets = [gevent.spawn(each.settle) for each in applications]
    gevent.joinall(greenlets, raise_error=True)
    return sum(each.get().revisions for each in greenlets)


def main(url: str, first: int, step: int, end: int, pause_s: float) -> None:
    applications = [Application(url, number, pause_s) for number in range(first, end, step)]
    print("ready", flush=True)
    for line in FileObjectThread(sys.stdin.fileno(), "r"):
        match line.split():
            case ["live", seconds]:
                live(applications, float(seconds))
                print("done", flush=True)
            case ["settle"]:
                print(settle(applications), flush=True)
            case ["report"]:
                print(json.dumps([each.report() for each in applications]), flush=True)


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        float(sys.argv[5]),
    )
