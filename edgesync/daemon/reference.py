"""The reference of `edgesync.toml` and a commented example, made from the table of its keys.

    python -m edgesync.daemon.reference man > share/man/man5/edgesync.toml.5
    python -m edgesync.daemon.reference example > share/edgesync.toml

What the limits are is read from the docstrings of `edgesync.limits`, so there is no
second list of them.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from edgesync import limits
from edgesync.daemon.config_keys import (
    NUMBER,
    SECTIONS,
    Key,
    Section,
    Value,
    limit_on_reload,
)
from edgesync.limits import Limits

WIDTH: Final = 96
UNITS: Final = (("_bytes_per_s", "bytes per second"), ("_bytes", "bytes"), ("_s", "seconds"))
INTRODUCTION: Final = """\
edgesync.toml: all keys that edgesyncd knows, each commented out at its default. A key that can
only be left out has an example instead, marked "e.g.". Take what shall differ over into
/etc/edgesync/edgesync.toml: a key that is not understood stops the start.

  edgesyncd --config FILE --check    says whether a file can be used
  systemctl reload edgesyncd         makes it so, mostly without disconnecting anybody
  man edgesync.toml                  says what a reload does to each key"""
MAN_INTRODUCTION: Final = """\
.SH NAME
edgesync.toml \\- what edgesyncd serves
.SH SYNOPSIS
.I /etc/edgesync/edgesync.toml
.SH DESCRIPTION
The configuration of
.BR edgesyncd (8)
is a file in TOML. Every key is optional; one that is not understood stops the start, with the
key, the reason and the way out. An example with all keys is in
.IR /usr/share/doc/edgesync/examples .
.PP
.B systemctl reload edgesyncd
(or a SIGHUP) has the file read anew, and what has changed is put into effect.
If it is not understood, the former configuration goes on, and the log and
.B edgesync status
say why. Listeners of which nothing has changed keep their clients.
A client of one that is restarted comes back by itself."""
MAN_END: Final = """\
.SH FILES
.TP
.I /etc/edgesync/edgesync.toml
The configuration.
.TP
.I /usr/share/doc/edgesync/examples/edgesync.toml
All keys, commented out at their defaults.
.SH SEE ALSO
.BR edgesyncd (8),
.BR edgesync (1)"""


def limit_keys() -> tuple[Key, ...]:
    """Return the keys of the section `[limits]`."""
    reasons = _docstrings_of_fields()
    defaults = Limits()
    return tuple(
        Key(
            name,
            NUMBER if field.type == "int" else "a number",
            reasons[name],
            getattr(defaults, name),
            unit=next((unit for end, unit in UNITS if name.endswith(end)), ""),
            on_reload=limit_on_reload(name),
        )
        for name, field in Limits.__dataclass_fields__.items()
    )


def all_sections() -> tuple[Section, ...]:
    """Return the sections of the file with all their keys."""
    about = (
        "What a client may cost. The defaults suit a board with 512 MB of memory and a few dozen "
        "clients. All are above 0."
    )
    return (*SECTIONS, Section("Limits", "limits", about, limit_keys()))


def example() -> str:
    """Return a file with all keys, commented out."""
    lines = [f"# {line}".rstrip() for line in INTRODUCTION.splitlines()]
    for section in all_sections():
        lines += ["", "", *_comment(section.text), ""]
        has_defaults = any(key.default is not None for key in section.keys)
        lines.append(f"#[{section.header}]" if has_defaults else f"# e.g. [{section.header}]")
        for key in section.keys:
            lines += ["", *_comment(_explained(key))]
            lines.append(_line(key))
    return "\n".join(lines) + "\n"


def man_page() -> str:
    """Return the reference in the language of man(7)."""
    lines = ['.TH EDGESYNC.TOML 5 "" edgesync "File Formats"', *MAN_INTRODUCTION.splitlines()]
    for section in all_sections():
        lines += [f".SH {section.title.upper()}", f".B [{_roff(_pattern(section))}]", ".PP"]
        lines.append(_roff(section.text))
        for key in section.keys:
            lines += [".TP", f"\\fB{_roff(key.name)}\\fR = \\fI{_roff(_type(key))}\\fR"]
            lines += [_roff(f"{key.reason} Default: {_default(key)}."), ".br"]
            lines.append(_roff(key.on_reload.value))
    return "\n".join([*lines, MAN_END]) + "\n"


def _docstrings_of_fields() -> Mapping[str, str]:
    """Return what stands under each field of `Limits`."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(limits)).body
        if isinstance(node, ast.ClassDef)
    )
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _pattern(section: Section) -> str:
    kind, dot, _ = section.header.partition(".")
    return f"{kind}.NAME" if dot else kind


def _explained(key: Key) -> str:
    default = f" Default: {key.without}." if key.without else ""
    unit = f" Unit: {key.unit}." if key.unit else ""
    return f"{key.reason}{unit}{default}"


def _line(key: Key) -> str:
    if key.default is not None:
        return f"#{key.name} = {in_toml(key.default)}"
    assert key.example is not None
    return f"# e.g. {key.name} = {in_toml(key.example)}"


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False):
        yield f"# {line}"


def _type(key: Key) -> str:
    return f"{key.kind} ({key.unit})" if key.unit else key.kind


def _default(key: Key) -> str:
    return key.without if key.default is None else in_toml(key.default)


def in_toml(value: Value | float) -> str:
    """Return a value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(in_toml, value))}]"


def _roff(text: str) -> str:
    """Return a text that troff shows as it is."""
    shown = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


MADE: Final = {"man": man_page, "example": example}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MADE:
        sys.exit(f"name one of: {', '.join(MADE)}")
    sys.stdout.write(MADE[sys.argv[1]]())
