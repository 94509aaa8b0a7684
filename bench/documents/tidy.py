"""Documents as tidy rows: one row per figure and round, or per cell of a matrix. All rows have the same columns.

Each axis is a column; 0 means the scenario's own value. `plane` and `variant` are the two parts of the selected name:
`nft-lb` and `scheduler=random` of `nft-lb+scheduler=random`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.documents import Matrix, Result
from bench.documents.metrics import METRICS
from dataplanes.selection import split
from scenarios.axes import AXES

Row = dict[str, Any]
FIGURE = ("plane", "variant", "workload", *AXES, "round", "metric", "value", "unit", "clock", "kernel", "revision")
CELL = ("plane", "variant", "check", "outcome", "expected", "detail", "seconds", "clock", "kernel", "revision")


def figures(result: Result) -> Iterator[Row]:
    """Yield the figures of every round that counts, in the order of the trials. Rows have the columns FIGURE."""
    common = {
        "clock": result.environment.get("clock", ""),
        "kernel": result.environment.get("kernel", ""),
        "revision": result.tool.get("revision", ""),
    }
    for trial in result.trials:
        if trial.warmup or trial.error:
            continue
        plane, variant = split(trial.dataplane)
        at = {name: getattr(trial.axes, name) for name in AXES}
        where = {"plane": plane, "variant": variant, "workload": trial.workload, **at, "round": trial.round}
        for metric, value in trial.figures.items():
            yield {**where, "metric": metric, "value": value, "unit": METRICS[metric].unit, **common}


def cells(matrix: Matrix) -> Iterator[Row]:
    """Yield the cells of a matrix. Rows have the columns CELL; `seconds` are by the clock of the kernel under test."""
    for cell in matrix.cells:
        plane, variant = split(cell.dataplane)
        yield {
            "plane": plane,
            "variant": variant,
            "check": cell.check,
            "outcome": cell.outcome,
            "expected": cell.expected,
            "detail": cell.detail,
            "seconds": cell.seconds,
            "clock": matrix.environment.get(cell.kernel, {}).get("clock", ""),
            "kernel": cell.kernel,
            "revision": matrix.tool.get("revision", ""),
        }
