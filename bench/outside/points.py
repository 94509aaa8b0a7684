"""The points of the axes at which workloads are measured: those of the caller, or the sweeps of a scenario."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from bench.documents.workloads import WORKLOADS
from bench.outside.rounds import Series
from scenarios import axes
from scenarios.axes import Sweep


def series(workloads: Sequence[str], values: Mapping[str, Sequence[int]], sweeps: Sequence[Sweep] = ()) -> list[Series]:
    """Return what to measure: at the given values, or else in the scenario's sweeps, or else at its own point.

    A workload that programs services itself gets 1,000 if no value is given.
    """
    names = tuple(workloads)
    if not values and sweeps:
        return [
            Series(
                tuple(w for w in each.workloads or names if w in names),
                tuple(each.points()),
                each.without,
                each.only,
                each.rounds,
            )
            for each in sweeps
        ]
    points = axes.grid(values)
    programming = tuple(name for name in names if WORKLOADS[name].of_programming)
    if not programming or any(point.services for point in points):
        return [Series(names, points)]
    others = tuple(name for name in names if name not in programming)
    more = axes.grid({**values, "services": [1000]})
    return [*([Series(others, points)] if others else []), Series(programming, more)]


def crowded(found: Sequence[Series]) -> bool:
    """Return True if the seed's subnet may have no room for it; the scenario `scale` has."""
    return any(
        at.services + at.backends + at.sources + at.nodes * at.containers > 100 or at.containers > 30
        for each in found
        for at in each.points
    )


def scenario_path(scenario: str) -> str:
    """Return a scenario's name as it is, and the path of a file as an absolute one."""
    return os.path.abspath(scenario) if os.path.sep in scenario or scenario.endswith(".toml") else scenario
