"""A state file is its owner's from the moment it exists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scenarios import journal


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("BENCH_STATE", str(directory))
    return directory


def killed(work: str) -> None:
    """A process that does some work with a journal, and dies of kill -9."""
    code = f"import os\nfrom scenarios.journal import Journal\n{work}\nos.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9


def test_a_run_that_dies_before_it_has_written_anything_leaves_nothing(state: Path) -> None:
    killed("Journal()._file.truncate(0)")
    assert len(list(state.iterdir())) == 1
    assert journal.clean() == []
    assert not state.exists()


def test_what_a_dead_run_made_is_removed_also_when_it_died_in_the_middle_of_a_line(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    killed(f"journal = Journal(); journal.record('file', {str(file)!r}); journal._file.write('[\"fi'); os.sync()")
    assert journal.clean() == [f"removed file {file}"]
    assert not file.exists()
    assert not state.exists()


def test_a_live_runs_state_is_left_alone_and_so_is_what_is_no_state(state: Path, tmp_path: Path) -> None:
    with journal.Journal() as mine:
        mine.record("file", str(tmp_path))
        (state / "notes.jsonl").touch()
        assert journal.clean() == []
        assert len(os.listdir(state)) == 2
        mine._entries.clear()
    assert os.listdir(state) == ["notes.jsonl"]
    assert tmp_path.exists()
