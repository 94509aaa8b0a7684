"""`bench compare`: what changed between two result documents, metric by metric, and whether that is more than noise.

The unit is the round. Rounds of different runs are no pairs, so both sides are resampled on their own and the ratio of
their medians gets a 95 % bootstrap interval. The verdict is about the interval, not the point:

    worse, better    all of it is beyond the noise threshold, and not only because so many figures were looked at (Holm)
    same             all of it is within
    inconclusive     it is on both sides; told with how many rounds would narrow it enough
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bench import documents
from bench.documents import Interval, Result
from bench.judge import NOISE
from bench.statistics import flat
from bench.workloads import METRICS
from dataplanes.errors import Usage
from scenarios.axes import Axes

Verdict = Literal["better", "worse", "same", "inconclusive"]
_RESAMPLES = 9999
_SEED = 20161012
_LEVEL = 0.05
_RULE = re.compile(r"(\w+):([+-])(\d+(?:\.\d+)?)%\Z")


class Difference(Struct, frozen=True):
    """One metric of one plane: NEW over BASE with its interval, and what that means."""

    workload: str
    axes: Axes
    dataplane: str
    metric: str
    base: float
    new: float
    ratio: Interval
    verdict: Verdict
    rounds_needed: int | None = None  # in each run, when inconclusive
    p: float | None = None  # of a difference this large by chance, one figure looked at; None below three rounds


class Rule(Struct, frozen=True):
    """`METRIC:-5%`: fail if all of the interval is at least that far in that direction."""

    metric: str
    change: float  # -0.05

    def broken_by(self, difference: Difference) -> bool:
        """True if the whole interval is beyond the rule's change."""
        ratio = difference.ratio
        if difference.metric != self.metric or ratio.low is None or ratio.high is None:
            return False
        return ratio.high < 1 + self.change if self.change < 0 else ratio.low > 1 + self.change


def load(path: str) -> Result:
    """A result document. Raises Usage if it is none, or of another schema."""
    found = documents.read(path)
    if not isinstance(found, Result):
        raise Usage("not a result of `bench run`", where=path, why="it is a matrix")
    return found


def parse_rules(text: str) -> list[Rule]:
    """What `--fail-on` names. Raises Usage."""
    rules = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = _RULE.match(part)
        if not match or match[1] not in METRICS:
            raise Usage(
                f"cannot read --fail-on {part!r}", fix=f"METRIC:-5% or METRIC:+5%; metrics: {', '.join(METRICS)}"
            )
        rules.append(Rule(match[1], float(match[2] + match[3]) / 100))
    return rules


def compare(base: Result, new: Result, noise: float | None = None) -> list[Difference]:
    """Every metric both runs have, in the order of the new one. Raises Usage if the clocks differ."""
    clocks = base.environment.get("clock"), new.environment.get("clock")
    if clocks[0] != clocks[1]:
        raise Usage("nothing to compare", why=f"one is by the {clocks[0]} clock, the other by the {clocks[1]} clock")
    threshold = NOISE.get(str(clocks[0]), 0.03) if noise is None else noise
    known, found = _samples(base), _samples(new)
    differences = [_difference(key, known[key], values, threshold) for key, values in found.items() if key in known]
    return _holm(differences)


def _holm(differences: Sequence[Difference]) -> list[Difference]:
    """One verdict of many must be surer than one alone: Holm's step-down at 5 % over each metric's cells (1979)."""
    doubted = set()
    for metric in {each.metric for each in differences}:
        family = sorted((e.p, n) for n, e in enumerate(differences) if e.metric == metric and e.p is not None)
        sure = True
        for rank, (p, number) in enumerate(family):
            sure = sure and p <= _LEVEL / (len(family) - rank)
            if not sure and differences[number].verdict in ("better", "worse"):
                doubted.add(number)
    return [replace(e, verdict="inconclusive") if n in doubted else e for n, e in enumerate(differences)]


def warnings(base: Result, new: Result) -> list[str]:
    """What else is different, and may be why."""
    keys = ("kernel", "machine", "cpu", "cpus", "mitigations", "versions", "sysctl", "cmdline")
    differing = [key for key in keys if base.environment.get(key) != new.environment.get(key)]
    told = [f"the runs' {key} differ" for key in differing]
    plans = [{key: each.plan["trials"][-1].get(key) for key in ("connections", "concurrency")} for each in (base, new)]
    return told + ([f"the runs' loads differ: {plans[0]} and {plans[1]}"] if plans[0] != plans[1] else [])


_Key = tuple[str, Axes, str, str]


def _samples(result: Result) -> dict[_Key, list[float]]:
    found: dict[_Key, list[float]] = {}
    for trial in result.trials:
        if not trial.warmup and not trial.error:
            for metric, value in flat(trial.metrics).items():
                if metric in METRICS and value > 0:
                    found.setdefault((trial.workload, trial.axes, trial.dataplane, metric), []).append(value)
    return found


def _difference(key: _Key, base: Sequence[float], new: Sequence[float], noise: float) -> Difference:
    ratio, p = _ratio(np.log(base), np.log(new), noise)
    verdict = _verdict(ratio, noise, higher=METRICS[key[3]].higher_is_better)
    needed = None
    if verdict == "inconclusive" and ratio.low and ratio.high:
        width = math.log(ratio.high / ratio.low) / 2
        needed = max(len(new) + 1, math.ceil(len(new) * (width / noise) ** 2))
    return Difference(*key, float(np.median(base)), float(np.median(new)), ratio, verdict, needed, p)


def _ratio(base: np.ndarray[Any, Any], new: np.ndarray[Any, Any], noise: float) -> tuple[Interval, float | None]:
    """The ratio with its interval, and how likely it is no further from 1 than noise is."""
    point = math.exp(float(np.median(new) - np.median(base)))
    if min(len(base), len(new)) < 3:
        return Interval(point), None
    random = np.random.default_rng(_SEED)
    medians = [np.median(side[random.integers(0, len(side), (_RESAMPLES, len(side)))], axis=1) for side in (base, new)]
    logs = medians[1] - medians[0]
    low, high = np.quantile(logs, (0.025, 0.975))
    beyond = max(int(np.sum(logs < math.log1p(-noise))), int(np.sum(logs > math.log1p(noise))))
    return Interval(point, math.exp(float(low)), math.exp(float(high))), 2 * (1 + _RESAMPLES - beyond) / (
        1 + _RESAMPLES
    )


def _verdict(ratio: Interval, noise: float, *, higher: bool) -> Verdict:
    if ratio.low is None or ratio.high is None:
        return "inconclusive"
    if 1 - noise <= ratio.low and ratio.high <= 1 + noise:
        return "same"
    if ratio.high < 1 - noise:
        return "worse" if higher else "better"
    if ratio.low > 1 + noise:
        return "better" if higher else "worse"
    return "inconclusive"
