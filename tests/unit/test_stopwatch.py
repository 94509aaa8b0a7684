"""The time that counts for a change, by each clock."""

from __future__ import annotations

import subprocess
import sys
import time

from scenarios.stopwatch import Taken, timed


def test_waiting_is_time_but_nothing_executed() -> None:
    taken = timed(lambda: time.sleep(0.05))
    assert taken.elapsed_ms >= 50
    assert taken.cpu_ms < 25
    assert (taken.by("wall"), taken.by("instructions")) == (taken.elapsed_ms, taken.cpu_ms)


def test_what_a_program_executes_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.1: pass"
    assert timed(lambda: subprocess.run([sys.executable, "-c", burn], check=True)).cpu_ms >= 100


def test_nothing_took_nothing() -> None:
    assert Taken().by("wall") == 0
