"""What following packets costs itself, so that it can be left out of what their ways cost.

Each program of dataplanes/bpf/trace.c tells the time from its begin to its end. What the kernel does to call it, and
to return from it, comes on top. It is found by some work that is timed without programs, and then with them. Only by
the instruction clock are such figures exact enough: the same work takes the same number of instructions.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from msgspec import Struct

_TIMES = 64  # that some work is done: the least is without what else the kernel has to do now and then
_SPENDING = struct.Struct("=3Q")


class Spending(Struct, frozen=True):
    """The time that programs have taken, and how often those of kprobes and of tracepoints were called."""

    time: int = 0
    probes: int = 0
    points: int = 0

    @classmethod
    def of(cls, value: bytes) -> Spending:
        """Return what the kernel tells."""
        return cls(*_SPENDING.unpack(value))

    def since(self, before: Spending) -> Spending:
        """Return what was spent after an earlier time."""
        return Spending(self.time - before.time, self.probes - before.probes, self.points - before.points)


class Effort(Struct, frozen=True):
    """What some work takes, and how much of that the programs take."""

    elapsed: int = 0
    spent: Spending = Spending()

    @property
    def rest(self) -> int:
        """What it takes besides the programs."""
        return self.elapsed - self.spent.time


class Around(Struct, frozen=True):
    """What the kernel takes to call a program, and to return from it."""

    probe: int = 0
    point: int = 0


def effort(work: Callable[[], object], spending: Callable[[], Spending]) -> Effort:
    """Return what some work takes at least."""
    found = []
    for _ in range(_TIMES):
        before, begin = spending(), time.monotonic_ns()
        work()
        elapsed = time.monotonic_ns() - begin
        found.append(Effort(elapsed, spending().since(before)))
    return min(found, key=lambda each: each.rest)


def around(bare: Effort, with_points: Effort, with_both: Effort) -> Around:
    """Return what calls take, from what some work takes without programs, with those of tracepoints, and with all."""
    point = (with_points.rest - bare.rest) / max(1, with_points.spent.points)
    probe = (with_both.rest - bare.rest - point * with_both.spent.points) / max(1, with_both.spent.probes)
    return Around(round(probe), round(point))
