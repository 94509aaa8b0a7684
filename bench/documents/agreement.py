"""When a series has been measured often enough.

By the instruction clock the rounds of one program on one kernel agree within half a percent, so a series whose first
rounds agree needs no more of them. By the wall clock the machine's other work decides, so there the number is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.documents import Round, Trial, TrialPlan
from bench.documents.workloads import WORKLOADS

NOISE = {"instructions": 0.005, "wall": 0.03}
"""By clock: runs of one tree on one machine differ by less (README, "How to read the figures")."""
LEAST, MOST = 3, 7
"""The rounds of a series that ends by itself. Below three there is no interval. Of seven, a single one that is far off
is no part of the interval; of five it is."""


def figure(trial: Trial) -> Round:
    """Return a round by its workload's primary figure; it is 0 if the trial failed."""
    value = 0.0 if trial.error else trial.figures.get(WORKLOADS[trial.workload].primary, 0.0)
    return Round(trial.dataplane, trial.workload, trial.axes, value)


class Agreement:
    """The rounds of every series as they come."""

    def __init__(self, rounds: Iterable[Round] = ()) -> None:
        self._values: dict[tuple[object, ...], list[float]] = {}
        for each in rounds:
            self.add(each)

    def add(self, measured: Round) -> None:
        """Take in a round that has been measured."""
        self._values.setdefault(measured.series(), []).append(measured.value)

    def needed(self, plans: Iterable[TrialPlan]) -> list[TrialPlan]:
        """Return the planned trials of series that may need more rounds."""
        return [plan for plan in plans if not self.reached(plan)]

    def reached(self, plan: TrialPlan) -> bool:
        """Return True if the planned trial's series needs no more rounds: those there are agree, or all have failed."""
        values = self._values.get(plan.key()[:3], [])
        return len(values) >= LEAST and max(values) <= min(values) * (1 + NOISE["instructions"])
