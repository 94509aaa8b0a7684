"""Progress on stderr: a bar with an estimate on a terminal, a line per trial elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.documents import Event


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[Event], None]]:
    """Show trials as they end; yields the function that is told about events."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"bench: {title}, {total} trials", file=sys.stderr)
        yield lambda event: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)

        def take(event: Event) -> None:
            if event.kind == "trial":
                bar.update(task, advance=1, description=f"{title}: {event.data['dataplane']}")

        yield take
