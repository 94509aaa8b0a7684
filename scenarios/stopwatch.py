"""Measurements of time and executed work, and a check that the machine they were made on can be believed."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from msgspec import Struct

from dataplanes.errors import BenchError
from scenarios import losses

_LOOK, _QUIET, _SETTLED_AT_LAST = 0.25, 3, 10.0
_WALK_LOOK, _WALK_LOOKS, _WALK = 4.0, 18, 2.5e-3
"""Seconds between looks, how many looks there are, and the seconds a walk runs. Between two looks others ran 1.8 ms."""
_METER = "/run/bench-job/waited"
_LEAP = 1.0
"""The seconds by which the clock may advance, within a check or a trial, while the machine's files are waited for."""


class Taken(Struct, frozen=True):
    """`elapsed_ms` by the clock, and `cpu_ms` of this process and of the programs that it ran."""

    elapsed_ms: float = 0.0
    cpu_ms: float = 0.0

    def by(self, clock: str) -> float:
        """Return the time that counts by a clock.

        The instruction clock skips waits, for example for the disk, so by that clock the executed time counts.
        """
        return self.cpu_ms if clock == "instructions" else self.elapsed_ms


def timed(act: Callable[[], object]) -> Taken:
    """Run a function and return the time it took."""
    cpu, begun = _cpu_ms(), time.monotonic()
    act()
    return Taken((time.monotonic() - begun) * 1e3, _cpu_ms() - cpu)


class Steadiness:
    """A check that the machine did nothing, since this was made, for which a plane would be blamed.

    The instruction clock must not advance while the guest waits for the machine's files. Otherwise the kernel's
    time-outs would expire during a wait that is longer the busier the machine is. bench/kernels/awake.c prevents that,
    and writes the time to the file `_METER`, which only this clock has. And the kernel must not have refused a
    neighbour, because the packet that needed it is lost. With `queues` it must not have dropped a packet for want of
    room either; a load may fill a queue by itself.
    """

    def __init__(self, *, queues: bool = False) -> None:
        self._waited_before, self._refused_before = self._waited(), losses.neighbours_refused()
        self._dropped_before = losses.packets_dropped() if queues else None

    def broken(self) -> BenchError | None:
        """Return an error if the clock advanced by more than `_LEAP`, or if the machine has lost packets."""
        if (leap := self._waited() - self._waited_before) > _LEAP:
            what = f"the guest's clock went on for {leap:.1f} s while it waited for files"
            return BenchError(what, fix="try again on a machine that is less busy")
        if refused := losses.neighbours_refused() - self._refused_before:
            return BenchError(
                f"the machine's table of neighbours was full, and {refused} more were refused",
                why="all namespaces of a machine share one",
                fix=f"raise {losses.LIMIT} in its first namespace, or use --kernel guest",
            )
        if self._dropped_before is not None and losses.packets_dropped() > self._dropped_before:
            return BenchError("the machine's queue of packets was full", fix="raise net.core.netdev_max_backlog")
        return None

    @staticmethod
    def _waited() -> float:
        try:
            with open(_METER, "rb") as file:
                return int.from_bytes(file.read(8), "little") / 1e9
        except FileNotFoundError:
            return 0.0


def kept_waiting() -> float:
    """Return the seconds for which this process was ready to run, and others ran (sched-stats.rst); 0 if untold."""
    try:
        with open("/proc/self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def settle() -> None:
    """Wait until this machine has nothing left to do. Use it only on a machine that runs nothing else: a guest.

    Programming leaves work behind (tables are resized, memory is freed), which must not count as a later measurement's
    cost.
    """
    deadline = time.monotonic() + _SETTLED_AT_LAST
    quiet = 0
    while quiet < _QUIET and time.monotonic() < deadline:
        idle, begun = _idle(), time.monotonic()
        time.sleep(_LOOK)
        quiet = quiet + 1 if _idle() - idle > 0.9 * (time.monotonic() - begun) else 0


def await_walk() -> float:
    """Wait until connection tracking's collector has walked over its whole table; return the seconds, at most 72.

    It does so about once a minute (net/netfilter/nf_conntrack_core.c, gc_worker). Over 65,536 buckets it executes 3.5
    million instructions, which must not count as the cost of what is measured meanwhile. The instruction clock skips
    the wait. What remains are the looks, so they are far apart.
    """
    begun = time.monotonic()
    for _ in range(_WALK_LOOKS):
        before = _others_executed()
        time.sleep(_WALK_LOOK)
        if _others_executed() - before > _WALK:
            break
    return time.monotonic() - begun


def _others_executed() -> float:
    """Return the seconds for which everybody but this process has run (Documentation/scheduler/sched-stats.rst)."""
    with open("/proc/schedstat", encoding="ascii") as file:
        return sum(int(line.split()[7]) for line in file if line.startswith("cpu")) / 1e9 - time.process_time()


def _idle() -> float:
    """Return the seconds for which the processors were idle, summed over the processors (proc_stat(5))."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[4]) / os.sysconf("SC_CLK_TCK")


def _cpu_ms() -> float:
    """Return the CPU time in milliseconds.

    It is precise: it is the scheduler's sum_exec_runtime, and only its division into user and system is by ticks
    (kernel/sched/cputime.c, cputime_adjust).
    """
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e3
