"""Progress on stderr: a bar with an estimate on a terminal, and a line per trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

import msgspec
from msgspec import Meta
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bench.documents import Event, Trial
from bench.kernels import Kernel
from bench.report.terminal import console, say
from dataplanes import files
from dataplanes.errors import Prerequisite
from dataplanes.paths import cache
from dataplanes.selection import Selection

OnEvent = Callable[[Event], None]
_Factor = Annotated[float, Meta(gt=0, le=1e6)]
_EVERY = 15.0
"""Seconds between two lines if there is no terminal for a bar."""


Shares = Mapping[tuple[object, ...], float]
"""The estimated seconds of each trial by its key, at the processor's speed (bench.outside.estimate)."""


@contextmanager
def progress(
    work: Shares, title: str, guess: float, *, done: int = 0, lanes: int = 1, agreeing: bool = False
) -> Iterator[OnEvent]:
    """Show trials as they end. Yield the function that is called for each event.

    `guess` is the factor by which everything takes longer here, as long as no run has told it. `done` has the trials of
    an earlier run that was cut short. With `agreeing` there may be more trials than `work` has.
    """
    out = console(stderr=True)
    pace = _Pace(title, work, guess, lanes)
    say(f"bench: {announcement(work, title, guess, done=done, lanes=lanes, agreeing=agreeing)}", err=True)
    if not out.is_terminal:
        yield pace.take
        pace.remember()
        return
    with _bar(out, TextColumn("{task.fields[ended]} of {task.fields[trials]}")) as bar:
        task = bar.add_task(title, total=sum(work.values()), ended=0, trials=len(work))

        def take(event: Event) -> None:
            if share := pace.count(event):
                told = f"{title}: {event.data['dataplane']}"
                bar.update(task, advance=share, description=told, ended=pace.ended)

        yield take
    pace.remember()


def announcement(
    work: Shares, title: str, guess: float, *, done: int = 0, lanes: int = 1, agreeing: bool = False
) -> str:
    """Print what is about to be done, and its estimated time from its size and from the pace of the last run here."""
    kept = f", {done} done before" if done else ""
    shared = f" in {lanes} guests" if lanes > 1 else ""
    more = ", and more where rounds disagree" if agreeing else ""
    return f"{title}: {len(work)} trials{more}{shared}{kept}{_Pace(title, work, guess, lanes).estimate()}"


class _Pace:
    """The pace of trials, now or in the last similar run, and its report in lines."""

    def __init__(self, title: str, work: Shares, guess: float, lanes: int) -> None:
        self._file = cache() / "paces.json"
        self._title, self._work, self._guess, self._lanes = title, work, guess, lanes
        self._begun = self._told = time.monotonic()
        self._left = sum(work.values())
        self.ended = 0

    def estimate(self) -> str:
        known = self._known().get(self._title)
        pace = known or self._guess
        basis = "at the last run's pace" if known else "at a guess: nothing was run here before"
        return f", about {_span(pace * self._left / self._lanes)} {basis}" if self._left else ""

    def _known(self) -> dict[str, float]:
        return files.kept(self._file, dict[str, _Factor]) or {}

    def count(self, event: Event) -> float:
        """Return the share of a trial that has ended; 0 for any other event."""
        if event.kind == "environment" and not self.ended:
            self._begun = time.monotonic()  # the kernel is up
        if event.kind != "trial":
            return 0.0
        share = self._work.get(msgspec.convert(event.data, Trial).key(), 0.0)
        self.ended += 1
        self._left -= share
        return share

    def take(self, event: Event) -> None:
        time_now = time.monotonic()
        if self.count(event) and time_now - self._told > _EVERY:
            self._told = time_now
            done = sum(self._work.values()) - self._left
            left = (time_now - self._begun) / done * self._left
            say(f"bench: {self.ended} of {len(self._work)} trials, about {_span(left)} left", err=True)

    def remember(self) -> None:
        if self.ended and self.ended >= len(self._work):
            pace = (time.monotonic() - self._begun) / sum(self._work.values()) * self._lanes
            with suppress(Prerequisite):  # failing to keep a guess is no error
                files.keep(self._file, msgspec.json.encode(self._known() | {self._title: pace}))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextmanager
def cells(total: int) -> Iterator[Callable[[str, Event], None]]:
    """Print a line per cell when it is observed, with what was seen; on a terminal, above a bar with an estimate."""
    out = console(stderr=True)
    with _bar(out, MofNCompleteColumn()) as bar:
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


@contextmanager
def exploring(
    selections: Sequence[Selection], kernel: Kernel, seed: int, *, replaying: bool = False
) -> Iterator[OnEvent]:
    """Show how much was played and what was found: on a terminal in one line that changes, elsewhere every 15 s.

    A sequence that is `replaying` is shown with all its steps.
    """
    from bench.documents.exploration import Finding
    from bench.report import sequence

    out = console(stderr=True)
    where = f"{kernel.name} ({kernel.release}), {kernel.clock} clock"
    names = ", ".join(each.name for each in selections)
    say(f"bench: {names} on {where}" + ("" if replaying else f", seed {seed}"), err=True)
    told = time.monotonic()
    with out.status("the lab is built") as status:

        def take(event: Event) -> None:
            nonlocal told
            if event.kind == "explored":
                data = event.data
                line = f"{data['dataplane']}: {data['operations']:,} operations in {data['sequences']:,} sequences"
                status.update(Text(line))
                if not out.is_terminal and time.monotonic() - told > _EVERY:
                    told = time.monotonic()
                    say(f"bench: {line}", err=True)
            elif event.kind == "finding":
                found = msgspec.convert(event.data, Finding)
                if replaying:
                    out.print(Text("\n".join(sequence.steps(found))), soft_wrap=True)
                elif found.failed:
                    line = f"{found.dataplane}: {len(found.steps)} operations end with: {found.steps[-1].seen}"
                    out.print(Text(line, style="bold red"), soft_wrap=True)

        yield take


def _bar(console: Console, count: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
