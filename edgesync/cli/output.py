"""What is shown: JSON for programs; tables, progress and a live view for people.

The only module that imports rich and segno, in the functions that show something
with them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

BAD: Final = "bold red"
WARN: Final = "yellow"
GOOD: Final = "green"
DIM: Final = "dim"
STRONG: Final = "bold"
DEFAULT_COLUMNS: Final = 80
NO_WRAPPING: Final = 4000
"""Columns for a pipe: a line of a table is a line there, however long."""
QUIET_ZONE: Final = 2
"""Light modules around a QR code; the standard says 4, phones are content with 2."""


class Styled(NamedTuple):
    """A text that is shown in a style."""

    text: str
    style: str


Cell = str | int | Styled
Told = Callable[[int, int], None]
"""Takes what is done of how much; 0 of 0: not known."""


class Output:
    """Where a verb shows what it has to say."""

    def __init__(
        self, *, as_json: bool, stream: TextIO, errors: TextIO, environment: Mapping[str, str]
    ) -> None:
        self.is_json = as_json
        self.is_terminal = stream.isatty()
        self.stream = stream
        self._errors = errors
        self._environment = environment

    # --- for programs ----------------------------------------------------------------

    def json(self, value: object) -> None:
        """Print a value as JSON; indented if a person may read it."""
        indent = 2 if self.is_terminal else None
        self.line(json.dumps(value, indent=indent, ensure_ascii=False))

    def json_line(self, value: object) -> None:
        """Print a value as a line of JSON."""
        self.line(json.dumps(value, ensure_ascii=False))

    # --- for people ------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """Print a line; at once, as the reader may wait for it."""
        print(text, file=self.stream, flush=True)

    def done(self, text: str) -> None:
        """Say what was done; programs see it by the exit code."""
        if not self.is_json:
            self.line(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
        """Print a table; columns of numbers are set right.

        Args:
            columns: The heads.
            rows: The cells of each row.
            empty: What to say if there is no row.
        """
        found = list(rows)
        if found:
            self.render(self.fitted(columns, found))
        else:
            self.line(empty)

    def fitted(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> RenderableType:
        """Return a table, or, where it would not fit, each row as names and values."""
        made = table(columns, rows)
        console = self.console(io.StringIO())
        unbounded = console.options.update(max_width=NO_WRAPPING)
        if console.measure(made, options=unbounded).maximum <= console.width:
            return made
        return group(*(_record(columns, row, is_first=row is rows[0]) for row in rows))

    def facts(self, facts: Iterable[tuple[str, Cell]]) -> None:
        """Print names and values below each other."""
        self.render(grid(facts))

    def render(self, *renderables: RenderableType) -> None:
        """Print what rich can show, without blanks at the ends of lines."""
        for renderable in renderables:
            self.stream.write(self.rendered(renderable))
        self.stream.flush()

    def rendered(self, renderable: RenderableType) -> str:
        """Return the text that shows something."""
        console = self.console(io.StringIO())
        with console.capture() as capture:
            console.print(renderable)
        return "\n".join(line.rstrip() for line in capture.get().split("\n"))

    def console(self, stream: TextIO) -> Console:
        """Return a console of rich for a stream, as wide and colourful as ours."""
        from rich.console import Console  # noqa: PLC0415 - only when something is shown

        columns = self._columns() if self.is_terminal else NO_WRAPPING
        return Console(
            file=stream,
            force_terminal=self.is_terminal and self._has_colours(),
            no_color=not self._has_colours(),
            width=columns,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )

    def _columns(self) -> int:
        given = self._environment.get("COLUMNS", "")
        if given.isdecimal() and int(given):
            return int(given)
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or DEFAULT_COLUMNS
        except OSError:
            return DEFAULT_COLUMNS

    def _has_colours(self) -> bool:
        return not self._environment.get("NO_COLOR") and self._environment.get("TERM") != "dumb"

    @contextmanager
    def progress(self, label: str, unit: str = "bytes") -> Iterator[Told]:
        """Show a bar on standard error while something long is done, if a person looks.

        Args:
            label: What is done.
            unit: What is counted: "bytes" or anything else.
        """
        if self.is_json or not self._errors.isatty():
            yield lambda _done, _total: None
            return
        from rich import progress as bars  # noqa: PLC0415 - only when a bar is shown
        from rich.console import Console  # noqa: PLC0415

        console = Console(file=self._errors, no_color=not self._has_colours(), markup=False)
        amount = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=None),
            amount,
            bars.TimeRemainingColumn(compact=True),
        )
        with bars.Progress(*columns, console=console, transient=True, expand=True) as shown:
            task = shown.add_task(label, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total or None)

    @contextmanager
    def live(self) -> Iterator[Callable[[RenderableType], None]]:
        """Show one thing after the other in the same place, on the whole screen."""
        from rich.live import Live  # noqa: PLC0415 - only for the live view

        console = self.console(self.stream)
        console._force_terminal = True
        with Live(console=console, screen=True, auto_refresh=False) as shown:
            yield lambda renderable: shown.update(renderable, refresh=True)

    def qr_code(self, text: str, *, inverted: bool = False) -> None:
        """Print a QR code, two modules to a character.

        Light modules are filled, as terminals are dark as a rule; colours, if they are
        allowed, make it right on light ones, too.
        """
        lines = qr_lines(text, as_ascii=not _can_encode(self.stream, "▀█"), inverted=inverted)
        is_coloured = self.is_terminal and self._has_colours()
        for line in lines:
            self.line(f"\033[97;40m{line}\033[0m" if is_coloured and not inverted else line)


# --- pieces -------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """Return a table without lines, which cost width and bytes."""
    from rich.table import Table  # noqa: PLC0415 - only when something is shown

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=STRONG)
    for index, head in enumerate(columns):
        is_number = all(isinstance(row[index], int) for row in rows)
        made.add_column(head, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_shown, row))
    return made


def grid(facts: Iterable[tuple[str, Cell]]) -> Table:
    """Return names and values below each other."""
    from rich.table import Table  # noqa: PLC0415 - only when something is shown

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style=DIM, no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in facts:
        made.add_row(name, _shown(value))
    return made


def _record(columns: Sequence[str], row: Sequence[Cell], *, is_first: bool) -> RenderableType:
    facts = [(head.lower(), cell) for head, cell in zip(columns, row, strict=True)]
    return grid(facts) if is_first else group(text(""), grid(facts))


def text(words: str, style: str = "") -> RenderableType:
    """Return a text in a style."""
    from rich.text import Text  # noqa: PLC0415 - only when something is shown

    return Text(words, style)


def group(*renderables: RenderableType) -> RenderableType:
    """Return several things below each other."""
    from rich.console import Group  # noqa: PLC0415 - only when something is shown

    return Group(*renderables)


def _shown(cell: Cell) -> RenderableType:
    return text(*cell) if isinstance(cell, Styled) else text(str(cell))


def qr_lines(content: str, *, as_ascii: bool = False, inverted: bool = False) -> list[str]:
    """Return the lines of a QR code.

    Args:
        content: What a phone is to read.
        as_ascii: Whether to use ASCII alone: twice as large.
        inverted: Whether dark modules are filled, for terminals with a light background.
    """
    import segno  # noqa: PLC0415 - only when a code is shown

    code = segno.make(content, error="m", micro=False)
    light = [
        [bool(module) == inverted for module in row] for row in code.matrix_iter(border=QUIET_ZONE)
    ]
    if as_ascii:
        return ["".join("##" if module else "  " for module in row) for row in light]
    if len(light) % 2:
        light.append([not inverted] * len(light[0]))
    pairs = zip(light[::2], light[1::2], strict=True)
    return ["".join(map(_half_blocks, upper, lower)) for upper, lower in pairs]


def _half_blocks(upper: bool, lower: bool) -> str:
    return "█" if upper and lower else "▀" if upper else "▄" if lower else " "


def _can_encode(stream: TextIO, characters: str) -> bool:
    try:
        characters.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


# --- words for values ----------------------------------------------------------------------


def size(count: float) -> str:
    """Return a number of bytes in words: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Return a time span in words, in its two largest units: 3 d 4 h."""
    parts: list[str] = []
    rest = int(max(0, seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts)


def age(moment: str) -> str:
    """Return how long ago a moment was, given in ISO 8601."""
    return duration((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def day(moment: str) -> str:
    """Return the date of a moment, given in ISO 8601."""
    return datetime.fromisoformat(moment).astimezone().date().isoformat()


def plural(number: int, noun: str) -> str:
    """Return a number of things: 1 document, 2 documents."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
