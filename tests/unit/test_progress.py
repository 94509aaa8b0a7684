"""What is told while trials run: an estimate, a line now and then, a bar where there is a terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from bench.cli import progress
from bench.documents import Event
from tests.recorded import read


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the tests set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(progress, "cache", lambda: tmp_path)
    return tmp_path


def told() -> tuple[list[Event], progress.Shares]:
    recording = read("run")
    return recording.events, {trial.key(): 2.0 for trial in recording.trials()}


def test_a_line_tells_now_and_then_how_much_is_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    events, work = told()
    with progress.progress(work, "guest", 3.0) as take:
        for event in events:
            clock[0] += 0 if event.kind == "environment" else 10
            take(event)
    first, *lines = capsys.readouterr().err.splitlines()
    assert (
        first
        == f"bench: guest: {len(work)} trials, about {_told(6 * len(work))} at a guess: nothing was run here before"
    )
    assert lines[0] == f"bench: 2 of {len(work)} trials, about {_told(10 * (len(work) - 2))} left"
    assert len(lines) == len(work) // 2


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def test_the_pace_of_a_whole_run_is_remembered_and_shared_by_lanes(clock: list[float]) -> None:
    events, work = told()
    with progress.progress(work, "guest", 3.0, lanes=2) as take:
        for event in events:
            clock[0] += 0 if event.kind == "environment" else 10
            take(event)
    # 10 s for a trial of 2 s in two guests: each is ten times slower than the processor
    announced = progress.announcement(work, "guest", 3.0, lanes=4, done=3)
    assert announced == (
        f"guest: {len(work)} trials in 4 guests, 3 done before, about {_told(len(work) * 5)} at the last run's pace"
    )


def test_the_pace_of_a_run_that_was_cut_short_is_not_remembered(clock: list[float], cache: Path) -> None:
    events, work = told()
    with progress.progress(work, "guest", 3.0) as take:
        take(events[1])
    assert not (cache / "paces.json").exists()
    assert "at a guess" in progress.announcement(work, "guest", 3.0)


def test_a_cache_that_cannot_be_written_is_no_error(clock: list[float], cache: Path) -> None:
    (cache / "paces.json").mkdir()
    events, work = told()
    with progress.progress(work, "guest", 3.0) as take:
        for event in events:
            take(event)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(
        progress, "console", lambda stderr: Console(file=written, force_terminal=True, width=120, color_system=None)
    )
    return written


def test_a_terminal_shows_a_bar(terminal: io.StringIO) -> None:
    events, work = told()
    with progress.progress(work, "guest", 3.0) as take:
        for event in events:
            take(event)
    assert f"{len(work)} of {len(work)}" in terminal.getvalue()
    assert f"guest: {events[-1].data['dataplane']}" in terminal.getvalue()


def test_a_terminal_shows_each_cell_above_the_bar(terminal: io.StringIO) -> None:
    cell = read("matrix").events[1]
    odd = Event("cell", data=cell.data | {"outcome": "fail", "expected": "pass"})
    with progress.cells(2) as take:
        take("debian-6.12", cell)
        take("debian-6.12", odd)
        take("debian-6.12", Event("stage", "ready"))
    assert f"debian-6.12 {cell.data['dataplane']} {cell.data['check']}: {cell.data['outcome']}" in terminal.getvalue()
    assert "fail (expected pass)" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
