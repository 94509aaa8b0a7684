"""Intervals over the rounds of a run.

The unit is the round. By the wall clock planes are compared within it, because the machine drifts. The instruction
clock does not drift, and each plane may have another number of rounds. So there both sides are resampled on their own.
Needs numpy and scipy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from bench.documents import Interval, Summary, Trial
from bench.documents.workloads import WORKLOADS
from dataplanes.selection import DIRECT, reference
from scenarios.axes import Axes

_RESAMPLES = 9999
_SEED = 20161012
_OUTSIDE = round(0.05 / 2 * (_RESAMPLES + 1)) - 2
"""A ratio's interval ends at this resample, from either end. So it holds every ratio whose p is 0.05 or more."""


def interval(values: Sequence[float]) -> Interval:
    """Return the median with its 95 % BCa bootstrap interval (Efron 1987). Below three values there is no interval."""
    sample = np.asarray(values, dtype=float)
    middle = float(np.median(sample))
    if len(sample) < 3:
        return Interval(middle)
    if np.ptp(sample) == 0:
        return Interval(middle, middle, middle)
    low, high = _bootstrap(sample, "BCa")
    if math.isnan(low):  # BCa is undefined if all jackknife medians are the same; the percentile method is not
        low, high = _bootstrap(sample, "percentile")
    return Interval(middle, low, high)


def _bootstrap(sample: np.ndarray[Any, Any], method: str) -> tuple[float, float]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's DegenerateDataWarning is the case of the caller's fall-back
        found = bootstrap((sample,), np.median, n_resamples=_RESAMPLES, method=method, rng=np.random.default_rng(_SEED))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def ratios(base: Sequence[float], new: Sequence[float]) -> np.ndarray[Any, Any]:
    """Return the ratio of medians in every resample of both sides, sorted.

    0 / 0 counts as no change, and x / 0 as infinite.
    """
    random = np.random.default_rng(_SEED)
    medians = [
        np.median(np.asarray(side)[random.integers(0, len(side), (_RESAMPLES, len(side)))], axis=1)
        for side in (base, new)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = medians[1] / medians[0]
    found[(medians[0] == 0) & (medians[1] == 0)] = 1
    return np.sort(found)


def ends(resampled: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of sorted ratios."""
    return float(resampled[_OUTSIDE]), float(resampled[-1 - _OUTSIDE])


def unpaired(values: Sequence[float], base: Sequence[float]) -> Interval | None:
    """Return the ratio of the medians. Below three rounds of either there is no interval."""
    if not values or not base:
        return None
    middle = float(np.median(values) / np.median(base))
    return Interval(middle, *ends(ratios(base, values))) if min(len(values), len(base)) >= 3 else Interval(middle)


def paired(values: dict[int, float], base: dict[int, float]) -> Interval | None:
    """Return the median of the ratios within the rounds, computed through their logarithms."""
    rounds = sorted(values.keys() & base.keys())
    if not rounds:
        return None
    found = interval([math.log(values[number] / base[number]) for number in rounds])
    turn: Callable[[float | None], float | None] = lambda x: None if x is None else math.exp(x)  # noqa: E731
    return Interval(math.exp(found.value), turn(found.low), turn(found.high))


def compared(values: dict[int, float], base: dict[int, float], *, drifts: bool) -> Interval | None:
    """Return the ratio of two planes' figures by round: within the rounds if the machine drifts."""
    return paired(values, base) if drifts else unpaired([*values.values()], [*base.values()])


def summarise(trials: Sequence[Trial], base: str = DIRECT, *, drifts: bool = True) -> list[Summary]:
    """Return a summary per workload, point and data plane, in the order in which they first ran.

    Warm-ups do not count. If the machine drifts, planes are compared within rounds, and the base with itself always is.
    In the place of the lab's direct path, a platform's own is the base of its figures.
    """
    groups: dict[tuple[str, Axes, str], list[Trial]] = {}
    for trial in trials:
        group = groups.setdefault((trial.workload, trial.axes, trial.dataplane), [])
        if not trial.warmup:
            group.append(trial)
    names = {name for _, _, name in groups}

    def one(workload: str, at: Axes, name: str, found: Sequence[Trial]) -> Summary:
        to = reference(name, names) if base == DIRECT else base
        return _summary(
            name, workload, at, found, _primary(groups.get((workload, at, to), [])), drifts=drifts or name == to
        )

    return [one(*series, found) for series, found in groups.items() if found]


def _primary(trials: Sequence[Trial]) -> dict[int, float]:
    """Return, by round, the figure by which planes are compared in this workload."""
    found = {t.round: t.figures.get(WORKLOADS[t.workload].primary) for t in trials if not t.error}
    return {number: value for number, value in found.items() if value}


def _summary(
    name: str, workload: str, at: Axes, trials: Sequence[Trial], reference: dict[int, float], *, drifts: bool
) -> Summary:
    good = [trial for trial in trials if not trial.error]
    own = _primary(good)
    columns: dict[str, list[float]] = {}
    errors: dict[str, int] = {}
    backends: dict[str, int] = {}
    for trial in good:
        for metric, value in trial.figures.items():
            columns.setdefault(metric, []).append(value)
        _add(errors, trial.work.errors)
        _add(backends, trial.work.backends)
    failed = [trial.error for trial in trials if trial.error]
    return Summary(
        name,
        trials[0].scenario,
        workload,
        len(good),
        {metric: interval(values) for metric, values in columns.items()},
        compared(own, reference, drifts=drifts),
        errors,
        backends,
        failed[0] if failed else "",
        at,
    )


def _add(total: dict[str, int], part: dict[str, int]) -> None:
    for key, count in part.items():
        total[key] = total.get(key, 0) + count
