"""What every verb is given, and how nouns add their verbs."""

from __future__ import annotations

import argparse
import difflib
import getpass
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TextIO

from edgesync.api.client import ApiClient
from edgesync.cli.output import Output
from edgesync.errors import RequestError, UsageError


@dataclass(frozen=True, slots=True)
class Context:
    """What a verb works with."""

    arguments: argparse.Namespace
    client: ApiClient
    out: Output
    environment: Mapping[str, str]
    stdin: TextIO

    def text(self, name: str) -> str:
        """Return an argument that is a text."""
        value: object = getattr(self.arguments, name)
        if not isinstance(value, str):
            raise UsageError(f"{name} is missing")
        return value

    def optional(self, name: str) -> str | None:
        """Return an argument that may be absent."""
        return None if getattr(self.arguments, name) is None else self.text(name)

    def number(self, name: str) -> int:
        """Return an argument that is a whole number."""
        value: object = getattr(self.arguments, name)
        if not isinstance(value, int):
            raise UsageError(f"{name} is missing")
        return value

    def flag(self, name: str) -> bool:
        """Return whether an option was given."""
        return bool(getattr(self.arguments, name))

    def texts(self, name: str) -> list[str]:
        """Return an argument that may be given several times."""
        return [str(value) for value in getattr(self.arguments, name) or ()]

    def confirm(self, question: str) -> None:
        """Ask before something is lost, unless `--yes` was given.

        Raises:
            UsageError: Nobody can be asked, or the answer is no.
        """
        if self.flag("yes"):
            return
        if not self.stdin.isatty():
            raise UsageError(f"{question}: nobody can be asked here", hint="confirm with --yes")
        print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
        if self.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RequestError("nothing was changed")

    def secret(self, prompt: str, *, repeat: bool = False) -> str:
        """Return a secret that is typed unseen, or the first line of standard input.

        Args:
            prompt: What is asked for.
            repeat: Whether it has to be typed twice, as a new one.

        Raises:
            UsageError: It is empty, or the two differ.
        """
        if not self.stdin.isatty():
            secret = self.stdin.readline().rstrip("\n")
        else:
            secret = getpass.getpass(f"{prompt}: ")
            if repeat and getpass.getpass(f"{prompt}, again: ") != secret:
                raise UsageError("the two are not the same")
        if not secret:
            raise UsageError(
                "nothing was given",
                hint=f"type the {prompt.lower()} when asked, or "
                "give it as a line of standard input",
            )
        return secret


Run = Callable[[Context], None]
Argument = Callable[[argparse.ArgumentParser], None]


def argument(*names: str, **settings: object) -> Argument:
    """Return what adds an argument to a verb, as argparse's `add_argument` takes it."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(*names, **settings)  # type: ignore[arg-type]  # checked by argparse

    return add


YES = argument("--yes", "-y", action="store_true", help="do not ask")


class Tree:
    """The tree of nouns and verbs, as argparse has it."""

    def __init__(self, parser: argparse.ArgumentParser, common: Parser) -> None:
        self._common = common
        self._nouns = parser.add_subparsers(
            title="what", metavar="NOUN", dest="noun", required=True, parser_class=Parser
        )

    def alone(self, name: str, text: str, run: Run, *arguments: Argument) -> None:
        """Add a noun that needs no verb."""
        self.add_to(self._nouns, name, text, run, arguments)

    def noun(self, name: str, text: str) -> Verbs:
        """Add a noun, and return what takes its verbs."""
        parser = self._nouns.add_parser(
            name, help=text, description=_sentence(text), parents=[self._common]
        )
        verbs = parser.add_subparsers(
            title="verbs", metavar="VERB", dest="verb", required=True, parser_class=Parser
        )
        return Verbs(self, verbs)

    def add_to(
        self,
        to: argparse._SubParsersAction[Parser],
        name: str,
        text: str,
        run: Run,
        arguments: tuple[Argument, ...],
    ) -> None:
        """Add a noun or verb with its arguments."""
        parser = to.add_parser(name, help=text, description=_sentence(text), parents=[self._common])
        for add in arguments:
            add(parser)
        parser.set_defaults(run=run)


class Verbs:
    """Takes the verbs of a noun."""

    def __init__(self, tree: Tree, verbs: argparse._SubParsersAction[Parser]) -> None:
        self._tree = tree
        self._verbs = verbs

    def add(self, verb: str, text: str, run: Run, *arguments: Argument) -> None:
        """Add a verb."""
        self._tree.add_to(self._verbs, verb, text, run, arguments)


class Parser(argparse.ArgumentParser):
    """argparse's, with errors in the form of all others."""

    def error(self, message: str) -> NoReturn:
        """End the process with the exit code for wrong usage."""
        if found := re.match(r"argument ([A-Z]+): invalid choice: '([^']*)' (.*)", message):
            message = f'there is no {found[1].lower()} "{found[2]}"'
            known = re.findall(r"[\w-]+", found[3])[2:]  # behind "choose from"
            if near := difflib.get_close_matches(found[2], known, n=1):
                message += f'; did you mean "{near[0]}"?'
                self.exit(2, f"edgesync: {message}\n")
        self.exit(2, f'edgesync: {message}; try "{self.prog} --help"\n')


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
