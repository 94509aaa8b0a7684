"""The order of trials: interleaved rounds, each second one reversed, so that drift affects every plane alike.

(asv does the same in asv/commands/run.py. Google Benchmark measured 40 % less variance between runs from interleaving.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from bench.documents import TrialPlan
from bench.documents.workloads import WORKLOADS
from dataplanes.selection import Selection, balances
from scenarios.axes import Axes

WARMUP_SHARE = 10
"""A warm-up trial makes one tenth of the connections, because it only loads modules and pages in programs."""


Warm = Literal["plane", "workload", "nothing"]


class Series(Struct, frozen=True):
    """Workloads at points of the axes. Some planes may be left out of them."""

    workloads: tuple[str, ...] = ("crr",)
    points: tuple[Axes, ...] = (Axes(),)
    without: tuple[str, ...] = ()  # names of data planes, with any variant or with one
    only: tuple[str, ...] = ()  # if there are any, all others are left out
    rounds: int = 0  # the largest number of rounds; 0: as many as there are

    def has(self, plane: Selection, number: int) -> bool:
        """Return True if the plane is measured in a round, or warmed up in round 0."""
        names = {plane.name, plane.dataplane, f"{plane.dataplane}@{plane.variant}"}
        wanted = not names & set(self.without) and (not self.only or bool(names & set(self.only)))
        return wanted and (number <= self.rounds or not self.rounds)


def interleave(
    selections: Sequence[Selection],
    rounds: int,
    *,
    connections: int,
    series: Sequence[Series] = (Series(),),
    warm: Warm = "plane",
) -> list[TrialPlan]:
    """Return a warm-up of every plane, then `rounds` rounds (A B C, C B A, A B C, ...). No trial is in it twice.

    `warm` says what has a warm-up: every plane, every workload of every plane, or nothing.
    """

    def trials(number: int, order: Sequence[Selection]) -> list[TrialPlan]:
        found: dict[tuple[str, str, Axes], TrialPlan] = {}
        for each in series:
            for workload in each.workloads:
                for at in each.points:
                    for plane in order:
                        name = plane.name
                        if _makes_sense(plane, workload, at) and each.has(plane, number):
                            count = connections if number else max(connections // WARMUP_SHARE, at.concurrency)
                            plan = TrialPlan(name, number, number == 0, count, workload, at)
                            # One warm-up will do, at the first point at which there is something to do.
                            key = (
                                (name, workload, at)
                                if number
                                else (name, workload if warm == "workload" else "", Axes())
                            )
                            found.setdefault(key, plan)
        return list(found.values())

    return [
        plan
        for number in range(warm == "nothing", rounds + 1)
        for plan in trials(number, selections if number % 2 or not number else list(reversed(selections)))
    ]


def _makes_sense(plane: Selection, workload: str, at: Axes) -> bool:
    """Return True if the plane can run the workload: some need a plane, and some need services to program."""
    known = WORKLOADS[workload]
    return not (known.needs_vip and not balances(plane.dataplane)) and (known.filled or bool(at.services))
