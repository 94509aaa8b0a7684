"""Thirty times kill -9 or a signal at a random moment, each followed by one `bench clean` (tests/storm.py)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.outside import choose
from dataplanes import catalog
from tests.conftest import ROOT

IN_GUEST = (sys.executable, "-m", "bench.outside.command", "--cpus", "1", "guest", "wall")


def strike(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_on_the_host_leave_nothing() -> None:
    kernel, _ = choose.choose("auto", None, catalog.select("nft-container,ebpf-tc"), measuring=False)
    machine = () if os.geteuid() == 0 and kernel.name == "host" else IN_GUEST  # a guest is a host like any other
    strike(*machine, sys.executable, "-m", "tests.storm", "--kills", "17", "--signals", "8")


@pytest.mark.night
def test_commands_in_guests_leave_nothing() -> None:
    strike(sys.executable, "-m", "tests.storm", "--kernel", "guest", "--kills", "3", "--signals", "2")
