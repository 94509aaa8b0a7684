"""Compare the figures of two results, metric by metric, and decide whether a change is more than noise.

The unit is the round. Rounds of different runs are no pairs, so both sides are resampled on their own, and the ratio of
their medians gets a 95 % bootstrap interval. The verdict is about the interval, not the point:

    worse, better    all of it is beyond the noise threshold, and not only because so many figures were looked at (Holm)
    same             all of it is within
    inconclusive     it is on both sides; told with how many rounds would narrow it enough
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from bench.analysis.intervals import ends, ratios
from bench.documents import Interval, Result
from bench.documents.comparison import Difference, Verdict
from bench.documents.metrics import METRICS
from scenarios.axes import Axes

_LEVEL = 0.05

Key = tuple[str, Axes, str, str]
"""The workload, the point, the data plane and the metric that a figure belongs to."""


def figures(result: Result) -> dict[Key, list[float]]:
    """Collect every figure of a run: one value for each round that measured it."""
    found: dict[Key, list[float]] = {}
    for trial in result.trials:
        if not trial.warmup and not trial.error:
            for metric, value in trial.figures.items():
                found.setdefault((trial.workload, trial.axes, trial.dataplane, metric), []).append(value)
    return found


def compare(base: Result, new: Result, noise: float) -> list[Difference]:
    """Compare every metric that both runs have, in the order of the new run."""
    known, found = figures(base), figures(new)
    return _holm([_difference(key, known[key], values, noise) for key, values in found.items() if key in known])


def _holm(differences: Sequence[Difference]) -> list[Difference]:
    """One verdict of many must be surer than one alone: Holm's step-down at 5 % over each metric's cells (1979)."""
    doubted = set()
    for metric in {each.metric for each in differences}:
        family = sorted(
            (e.p_noise, n) for n, e in enumerate(differences) if e.metric == metric and e.p_noise is not None
        )
        sure = True
        for rank, (p, number) in enumerate(family):
            sure = sure and p <= _LEVEL / (len(family) - rank)
            if not sure and differences[number].verdict in ("better", "worse"):
                doubted.add(number)
    return [replace(e, verdict="inconclusive") if n in doubted else e for n, e in enumerate(differences)]


def _difference(key: Key, base: Sequence[float], new: Sequence[float], noise: float) -> Difference:
    middle = float(np.median(base)), float(np.median(new))
    rounds = min(len(base), len(new))
    changes = ratios(base, new)
    if rounds < 3:
        ratio = Interval(middle[1] / middle[0]) if middle[0] else None
        return Difference(*key, *middle, ratio, "inconclusive", rounds)
    low, high = ends(changes)
    verdict = _verdict(low, high, noise, higher=METRICS[key[3]].better == "higher")
    needed = None
    if verdict == "inconclusive" and noise and low > 0 and math.isfinite(high):  # without noise no number would do
        width = math.log(high / low) / 2
        needed = max(rounds + 1, math.ceil(rounds * (width / noise) ** 2))
    ratio = Interval(middle[1] / middle[0], low, high) if middle[0] else None
    doubts = _p(changes, 1, 1), _p(changes, 1 - noise, 1 + noise)
    return Difference(*key, *middle, ratio, verdict, rounds, needed, *doubts)


def _p(changes: np.ndarray[Any, Any], low: float, high: float) -> float:
    """Return the two-sided probability, by the resamples, that the ratio lies within these bounds."""
    within = min(int(np.sum(changes >= low)), int(np.sum(changes <= high)))
    return min(1.0, 2 * (1 + within) / (1 + len(changes)))


def _verdict(low: float, high: float, noise: float, *, higher: bool) -> Verdict:
    if 1 - noise <= low and high <= 1 + noise:
        return "same"
    if high < 1 - noise:
        return "worse" if higher else "better"
    if low > 1 + noise:
        return "better" if higher else "worse"
    return "inconclusive"
