"""How long something took, what it executed, and whether the clock can be believed."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from msgspec import Struct

_LOOK, _QUIET, _SETTLED_AT_LAST = 0.25, 3, 10.0
_METER = "/run/bench-job/waited"
_LEAP = 1.0
"""Seconds that the clock may go on, within a check or a trial, while the machine's files are waited for."""


class Taken(Struct, frozen=True):
    """`elapsed_ms` on the clock; `cpu_ms` of this process and the programs it ran and waited for."""

    elapsed_ms: float = 0.0
    cpu_ms: float = 0.0

    def by(self, clock: str) -> float:
        """What counts by a clock. The instruction clock leaps over waits, for the disk among others: there what was
        executed counts."""
        return self.cpu_ms if clock == "instructions" else self.elapsed_ms


def timed(act: Callable[[], object]) -> Taken:
    """Do it, and say what it took."""
    cpu, begun = _cpu_ms(), time.monotonic()
    act()
    return Taken((time.monotonic() - begun) * 1e3, _cpu_ms() - cpu)


class Steadiness:
    """Whether the instruction clock went on while the guest waited for the machine's files, since this was made.

    Time-outs of the kernel would be over then after a wait that nobody asked for, the longer the busier the machine is.
    bench/kernels/awake.c prevents it, and measures it in the file `_METER`, which no other clock has.
    """

    def __init__(self) -> None:
        self._before = self._waited()

    def broken(self) -> str:
        """What to say if the clock leapt by more than `_LEAP`, or nothing."""
        leap = self._waited() - self._before
        return f"the guest's clock went on for {leap:.1f} s while it waited for files" if leap > _LEAP else ""

    @staticmethod
    def _waited() -> float:
        try:
            with open(_METER, "rb") as file:
                return int.from_bytes(file.read(8), "little") / 1e9
        except FileNotFoundError:
            return 0.0


def settle() -> None:
    """Wait until this machine has nothing left to do: what was programmed leaves work behind (tables that are resized,
    memory that is freed), which is not the next thing's cost. Only for a machine that runs nothing else: a guest."""
    deadline = time.monotonic() + _SETTLED_AT_LAST
    quiet = 0
    while quiet < _QUIET and time.monotonic() < deadline:
        idle, begun = _idle(), time.monotonic()
        time.sleep(_LOOK)
        quiet = quiet + 1 if _idle() - idle > 0.9 * (time.monotonic() - begun) else 0


def _idle() -> float:
    """Seconds the processors were idle (proc_stat(5); each counts)."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[4]) / os.sysconf("SC_CLK_TCK")


def _cpu_ms() -> float:
    """Precise: the scheduler's sum_exec_runtime, only its division into user and system is by ticks
    (kernel/sched/cputime.c, cputime_adjust)."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e3
