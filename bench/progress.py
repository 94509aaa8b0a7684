"""Progress on stderr: a bar with an estimate on a terminal, a line per trial elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from bench.documents import Event


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[Event], None]]:
    """Show trials as they end; yields the function that is told about events."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"bench: {title}, {total} trials", file=sys.stderr)
        yield lambda event: None
        return
    with _bar(console) as bar:
        task = bar.add_task(title, total=total)

        def take(event: Event) -> None:
            if event.kind == "trial":
                bar.update(task, advance=1, description=f"{title}: {event.data['dataplane']}")

        yield take


@contextmanager
def cells(total: int) -> Iterator[Callable[[str, Event], None]]:
    """A line per cell as it is observed, what was seen in it; on a terminal above a bar with an estimate."""
    console = Console(stderr=True)
    with _bar(console) as bar:
        bar.live.auto_refresh = console.is_terminal
        task = bar.add_task("matrix", total=total, visible=console.is_terminal)

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
