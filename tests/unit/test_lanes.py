"""Work is shared between guests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.documents import Event, Job
from bench.kernels import Kernel
from bench.kernels.host import HostKernel
from bench.outside import lane
from bench.outside import lanes as parallel
from bench.outside.lane import Order
from bench.outside.lanes import Here, batches
from dataplanes.errors import BenchError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Four processors and eight gigabytes, of which the test says what is free."""

    def has(processors: int = 4, kilobytes: int = 8 << 20) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
        monkeypatch.setattr(parallel, "field", lambda *_: f"{kilobytes} kB")

    has()
    return has


def guest(clock: str) -> Kernel:
    return cast(Kernel, SimpleNamespace(clock=clock, accelerated=False, emulator="qemu"))


def test_guests_share_planes_by_the_instruction_clock_alone(machine: Any) -> None:
    assert Here().count(guest("instructions"), 12) == 4
    assert Here().count(guest("instructions"), 3) == 3
    assert Here().count(guest("instructions"), 12, kernels=2) == 2
    assert Here().count(guest("wall"), 12) == 1


def test_there_is_a_guest_however_little_there_is(machine: Any) -> None:
    machine(kilobytes=3 << 20)
    assert Here().count(guest("instructions"), 12) == 3
    machine(kilobytes=1 << 19)
    assert Here().count(guest("instructions"), 12) == 1
    machine(processors=1)
    assert Here().count(guest("instructions"), 12, kernels=2) == 1


def test_checks_share_the_machines_own_kernel_and_measurements_do_not(machine: Any) -> None:
    host = HostKernel()
    assert Here().count(host, 12) == 1
    assert Here().count(host, 100, timed=False) == 16
    assert Here(3).count(host, 12, timed=False) == 3
    assert Here().count(guest("wall"), 12, timed=False) == 1  # emulated, one would slow the other down


def test_nobody_starts_more_guests_than_asked_for(machine: Any) -> None:
    assert Here(3).count(guest("instructions"), 12) == 3
    assert Here(100).count(guest("instructions"), 12) == 4
    assert Here(3).count(guest("instructions"), 12, kernels=2) == 1
    assert batches(["a", "b", "c"], 2) == [["a", "b"], ["c"]]
    assert batches(["a", "b", "c"], None) == [["a", "b", "c"]]
    assert batches([], None) == []


def test_every_plane_is_dealt_whole_and_once(machine: Any) -> None:
    assert Here(2).deal(guest("instructions"), ["a", "b", "c"]) == [["a", "c"], ["b"]]
    assert Here(1).deal(guest("instructions"), ["a", "b"]) == [["a", "b"]]


LANE = r"""
import os, pathlib, signal, sys, time

def undo(number, frame):
    os.write(1, b"-" * 200_000)  # more than a pipe holds; the signal may have come within another write
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(1)

signal.signal(signal.SIGTERM, undo)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
os.write(1, b'{"kind":"cell"}\n')
while True:
    time.sleep(1)
"""


def test_lanes_undo_what_they_did_when_what_they_say_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PROGRAM", (sys.executable, "-c", LANE, str(tmp_path / "undone")))
    order = Order("guest", "instructions", Job("matrix"))

    def take(kernel: str, event: Event) -> None:
        raise BenchError("cannot write it", where=kernel, why="the disk is full")

    with pytest.raises(BenchError, match="the disk is full"):
        parallel._Gathering([("guest", order)], take).run()
    assert (tmp_path / "undone").exists()
