"""A process ends with its owner, however that ends, and `clean` need not wait for it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.kernels.owned import owned
from scenarios import journal
from tests.conftest import ROOT

CHAIN = """
import sys, signal
from bench.kernels.owned import owned

deeper = int(sys.argv[1])
argv = (sys.executable, "-c", sys.argv[2], str(deeper - 1), sys.argv[2])
with owned(argv if deeper else ("sh", "-c", "echo $$; exec sleep 1000")):
    signal.pause()
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("BENCH_STATE", str(directory))
    return directory


def chain() -> tuple[subprocess.Popen[bytes], int, int]:
    """Run a program, the program that it owns, and that one's shell. Return the first two, and a pidfd of the shell."""
    first = subprocess.Popen([sys.executable, "-c", CHAIN, "1", CHAIN], stdout=subprocess.PIPE, cwd=ROOT)
    assert first.stdout
    shell = int(first.stdout.readline())
    second = int(Path(f"/proc/{shell}/stat").read_text("ascii").rpartition(")")[2].split()[1])
    return first, second, os.pidfd_open(shell)


def gone(handle: int, seconds: float) -> bool:
    return bool(select.select([handle], [], [], seconds)[0])


@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_killed_owner_takes_all_along(victim: str, state: Path) -> None:
    first, second, shell = chain()
    assert len(list(state.iterdir())) == 2
    os.kill(first.pid if victim == "first" else second, signal.SIGKILL)
    assert gone(shell, 10)
    first.kill()
    first.communicate()
    os.close(shell)
    journal.clean()
    assert not state.exists()


def test_clean_ends_what_does_not_end_by_itself(state: Path) -> None:
    """A process whose tie was cut is still in the state file."""
    cut = "import ctypes, signal; ctypes.CDLL(None).prctl(1, 0); print(flush=True); signal.pause()"
    argv = f"(sys.executable, '-c', {cut!r})"
    owner = f"import signal, sys; from bench.kernels.owned import owned\nwith owned({argv}): signal.pause()"
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
        handle = os.pidfd_open(int(child))
        assert journal.clean() == []
        process.kill()
    assert not gone(handle, 0.2)
    assert [line.split()[1] for line in journal.clean()] == ["process"]
    assert gone(handle, 0)
    os.close(handle)


def test_on_leaving_it_is_gone_and_so_is_its_state(state: Path) -> None:
    with owned(("sleep", "1000")) as process:
        assert len(list(state.iterdir())) == 1
    assert process.returncode == -signal.SIGKILL
    assert not state.exists()
