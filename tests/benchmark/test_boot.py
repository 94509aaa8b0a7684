"""The time of a guest from power-on to power-off: rounds in real time, and a bound in instructions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.benchmark


def test_the_first_command_runs_after_at_most_three_seconds_of_the_guests_processor(benchmark: Any) -> None:
    command = ["cat", "/proc/uptime"]
    argv = [sys.executable, "-m", "bench.outside.command", "guest", "instructions", *command]
    worked: list[float] = []

    def boot() -> None:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd=ROOT)
        up, idle = map(float, done.stdout.split())
        # A guest that waits is an instruction clock that runs ahead, from timer to timer: how far is chance, and a busy
        # machine that is slow to save the guest (bench/kernels/snapshot.py) leaves it seconds older.
        worked.append(up - idle)

    benchmark.pedantic(boot, rounds=3, warmup_rounds=1)  # the first boot may fetch and unpack the kernel
    benchmark.extra_info["worked_s"] = min(worked)
    assert min(worked) < 3
