"""Warnings about a run: noise, drift, outliers, a generator at its limit."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.documents import Trial
from bench.documents.agreement import NOISE
from bench.documents.workloads import WORKLOADS
from dataplanes.selection import balances
from scenarios.axes import Axes

_UNSTABLE = 4  # the largest round may exceed the smallest by this many times the noise
_OUTLIER = 3.5  # modified z-score (Iglewicz and Hoaglin 1993)
_BOUND = 0.9
_PORT_RANGE = "net.ipv4.ip_local_port_range"
_LEAST = 5  # rounds that are needed to find outliers and drift


def warnings(trials: Sequence[Trial], environment: Mapping[str, Any]) -> list[str]:
    """Return one line for each fault of a series of rounds."""
    noise = NOISE.get(str(environment.get("clock")), 0.03)
    told = []
    for key, values in _series(trials).items():
        told += [f"{_where(*key)}: {what}" for what in _wrong(values, noise)]
    told += [f"{t.dataplane}, {t.workload}: its warm-up failed: {t.error}" for t in trials if t.warmup and t.error]
    return told + _bound(trials, environment.get("generator_ceiling")) + _ports(trials, environment)


def _series(trials: Sequence[Trial]) -> dict[tuple[str, str, Axes], list[float]]:
    """Return the primary figure of each round, in order, by plane, workload and point."""
    found: dict[tuple[str, str, Axes], list[float]] = {}
    for trial in trials:
        if not trial.warmup and not trial.error:
            value = trial.figures.get(WORKLOADS[trial.workload].primary)
            if value:
                found.setdefault((trial.dataplane, trial.workload, trial.axes), []).append(value)
    return found


def _wrong(values: Sequence[float], noise: float) -> list[str]:
    told = []
    if len(values) >= 3 and max(values) / min(values) - 1 > _UNSTABLE * noise:
        told.append(f"unstable: its rounds are up to {max(values) / min(values) - 1:.1%} apart")
    if len(values) < _LEAST:
        return told
    logs = [math.log(value) for value in values]
    middle = median(logs)
    spread = median(abs(each - middle) for each in logs)
    far = [n for n, each in enumerate(logs) if abs(each - middle) > max(noise, _OUTLIER * spread / 0.6745)]
    if len(far) == 1:
        told.append(
            f"round {far[0] + 1} is an outlier: {math.exp(logs[far[0]] - middle) - 1:+.1%} from the median; kept"
        )
    elif far:  # of many rounds several are to be expected
        least, most = (math.exp(end(logs[n] for n in far) - middle) - 1 for end in (min, max))
        told.append(f"{len(far)} of {len(logs)} rounds are outliers: {least:+.1%} to {most:+.1%} from the median; kept")
    steps = [later - earlier for earlier, later in itertools.pairwise(logs)]
    if abs(logs[-1] - logs[0]) > noise and (min(steps) > 0 or max(steps) < 0):
        told.append(f"drifts: {math.exp(logs[-1] - logs[0]) - 1:+.1%} from the first round to the last, never back")
    return told


def _ports(trials: Sequence[Trial], environment: Mapping[str, Any]) -> list[str]:
    """Warn if connections use up half the client's ports.

    connect() looks for a free port among those of one parity, one by one (net/ipv4/inet_hashtables.c,
    __inet_hash_connect). If all of them are in TIME_WAIT, the search costs more than everything that is measured.
    """
    bounds = [int(n) for n in environment.get("sysctl", {}).get(_PORT_RANGE, "").split() if re.fullmatch(r"\d{1,5}", n)]
    least, most = bounds if len(bounds) == 2 else (32768, 60999)  # the kernel's default, if it could not be read
    half = (most - least + 1) // 2
    asked = [t for t in trials if t.workload == "crr" and not t.warmup]
    most = max(((t.work.operations or 0) // (1 + t.axes.sources) for t in asked), default=0)
    if most * 1.1 <= half or not any(balances(trial.dataplane) for trial in trials):
        return []
    return [
        f"{most:,} connections from one address to one VIP use up half the client's ports, and it searches for each:"
        " see --connections and --sources"
    ]


def _bound(trials: Sequence[Trial], ceiling: float | None) -> list[str]:
    """Warn of series that come near the rate that the generator reaches over loopback.

    If a series is above that rate, the rate is not the generator's limit, and no series is called generator-bound.
    """
    rates = {key: values for key, values in _series(trials).items() if ceiling and _generated(key[1])}
    above = max(rates, key=lambda key: max(rates[key]), default=None)
    if not ceiling or above is None:
        return []
    if (most := max(rates[above])) > ceiling:
        return [
            f"{_where(*above)}: {most:,.0f} connections/s are more than the {ceiling:,.0f} that the generator was seen"
            " to reach over loopback: that is not its ceiling, and nothing is called generator-bound"
        ]
    return [
        f"{_where(*key)}: generator-bound: over loopback the generator itself reaches {ceiling:,.0f} connections/s"
        for key, values in rates.items()
        if median(values) >= _BOUND * ceiling
    ]


def _generated(workload: str) -> bool:
    """Return True if its connections per second are those of our own generator."""
    known = WORKLOADS[workload]
    return known.primary == "connections_per_second" and not known.tools


def _where(name: str, workload: str, at: Axes) -> str:
    return ", ".join(filter(None, (name, workload, at.label())))
