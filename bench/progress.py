"""Progress on stderr: a bar with an estimate on a terminal, a line per trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import msgspec
from msgspec import Meta
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from bench.documents import Event
from bench.terminal import console, say
from dataplanes import files
from dataplanes.errors import Prerequisite
from dataplanes.paths import cache

Pace = Annotated[float, Meta(gt=0, le=1e6)]
_EVERY = 15.0
"""Seconds between two lines where there is no terminal for a bar."""


@contextmanager
def progress(total: int, title: str, *, done: int = 0, lanes: int = 1) -> Iterator[Callable[[Event], None]]:
    """Show trials as they end; yields the function that is told about events. `done`: of an earlier, cut-short run."""
    out = console(stderr=True)
    pace = _Pace(title, total, lanes)
    say(f"bench: {announcement(total, title, done=done, lanes=lanes)}", err=True)
    if not out.is_terminal:
        yield pace.take
        pace.remember()
        return
    with _bar(out) as bar:
        task = bar.add_task(title, total=total)

        def take(event: Event) -> None:
            pace.count(event)
            if event.kind == "trial":
                bar.update(task, advance=1, description=f"{title}: {event.data['dataplane']}")

        yield take
    pace.remember()


def announcement(total: int, title: str, *, done: int = 0, lanes: int = 1) -> str:
    """What is about to be done, and how long that takes if it goes as the last time."""
    kept = f", {done} done before" if done else ""
    shared = f" in {lanes} guests" if lanes > 1 else ""
    return f"{title}: {total} trials{shared}{kept}{_Pace(title, total, lanes).guess()}"


class _Pace:
    """How fast trials end, here and now or in the last run of the like; tells it in lines."""

    def __init__(self, title: str, total: int, lanes: int) -> None:
        self._file = cache() / "pace.json"
        self._title, self._total, self._lanes = title, total, lanes
        self._begun = self._told = time.monotonic()
        self._ended = 0

    def guess(self) -> str:
        seconds = self._known().get(self._title)
        return f", about {_span(seconds * self._total / self._lanes)} at the last run's pace" if seconds else ""

    def _known(self) -> dict[str, float]:
        return files.kept(self._file, dict[str, Pace]) or {}

    def count(self, event: Event) -> None:
        self._ended += event.kind == "trial"

    def take(self, event: Event) -> None:
        self.count(event)
        time_now = time.monotonic()
        if event.kind == "trial" and time_now - self._told > _EVERY:
            self._told = time_now
            left = (time_now - self._begun) / self._ended * (self._total - self._ended)
            say(f"bench: {self._ended} of {self._total} trials, about {_span(left)} left", err=True)

    def remember(self) -> None:
        if self._ended and self._ended == self._total:
            each = (time.monotonic() - self._begun) / self._ended * self._lanes
            with suppress(Prerequisite):  # a guess is not worth an error
                files.keep(self._file, msgspec.json.encode(self._known() | {self._title: each}))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextmanager
def cells(total: int) -> Iterator[Callable[[str, Event], None]]:
    """A line per cell as it is observed, what was seen in it; on a terminal above a bar with an estimate."""
    out = console(stderr=True)
    with _bar(out) as bar:
        bar.live.auto_refresh = out.is_terminal
        task = bar.add_task("matrix", total=total, visible=out.is_terminal)

        def take(kernel: str, event: Event) -> None:
            if event.kind == "cell":
                cell = event.data
                odd = "" if cell["outcome"] == cell["expected"] else f" (expected {cell['expected']})"
                line = f"{kernel} {cell['dataplane']} {cell['check']}: {cell['outcome']}{odd}: {cell['detail']}"
                bar.console.print(Text(line, style="bold red" if odd else "dim"), soft_wrap=True)
                bar.update(task, advance=1)

        yield take


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
