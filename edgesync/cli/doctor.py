"""`edgesync doctor`: what is wrong with this box, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from edgesync.api.answers import ListenerAnswer, StatusAnswer
from edgesync.api.client import state_folder
from edgesync.cli import checks
from edgesync.cli.checks import Finding, Level, Machine, bad, good, unknown, warning
from edgesync.cli.command import Context, Tree, argument
from edgesync.cli.database import verified
from edgesync.cli.output import BAD, DIM, GOOD, STRONG, WARN, Cell, Styled, day, duration
from edgesync.errors import ApiError, NotPermittedError, NotWellError

SOON: Final = timedelta(days=14)
DISCOVERY_MS: Final = 1500
MAX_AHEAD_S: Final = 120  # LiteCore's own limit
SPARE_DESCRIPTORS: Final = 40  # listeners keep 32 for other things
CONFIG: Final = "/etc/edgesync/edgesync.toml"
STYLES: Final = {Level.GOOD: GOOD, Level.WARNING: WARN, Level.BAD: BAD, Level.UNKNOWN: DIM}


def add(tree: Tree) -> None:
    """Add the noun."""
    tree.alone(
        "doctor",
        "find what is wrong with this box, and say what to do",
        run,
        argument("--quick", action="store_true", help="do not read all databases"),
        argument(
            "--config",
            metavar="FILE",
            default=CONFIG,
            help=f"of a service that does not run (default: {CONFIG})",
        ),
    )


def run(context: Context) -> None:
    """Show what all checks find.

    Raises:
        NotWellError: Something is bad.
    """
    findings = list(_findings(context))
    if context.out.is_json:
        context.out.json(
            [
                {"check": f.check, "level": f.level.value, "text": f.text, "hint": f.hint}
                for f in findings
            ]
        )
    else:
        _show(context, findings)
    problems = sum(finding.level is Level.BAD for finding in findings)
    if problems:
        words = "1 problem was" if problems == 1 else f"{problems} problems were"
        raise NotWellError(f"{words} found")


def _show(context: Context, findings: Iterable[Finding]) -> None:
    rows: list[list[Cell]] = []
    for finding in findings:
        mark = Styled(finding.level.value, STYLES[finding.level])
        rows.append([mark, finding.check, finding.text])
        if finding.hint:
            rows.append(["", "", Styled(f"-> {finding.hint}", STRONG)])
    context.out.table(["", "CHECK", "FINDING"], rows, empty="")


def _findings(context: Context) -> Iterator[Finding]:
    try:
        status = context.client.status()
    except NotPermittedError as error:
        yield bad("service", str(error), error.hint)
        status = None
    except ApiError as error:
        yield bad("service", str(error), error.hint or 'look at "edgesync logs"')
        yield from _of_stopped(Path(context.text("config")))
        status = None
    if status is None:
        machine = Machine.here(state_folder(context.environment), context.client.path)
    else:
        machine = Machine.here(Path(status["state_folder"]), context.client.path)
        yield from of_status(status, datetime.now(UTC))
        yield _discovery(context, status)
        if not context.flag("quick"):
            yield from _verification(context, status)
    yield from checks.everything(machine)


def _of_stopped(config: Path) -> Iterator[Finding]:
    """Look for what would keep the service from starting."""
    listeners, findings = checks.configuration(config)
    yield from findings
    for wanted in listeners:
        for finding in (checks.port(wanted), checks.interface(wanted)):
            if finding is not None:
                yield finding


def of_status(status: StatusAnswer, now: datetime) -> Iterator[Finding]:
    """Judge what the service says of itself."""
    yield good("service", f"edgesyncd {status['version']} answers")
    for problem in status["config_problems"]:
        hint = 'then "systemctl reload edgesyncd", or restart it for what takes effect at a start'
        yield bad("configuration", problem, hint)
    for listener in status["listeners"]:
        yield _listener(listener)
        if listener["expires_at"]:
            yield certificate(listener, now)
    for database in status["databases"]:
        name = database["name"]
        if database["open"] and database["problem"]:
            yield bad(
                "database",
                f'database "{name}" fails: {database["problem"]}',
                'clients try again by themselves; look at "disk" below and at "dmesg"',
            )
        elif database["problem"]:
            yield bad(
                "database",
                f'database "{name}" is not open: {database["problem"]}',
                f'put a backup back with "edgesync database restore {name} FILE"',
            )
        if database["versions_ahead_s"] > MAX_AHEAD_S:
            yield versions(name, database["versions_ahead_s"], now)
    yield descriptors(status["descriptors"]["used"], status["descriptors"]["limit"])
    if status["key_store"] == "locked":
        yield bad(
            "key store",
            "the key store is locked: listeners that need it do not serve",
            'open it with "edgesync unlock" and its passphrase',
        )


def versions(name: str, ahead_s: int, now: datetime) -> Finding:
    """Judge that a database gives out versions from the future, as its clock was set back."""
    until = (now + timedelta(seconds=ahead_s - MAX_AHEAD_S)).astimezone()
    return warning(
        "clock",
        f'database "{name}": its versions are {duration(ahead_s)} ahead of the clock; clients of '
        f"Couchbase Lite 4 refuse what is changed here until {until:%Y-%m-%d %H:%M}",
        'look at the clock first: "timedatectl"; if it is right, wait, or go on in a new database: '
        f'"edgesync document export {name} FILE", then "edgesync document import"',
    )


def descriptors(used: int, limit: int) -> Finding:
    """Judge whether there is a file descriptor for the next clients."""
    text = f"{used} of {limit} file descriptors are in use"
    if limit >= 0 and used >= limit - SPARE_DESCRIPTORS:
        return bad(
            "descriptors",
            f"{text}: further clients are refused",
            'lower max_connections, or raise LimitNOFILE= with "systemctl edit edgesyncd"',
        )
    return good("descriptors", text)


def _listener(listener: ListenerAnswer) -> Finding:
    name = listener["name"]
    if listener["state"] == "serving":
        return good("listener", f'"{name}" serves {", ".join(listener["urls"]) or "nobody"}')
    where = listener["interface"] or "an interface"
    if listener["state"] == "waiting":
        return bad(
            "interface",
            f'listener "{name}" waits for {listener["problem"]}',
            f'check cable, radio and address of {where}: "edgesync network"; it goes on by itself',
        )
    return bad(
        "listener",
        f'"{name}" does not serve: {listener["problem"]}',
        f'when that is mended: "edgesync listener restart {name}"',
    )


def certificate(listener: ListenerAnswer, now: datetime) -> Finding:
    """Judge how long the certificate of a listener is still valid."""
    name, label = listener["name"], listener["identity"]
    ends = datetime.fromisoformat(listener["expires_at"] or now.isoformat())
    hint = f'renew it with "edgesync identity renew {label}"'
    if label is None:
        hint = 'it is made anew when the service starts: "systemctl restart edgesyncd"'
    if ends <= now:
        return bad("certificate", f'that of listener "{name}" expired on {day(str(ends))}', hint)
    if ends - now < SOON:
        return warning("certificate", f'that of listener "{name}" ends on {day(str(ends))}', hint)
    return good("certificate", f'that of listener "{name}" is valid until {day(str(ends))}')


def _discovery(context: Context, status: StatusAnswer) -> Finding:
    announced = {name for each in status["listeners"] for name in each["announced_as"]}
    if status["mdns_problems"] or not announced:
        return discovery(status["mdns_problems"], announced, announced)
    try:
        heard = {peer["name"] for peer in context.client.peers(DISCOVERY_MS)}
    except ApiError as error:
        return discovery({"this box": str(error)}, announced, set())
    return discovery({}, announced, heard)


def discovery(problems: Mapping[str, str], announced: set[str], heard: set[str]) -> Finding:
    """Judge whether clients can find the box.

    Args:
        problems: Why nothing is announced, by interface.
        announced: The names that our listeners announce.
        heard: The names that we heard ourselves.
    """
    hint = "let UDP port 5353 through the firewall, in both directions"
    for where, problem in problems.items():
        return bad("mDNS", f"clients cannot find this box: {where}: {problem}", hint)
    if not announced:
        return unknown("mDNS", "no listener of this box announces itself")
    if missing := announced - heard:
        return bad("mDNS", f"nobody hears of {', '.join(sorted(missing))}", hint)
    return good("mDNS", f"{', '.join(sorted(announced))} can be found")


def _verification(context: Context, status: StatusAnswer) -> Iterator[Finding]:
    for database in status["databases"]:
        if not database["open"]:
            continue
        name = database["name"]
        found = verified(context, name)
        if found:
            yield bad(
                "database",
                f'database "{name}" is damaged: {found[0]}',
                f'back up what is readable, then "edgesync database restore {name} FILE"',
            )
        else:
            yield good("database", f'"{name}" is sound')
