"""One command runs beside others: all of them run, and what fails is told by the exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def beside(*words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "tests.beside", *words)
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)


def shell(text: str) -> tuple[str, str, str]:
    return "sh", "-c", text


def test_the_first_command_runs_while_the_others_do(tmp_path: Path) -> None:
    """It ends only when the second one has begun, and the second one only when the first one has."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    first = shell(f"mkfifo {meeting}/pipe && echo first > {meeting}/pipe; echo early")
    second = shell(f"while [ ! -p {meeting}/pipe ]; do :; done; cat {meeting}/pipe")
    done = beside(*first, "--", *second, "--", *shell("echo last"))
    assert (done.returncode, done.stdout) == (0, "first\nlast\nearly\n")


def test_all_commands_run_whatever_one_of_them_returns() -> None:
    done = beside(*shell("echo a; exit 3"), "--", *shell("echo b; exit 4"), "--", *shell("echo c"))
    assert (done.returncode, done.stdout) == (3, "b\nc\na\n")
    assert beside("true", "--", "true", "--", "false").returncode == 1
