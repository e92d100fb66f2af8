"""What a shell offers when TAB is pressed."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {
    "bash": ROOT / "share/bash-completion/completions/edgesync",
    "zsh": ROOT / "share/zsh/site-functions/_edgesync",
    "fish": ROOT / "share/fish/vendor_completions.d/edgesync.fish",
}
TIMEOUT_S = 20.0
ZSH = r"""
fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D
compadd() {{
    case "${{(j: :)@[1,(i)(-|--)]}}" in
        *-[OAD]*) builtin compadd "$@"; return ;;
    esac
    local -a hits
    builtin compadd -A hits "$@"
    print -rl -- $hits >>offered
    builtin compadd "$@"
}}
ended() {{ print ended >ended }}
zle -N ended; bindkey '^I' complete-word; bindkey '^X' ended
print ready >ready
"""
"""The keys are carried out one after the other, so ^X says when TAB is through."""


def offered(shell: str, typed: str, folder: Path) -> set[str]:
    """Return what a shell offers behind what was typed, in a folder."""
    match shell:
        case "bash":
            return _bash(typed, folder)
        case "zsh":
            return _zsh(typed, folder)
        case _:
            return _fish(typed, folder)


def _said(folder: Path, *command: str) -> list[str]:
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


def _bash(typed: str, folder: Path) -> set[str]:
    words = typed.split(" ")
    array = " ".join(f"'{word}'" for word in words)
    script = (
        f"source {FILES['bash']}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; "
        "_edgesync; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return set(_said(folder, "bash", "-c", script)) - {""}


def _fish(typed: str, folder: Path) -> set[str]:
    script = f"source {FILES['fish']}; complete -C '{typed}'"
    return {line.split("\t")[0] for line in _said(folder, "fish", "--no-config", "-c", script)}


def _zsh(typed: str, folder: Path) -> set[str]:
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / ".zshrc").write_text(ZSH.format(folder=FILES["zsh"].parent))
        # Beside the files that shall be offered, so that they are looked up here.
        marks = {name: folder / name for name in ("ready", "offered", "ended")}
        terminal, theirs = os.openpty()
        process = subprocess.Popen(
            ["zsh", "-d", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**os.environ, "HOME": home, "TERM": "dumb"},
            start_new_session=True,
        )
        try:
            _wait_for(marks["ready"])
            os.write(terminal, typed.encode() + b"\t\x18")
            _wait_for(marks["ended"])
        finally:
            process.kill()
            process.wait()
            os.close(terminal)
            os.close(theirs)
        return set(marks["offered"].read_text().split()) if marks["offered"].exists() else set()


def _wait_for(mark: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not mark.exists():
        assert time.monotonic() < deadline, f"zsh does not get to {mark.name}"
        time.sleep(0.02)
