"""Run a command in a pseudo-terminal: `python -m tests.cli.terminal COLUMNS COMMAND...`.

What is typed comes from the environment variable TYPED, a line for each question.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import time

QUESTIONS = (b": ", b"[y/N] ")


def run(columns: int, command: list[str], typed: bytes) -> tuple[int, bytes]:
    """Return exit code and what the terminal would have shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    lines = typed.splitlines(keepends=True)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        if not piece:
            break
        shown += piece
        if lines and shown.endswith(QUESTIONS):
            time.sleep(0.1)  # what is typed before a password is asked for is thrown away
            os.write(terminal, lines.pop(0))
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


if __name__ == "__main__":
    code, output = run(int(sys.argv[1]), sys.argv[2:], os.environ.get("TYPED", "").encode())
    sys.stdout.buffer.write(output)
    sys.exit(code)
