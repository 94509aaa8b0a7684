"""How long something took, and what it executed."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from msgspec import Struct


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


def _cpu_ms() -> float:
    """Precise: the scheduler's sum_exec_runtime, only its division into user and system is by ticks
    (kernel/sched/cputime.c, cputime_adjust)."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e3
