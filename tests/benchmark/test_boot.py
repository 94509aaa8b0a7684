"""The time of a guest from power-on to power-off: rounds in real time, and a bound in instructions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.benchmark


def test_the_first_command_runs_within_three_seconds_of_the_guests_time(benchmark: Any) -> None:
    command = ["cut", "-d", " ", "-f1", "/proc/uptime"]
    argv = [sys.executable, "-m", "bench.outside.command", "guest", "instructions", *command]
    uptimes: list[float] = []

    def boot() -> None:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd=ROOT)
        uptimes.append(float(done.stdout))

    benchmark.pedantic(boot, rounds=3, warmup_rounds=1)  # the first boot may fetch and unpack the kernel
    benchmark.extra_info["uptime_s"] = min(uptimes)
    assert min(uptimes) < 3
