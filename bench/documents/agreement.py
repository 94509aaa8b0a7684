"""When a series has been measured often enough.

By the instruction clock the rounds of one program on one kernel agree within half a percent, so a series whose first
rounds agree needs no more of them. By the wall clock the machine's other work decides. There the number of rounds is
fixed, unless a precision is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.documents import Goal, Round, Trial, TrialPlan
from bench.documents.workloads import WORKLOADS
from dataplanes.selection import balances, reference

NOISE: dict[str, float] = {"instructions": 0.005, "wall": 0.03}
"""By clock: runs of one tree on one machine differ by less (docs/measuring.md)."""
LEAST: dict[str, int] = {"instructions": 3, "wall": 6}
"""By clock: the least rounds of a series that ends by itself. Three rounds by instructions agree or do not. Six are the
fewest whose range holds the median with 95 %."""
MOST: dict[str, int] = {"instructions": 7, "wall": 100}
"""By clock: the most rounds of a series that ends by itself. Of seven, a single one that is far off is no part of the
bootstrap interval that the result tells; of five it is."""
_OUTSIDE = 0.025


def goal_of(clock: str, precision: float | None, *, fixed: bool) -> Goal | None:
    """Return the goal of a run, or None if it does a number of rounds.

    `fixed` says that such a number was asked for. Without a precision, series end by themselves only by the instruction
    clock.
    """
    if precision is not None:
        return Goal(clock, precision)
    return Goal(clock, NOISE[clock]) if clock == "instructions" and not fixed else None


def figure(trial: Trial) -> Round:
    """Return a round by its workload's primary figure; it is 0 if the trial failed."""
    value = 0.0 if trial.error else trial.figures.get(WORKLOADS[trial.workload].primary, 0.0)
    return Round(trial.dataplane, trial.workload, trial.axes, trial.round, value)


def within(values: Sequence[float]) -> tuple[float, float]:
    """Return two of the values. The median of what they are a sample of lies between them with 95 %.

    Of fewer than six values they are the least and the most, and with less than 95 %. The interval needs no known
    distribution and no resampling: the number of values below the median is binomial (Conover 1999, section 3.2).
    """
    ordered, number = sorted(values), len(values)
    skipped, below = 0, 0.5**number
    while below + math.comb(number, skipped + 1) * 0.5**number <= _OUTSIDE:
        skipped += 1
        below += math.comb(number, skipped) * 0.5**number
    return ordered[skipped], ordered[-1 - skipped]


class Agreement:
    """The rounds of every series as they come, and the goal that ends a series.

    By the instruction clock a series is its own figures. By the wall clock it is their ratios to the reference's in the
    same round, and the reference is measured as long as a plane at the same point needs it.
    """

    def __init__(self, goal: Goal | None, rounds: Iterable[Round] = ()) -> None:
        """Without a goal no series ends before its planned rounds are done."""
        self._goal = goal
        self._series: dict[tuple[object, ...], dict[int, float]] = {}
        for each in rounds:
            self.add(each)

    def add(self, measured: Round) -> None:
        """Take in a round that has been measured."""
        self._series.setdefault(measured.series(), {})[measured.number] = measured.value

    def needed(self, plans: Iterable[TrialPlan]) -> list[TrialPlan]:
        """Return the planned trials of series that may need more rounds."""
        return [plan for plan in plans if not self.reached(plan)]

    def reached(self, plan: TrialPlan) -> bool:
        """Return True if the planned trial's series needs no more rounds: the goal is reached, or all have failed."""
        if self._goal is None:
            return False
        series = plan.key()[:3]
        needing = [series]
        if self._goal.drifts and not balances(plan.dataplane):
            needing += [each for each in self._series if each[1:] == series[1:] and self._base(each) == series]
        return all(self._narrow(self._goal, each) for each in needing)

    def _narrow(self, goal: Goal, series: tuple[object, ...]) -> bool:
        values = [*self._series.get(series, {}).values()] if not goal.drifts else self._ratios(series)
        if len(values) < LEAST[goal.clock]:
            return False
        low, high = within(values)
        return high <= low * (1 + goal.precision)

    def _ratios(self, series: tuple[object, ...]) -> list[float]:
        """Return the ratios to the reference within the rounds that both have; 0 where either failed."""
        own, base = self._series.get(series, {}), self._series.get(self._base(series), {})
        return [own[number] / base[number] if base[number] else 0.0 for number in own.keys() & base.keys()]

    def _base(self, series: tuple[object, ...]) -> tuple[object, ...]:
        """Return the series of the reference at the same point."""
        return reference(str(series[0]), {str(each[0]) for each in self._series}), *series[1:]
