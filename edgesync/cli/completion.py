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
    if [[ ${COMP_WORDS[COMP_CWORD-1]} == --socket ]]; then
        COMPREPLY=($(compgen -f -- "$cur"))
        return
    fi
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
local -a nouns_left options_left; local noun="" verb="" takes_file=""; integer i
if [[ $words[CURRENT-1] == --socket ]]; then
    _files
    return
fi
for ((i = 2; i < CURRENT; i++)); do
    case $words[i] in
        --socket) ((i++)) ;;
        -*) ;;
        *) if [[ -z $noun ]]; then noun=$words[i]; elif [[ -z $verb ]]; then verb=$words[i]; fi ;;
    esac
done
case "$noun $verb" in
@CASES@
esac
options_left+=(@GLOBAL@)
_describe -o edgesync options_left
_describe edgesync nouns_left
[[ -n $takes_file ]] && _files
"""
FISH: Final = """\
# fish completion for edgesync; made by "python -m edgesync.cli.completion fish"
function __edgesync_typed
    set -l skipped 0
    for word in (commandline -opc)[2..]
        if test $skipped = 1
            set skipped 0
        else if test $word = --socket
            set skipped 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end
function __edgesync_at
    set -l typed (__edgesync_typed)
    test "$typed" = "$argv"
end
function __edgesync_in
    set -l typed (__edgesync_typed)
    test "$typed[1..$(count $argv)]" = "$argv"
end
complete -c edgesync -f
@CASES@
"""
GLOBAL: Final = {
    "--json": "answer with JSON, for programs",
    "--socket": "the service's socket",
    "--help": "explain it",
}


def completion(shell: str) -> str:
    """Return the completion for a shell, one of `SHELLS`."""
    parser = make_parser()
    match shell:
        case "bash":
            return BASH.replace("@CASES@", "\n".join(_bash_cases(parser)))
        case "zsh":
            options = " ".join(_quoted(f"{name}:{what}") for name, what in GLOBAL.items())
            zsh = ZSH.replace("@GLOBAL@", options)
            return zsh.replace("@CASES@", "\n".join(_zsh_cases(parser)))
        case _:
            return FISH.replace("@CASES@", "\n".join(_fish_lines(parser)))


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
    yield f'    " ") nouns_left=({_described(nouns)}) ;;'
    for noun, its_parser in nouns.items():
        verbs = subcommands(its_parser)
        if verbs:
            yield f'    "{noun} ") nouns_left=({_described(verbs)}) ;;'
        for verb, verbs_parser in verbs.items() or [("*", its_parser)]:
            pattern = f'"{noun} {verb}"' if verbs else f'"{noun} "*'
            of_verb = arguments(verbs_parser)
            options = (
                _quoted(f"{action.option_strings[0]}:{action.help}")
                for action in of_verb
                if action.option_strings
            )
            file = " takes_file=1" if FILE in (each.metavar for each in of_verb) else ""
            yield f"    {pattern}) options_left=({' '.join(options)}){file} ;;"


def _described(parsers: dict[str, argparse.ArgumentParser]) -> str:
    return " ".join(
        _quoted(f"{name}:{(parser.description or '').rstrip('.')}")
        for name, parser in parsers.items()
    )


def _fish_lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    for name, what in GLOBAL.items():
        takes = " -r -F" if name == "--socket" else ""
        yield f"complete -c edgesync -l {name.lstrip('-')}{takes} -d {_fish_quoted(what)}"
    for noun, its_parser in subcommands(parser).items():
        yield _fish_word("__edgesync_at", noun, its_parser)
        verbs = subcommands(its_parser)
        for verb, verbs_parser in verbs.items():
            yield _fish_word(f"__edgesync_at {noun}", verb, verbs_parser)
            yield from _fish_options(f"'__edgesync_in {noun} {verb}'", verbs_parser)
        if not verbs:
            yield from _fish_options(f"'__edgesync_in {noun}'", its_parser)


def _fish_word(where: str, word: str, parser: argparse.ArgumentParser) -> str:
    text = _fish_quoted((parser.description or "").rstrip("."))
    return f"complete -c edgesync -n '{where}' -a {word} -d {text}"


def _fish_options(condition: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in arguments(parser):
        if action.option_strings:
            name = action.option_strings[0].lstrip("-")
            text = _fish_quoted(action.help or "")
            yield f"complete -c edgesync -n {condition} -l {name} -d {text}"
        elif action.metavar == FILE:
            yield f"complete -c edgesync -n {condition} -F"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SHELLS:
        sys.exit(f"name a shell: {', '.join(SHELLS)}")
    sys.stdout.write(completion(sys.argv[1]))
