"""Where tables are printed: as wide as the terminal, or as a file's lines may be; gone when the reader is."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from rich.console import Console

WIDTH = 120
"""Where there is no terminal to say."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """rich would exit with 1, which is a regression here: let the BrokenPipeError go up, to `end_as_a_filter`."""
        raise


def console(width: int = WIDTH, *, stderr: bool = False) -> Console:
    """A console on stdout or stderr."""
    found = _Console(stderr=stderr)
    return found if found.is_terminal else _Console(stderr=stderr, width=width)


def flush() -> None:
    """Write what is still held back: what nobody reads is found out now, not when the interpreter has gone."""
    sys.stdout.flush()


def end_as_a_filter() -> None:
    """Whoever read our output has gone: end by SIGPIPE, as a program does that leaves that signal alone."""
    with suppress(OSError):  # what is still held back has nobody to go to, and must not be told again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
