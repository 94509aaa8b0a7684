"""A result as pytest-benchmark's JSON, for `pytest-benchmark compare` and other readers of its files."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import mean, median, quantiles, stdev
from typing import Any

from bench import __version__
from bench.documents import Result
from bench.documents.metrics import METRICS
from bench.documents.workloads import WORKLOADS


def pytest_benchmark(result: Result) -> dict[str, Any]:
    """Return one benchmark per plane, workload and point: seconds per operation, with a value per round.

    The format has only times: operations per second become seconds per operation, and milliseconds become seconds.
    """
    groups: dict[tuple[str, str, str], list[float]] = {}
    for trial in result.trials:
        if not trial.warmup and not trial.error:
            primary = WORKLOADS[trial.workload].primary
            value = trial.figures.get(primary)
            if value:
                key = trial.dataplane, trial.workload, trial.axes.label()
                groups.setdefault(key, []).append(_seconds(primary, value))
    now = datetime.now(timezone.utc).isoformat()
    return {
        "machine_info": {"node": platform.node(), "processor": "", **_strings(result.environment)},
        "commit_info": _commit(str(result.tool.get("revision", "unknown"))),
        "benchmarks": [_benchmark(*key, values) for key, values in groups.items()],
        "datetime": now,
        "version": __version__,
    }


def _commit(revision: str) -> dict[str, Any]:
    """Return the commit that the program was made from. "+" says that the program has changed since."""
    dirty = revision.endswith("+")
    commit = revision.removesuffix("+")
    return {"id": commit, "time": None, "dirty": dirty, "project": "vip-bench", "branch": "unknown"}


def _seconds(metric: str, value: float) -> float:
    parts = {"ms": 1e3, "µs": 1e6}.get(METRICS[metric].unit)
    return value / parts if parts else 1 / value


def _strings(environment: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in environment.items()}


def _benchmark(plane: str, workload: str, at: str, values: Sequence[float]) -> dict[str, Any]:
    group = ", ".join(filter(None, (workload, at)))
    name = f"{group}[{plane}]"
    return {
        "group": group,
        "name": name,
        "fullname": f"bench::{name}",
        "params": {"dataplane": plane},
        "param": plane,
        "extra_info": {},
        "options": {
            "disable_gc": False,
            "timer": "bench",
            "min_rounds": len(values),
            "max_time": 0,
            "min_time": 0,
            "warmup": True,
        },
        "stats": _stats(values),
    }


def _stats(values: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(values)
    q1, _, q3 = quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    middle = mean(ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": middle,
        "stddev": stdev(ordered) if len(ordered) > 1 else 0,
        "rounds": len(ordered),
        "median": median(ordered),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": 0,
        "stddev_outliers": 0,
        "outliers": "0;0",
        "ld15iqr": ordered[0],
        "hd15iqr": ordered[-1],
        "ops": 1 / middle,
        "total": sum(ordered),
        "data": list(values),
        "iterations": 1,
    }
