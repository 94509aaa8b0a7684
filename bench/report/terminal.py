"""Print for a person. The terminal obeys no control character of a document.

A table is as wide as the terminal, or as `WIDTH` in a file. The program ends by SIGPIPE when the reader of its output
has gone.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import IO

import click
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from dataplanes import files
from dataplanes.texts import clean

WIDTH = 120
"""The width if there is no terminal."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let a BrokenPipeError go up to `end_as_a_filter`: rich would exit with 1, which means a regression here."""
        raise


class _Cleaning(RenderHook):
    """Clean all texts that a console prints. The control sequences that rich adds stay."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Clean(each) for each in renderables]


class _Clean:
    def __init__(self, shown: ConsoleRenderable) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._shown, options):
            yield Segment(text if control else clean(text), style, control)


def console(width: int = WIDTH, *, stderr: bool = False, file: IO[str] | None = None) -> Console:
    """Return a console on stdout, stderr or a file. It prints texts as they are and interprets no markup."""
    made = _Console(stderr=stderr, file=file, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = width
    made.push_render_hook(_Cleaning())
    return made


def say(text: object, *, err: bool = False) -> None:
    """Print a line, on stdout or on stderr."""
    click.echo(clean(str(text)), err=err)


def write(data: bytes) -> None:
    """Write a document to stdout. Control characters are replaced only if stdout is a terminal."""
    if sys.stdout.isatty():
        data = clean(data.decode("utf-8", "backslashreplace")).encode()
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def ready() -> None:
    """Make stdout and stderr print characters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Flush the output, so that a closed pipe is noticed now and not when the interpreter ends."""
    sys.stdout.flush()


def lost(error: OSError) -> int:
    """Say on stderr that stdout cannot be written, and return the exit code. Any other error is raised again."""
    if not files.full(error) or error.filename:
        raise error
    with suppress(OSError):  # output that is still held back would raise the error again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    told = files.cannot_write("standard output", error, "the output")
    say(f"bench: {told}", err=True)
    return told.exit_code


def end_as_a_filter() -> None:
    """End by SIGPIPE, as a program does that leaves that signal alone: the reader of the output has gone."""
    with suppress(OSError):  # output that is still held back has no reader, and would raise the error again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
