"""The man page, made from the tree of nouns and verbs: `python -m edgesync.cli.manual`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Final

from edgesync.cli.main import make_parser

INTRODUCTION: Final = """\
.SH DESCRIPTION
.B edgesync
asks and steers
.BR edgesyncd (8),
the service that Couchbase Lite clients sync with, over its Unix socket.
It prints tables; with
.B \\-\\-json
it prints JSON, and needs nothing but Python's standard library for that.
When something is wrong,
.B edgesync doctor
finds out what, and says what to do.
.PP
Secrets are asked for, or read from standard input, and never taken from arguments.
Verbs that destroy something ask, too, unless
.B \\-\\-yes
is given.
"""
END: Final = """\
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
Failed; what and why is on standard error.
.TP
.B 2
Wrong usage.
.TP
.B 3
edgesyncd is not running.
.TP
.B 4
Not permitted.
.SH ENVIRONMENT
.TP
.B EDGESYNC_SOCKET
The service's socket.
.TP
.B NO_COLOR
If it is set, nothing is coloured.
.SH FILES
.TP
.I /run/edgesync/edgesync.sock
The service's socket; members of the group
.B edgesync
may use it.
.TP
.I /etc/edgesync/edgesync.toml
The configuration;
.B systemctl reload edgesyncd
puts a changed one into effect.
.SH SEE ALSO
.BR edgesyncd (8),
.BR edgesync.toml (5),
.BR journalctl (1)
"""


def man_page() -> str:
    """Return the page in the language of man(7)."""
    parser = make_parser()
    lines = [
        '.TH EDGESYNC 1 "" edgesync "User Commands"',
        ".SH NAME",
        "edgesync \\- look after a box that serves Couchbase Lite clients",
        ".SH SYNOPSIS",
        ".B edgesync",
        "[\\fIOPTION\\fR]... \\fINOUN\\fR [\\fIVERB\\fR] [\\fIARGUMENT\\fR]...",
        INTRODUCTION.rstrip(),
        ".SH OPTIONS",
        *_arguments(parser),
        ".SH COMMANDS",
        *_commands(parser),
        END.rstrip(),
    ]
    return "\n".join(lines) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's nouns or verbs, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments that are worth telling."""
    return [
        action
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        and not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
    ]


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for noun, its_parser in subcommands(parser).items():
        verbs = subcommands(its_parser)
        yield f".SS {_roff(noun)}"
        yield _roff(its_parser.description or "")
        if not verbs:
            yield from _command(noun, its_parser)
        for verb, verbs_parser in verbs.items():
            yield from _command(f"{noun} {verb}", verbs_parser)
            yield _roff(verbs_parser.description or "")
            yield from _listed(verbs_parser)
        if not verbs:
            yield from _listed(its_parser)


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    synopsis = " ".join(_synopsis(action) for action in arguments(parser))
    yield ".TP"
    yield f"\\fBedgesync {_roff(name)}\\fR {synopsis}".rstrip()


def _listed(parser: argparse.ArgumentParser) -> Iterator[str]:
    if arguments(parser):
        yield ".RS"
        yield from _arguments(parser)
        yield ".RE"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in arguments(parser):
        yield ".TP"
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in action.option_strings)
        value = f"\\fI{_roff(_metavar(action))}\\fR" if _takes_value(action) else ""
        yield f"{names} {value}".strip()
        yield _roff(action.help or "")


def _synopsis(action: argparse.Action) -> str:
    value = f"\\fI{_roff(_metavar(action))}\\fR" if _takes_value(action) else ""
    if not action.option_strings:
        return f"[{value}]" if action.nargs == "?" else value
    text = f"\\fB{_roff(action.option_strings[0])}\\fR {value}".strip()
    return text if action.required else f"[{text}]"


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _roff(text: str) -> str:
    """Return a text that troff shows as it is."""
    shown = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


if __name__ == "__main__":
    sys.stdout.write(man_page())
