"""Completions for shells, made from the tree: `python -m edgesync.cli.completion bash`.

They are static: nouns, verbs, options and files. Names of listeners or documents are
not asked of the service, which would make every TAB wait on a small board.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Final

from edgesync.cli.main import make_parser
from edgesync.cli.manual import arguments, subcommands

SHELLS: Final = ("bash", "zsh", "fish")
FILE: Final = "FILE"

BASH: Final = """\
# bash completion for edgesync; made by "python -m edgesync.cli.completion bash"
_edgesync() {
    local cur=${COMP_WORDS[COMP_CWORD]} word words="" noun="" verb="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            --socket) ((i++)) ;;
            -*) ;;
            *) if [[ -z $noun ]]; then noun=$word; elif [[ -z $verb ]]; then verb=$word; fi ;;
        esac
    done
    case "$noun $verb" in
@CASES@
    esac
    case $words in
        *" FILE"*) COMPREPLY=($(compgen -f -- "$cur")) ;;
    esac
    COMPREPLY+=($(compgen -W "${words// FILE/} --json --socket --help" -- "$cur"))
}
complete -o filenames -F _edgesync edgesync
"""
ZSH: Final = """\
#compdef edgesync
# zsh completion for edgesync; made by "python -m edgesync.cli.completion zsh"
local -a words_left; local noun="" verb="" word
for word in ${words[2,CURRENT-1]}; do
    [[ $word == -* ]] && continue
    if [[ -z $noun ]]; then noun=$word; elif [[ -z $verb ]]; then verb=$word; fi
done
case "$noun $verb" in
@CASES@
esac
_describe edgesync words_left
[[ -n $verb ]] && _files
"""


def completion(shell: str) -> str:
    """Return the completion for a shell, one of `SHELLS`."""
    parser = make_parser()
    match shell:
        case "bash":
            return BASH.replace("@CASES@", "\n".join(_bash_cases(parser)))
        case "zsh":
            return ZSH.replace("@CASES@", "\n".join(_zsh_cases(parser)))
        case _:
            return "\n".join(_fish_lines(parser)) + "\n"


def _bash_cases(parser: argparse.ArgumentParser) -> Iterator[str]:
    nouns = subcommands(parser)
    yield f'        " ") words="{" ".join(nouns)}" ;;'
    for noun, its_parser in nouns.items():
        verbs = subcommands(its_parser)
        if verbs:
            yield f'        "{noun} ") words="{" ".join(verbs)}" ;;'
        for verb, verbs_parser in verbs.items() or [("*", its_parser)]:
            pattern = f'"{noun} {verb}"' if verbs else f'"{noun} "*'
            yield f'        {pattern}) words="{" ".join(_words(verbs_parser))}" ;;'


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a verb, and FILE if it takes one."""
    for action in arguments(parser):
        yield from action.option_strings[:1]
        if action.metavar == FILE:
            yield " FILE"


def _zsh_cases(parser: argparse.ArgumentParser) -> Iterator[str]:
    nouns = subcommands(parser)
    yield f'    " ") words_left=({_described(nouns)}) ;;'
    for noun, its_parser in nouns.items():
        verbs = subcommands(its_parser)
        if verbs:
            yield f'    "{noun} ") words_left=({_described(verbs)}) ;;'
        for verb, verbs_parser in verbs.items() or [("*", its_parser)]:
            pattern = f'"{noun} {verb}"' if verbs else f'"{noun} "*'
            options = (
                _quoted(f"{action.option_strings[0]}:{action.help}")
                for action in arguments(verbs_parser)
                if action.option_strings
            )
            yield f"    {pattern}) words_left=({' '.join(options)}) ;;"


def _described(parsers: dict[str, argparse.ArgumentParser]) -> str:
    return " ".join(
        _quoted(f"{name}:{(parser.description or '').rstrip('.')}")
        for name, parser in parsers.items()
    )


def _fish_lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield '# fish completion for edgesync; made by "python -m edgesync.cli.completion fish"'
    yield "complete -c edgesync -f"
    yield "complete -c edgesync -l json -d 'answer with JSON, for programs'"
    yield 'complete -c edgesync -l socket -r -F -d "the service\'s socket"'
    for noun, its_parser in subcommands(parser).items():
        yield (
            f"complete -c edgesync -n __fish_use_subcommand -a {noun} "
            f"-d {_quoted((its_parser.description or '').rstrip('.'))}"
        )
        verbs = subcommands(its_parser)
        seen = f"'__fish_seen_subcommand_from {noun}"
        for verb, verbs_parser in verbs.items():
            yield (
                f"complete -c edgesync -n {seen}; and not __fish_seen_subcommand_from "
                f"{' '.join(verbs)}' -a {verb} "
                f"-d {_quoted((verbs_parser.description or '').rstrip('.'))}"
            )
            condition = f"{seen}; and __fish_seen_subcommand_from {verb}'"
            yield from _fish_options(condition, verbs_parser)
        if not verbs:
            yield from _fish_options(f"{seen}'", its_parser)


def _fish_options(condition: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in arguments(parser):
        if action.option_strings:
            name = action.option_strings[0].lstrip("-")
            yield (f"complete -c edgesync -n {condition} -l {name} -d {_quoted(action.help or '')}")
        elif action.metavar == FILE:
            yield f"complete -c edgesync -n {condition} -F"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SHELLS:
        sys.exit(f"name a shell: {', '.join(SHELLS)}")
    sys.stdout.write(completion(sys.argv[1]))
