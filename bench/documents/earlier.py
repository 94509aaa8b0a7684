"""Documents as earlier versions of the program wrote them. Each becomes one of the next version when it is read.

These types do not change any more: they are what is in files. Where a type of bench.documents is used here and has to
change, its earlier form moves here first.

Schema 1 was written by version 0.1. The figures of a trial are in `metrics`, beside what the workload did. Latencies
are nested there, as `connect_us.p50`. A summary calls its figures `metrics`. Neither a kind nor a unit is told.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from bench.documents import (
    Count,
    Figure,
    Figures,
    Held,
    Interval,
    Matrix,
    MatrixCell,
    Name,
    Profile,
    Result,
    Summary,
    Trial,
    Work,
)
from bench.documents.metrics import METRICS, units
from dataplanes import files
from scenarios.axes import Axes

_LATENCIES = ("connect", "request", "first", "next")


class _Metrics1(Struct):
    """The fields that schema 1 has in a trial's `metrics` beside figures with today's names."""

    errors: dict[str, Count] = field(default_factory=dict)
    backends: dict[str, Count] = field(default_factory=dict)
    connect_us: dict[str, Figure] = field(default_factory=dict)
    request_us: dict[str, Figure] = field(default_factory=dict)
    first_us: dict[str, Figure] = field(default_factory=dict)
    next_us: dict[str, Figure] = field(default_factory=dict)
    operations: Count | None = None
    connections: Count | None = None  # the operations of workloads that make connections
    elapsed_ns: Count | None = None
    rate: Figure | None = None
    syn_retransmits: Count | None = None
    generator_share: Figure | None = None


class Trial1(Struct):
    """A trial of schema 1."""

    dataplane: Name
    scenario: str
    workload: str
    round: Count
    warmup: bool
    metrics: dict[str, Any]
    error: str = ""
    axes: Axes = Axes()
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    profile: Profile | None = None
    held: list[Held] = []

    def upgraded(self, where: str) -> Trial:
        """Return the trial of today. Raises Usage if its metrics are not those of schema 1."""
        where = f"{where}.metrics"
        known = files.convert(self.metrics, _Metrics1, where, wrong="not a trial")
        figures = {name: value for name, value in self.metrics.items() if name in METRICS}
        return Trial(
            self.dataplane,
            self.scenario,
            self.workload,
            self.round,
            self.warmup,
            files.convert(figures, Figures, where, wrong="not a trial") | _latencies(known),
            self.error,
            self.axes,
            self.settings,
            self.profile,
            self.held,
            Work(
                known.connections if known.operations is None else known.operations,
                known.elapsed_ns,
                known.rate,
                known.syn_retransmits,
                known.generator_share,
                known.errors,
                known.backends,
            ),
        )


def _latencies(found: _Metrics1) -> Figures:
    """Name nested latencies as today's figures. A latency of 0 stood for none."""
    named = {f"{of}_{rank}_us": value for of in _LATENCIES for rank, value in getattr(found, f"{of}_us").items()}
    return {name: value for name, value in named.items() if value and name in METRICS}


class Summary1(Struct):
    """A summary of schema 1."""

    dataplane: Name
    scenario: str
    workload: str
    n: Count
    metrics: dict[str, Interval]
    ratio_to_direct: Interval | None
    errors: dict[str, Count]
    backends: dict[str, Count]
    note: str = ""
    axes: Axes = Axes()

    def upgraded(self) -> Summary:
        """Return the summary of today."""
        return Summary(
            self.dataplane,
            self.scenario,
            self.workload,
            self.n,
            {name: value for name, value in self.metrics.items() if name in METRICS},
            self.ratio_to_direct,
            self.errors,
            self.backends,
            self.note,
            self.axes,
        )


class Result1(Struct):
    """A result of schema 1."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    trials: list[Trial1]
    summary: list[Summary1]
    warnings: list[str] = []
    schema: Literal[1] = 1

    def upgraded(self, where: str) -> Result:
        """Return the result of schema 2. Raises Usage if a trial's metrics are not those of schema 1."""
        trials = [each.upgraded(f"{where}: trials[{number}]") for number, each in enumerate(self.trials)]
        summary = [each.upgraded() for each in self.summary]
        named = {name for trial in trials for name in trial.figures}
        return Result(self.tool, self.environment, self.plan, trials, summary, self.warnings, units(named))


class Matrix1(Struct):
    """A matrix of schema 1."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    cells: list[MatrixCell]
    schema: Literal[1] = 1

    def upgraded(self, _where: str) -> Matrix:
        """Return the matrix of schema 2, which tells its kind."""
        return Matrix(self.tool, self.environment, self.plan, self.cells)
