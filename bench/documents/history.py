"""The document of `bench history`: figures and semantics over many documents, and where they changed."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from bench.documents import SCHEMA, Count, Interval, Name
from bench.documents.comparison import CellChange, Verdict, at
from bench.documents.metrics import Clock
from scenarios.axes import Axes


class HistoryDocument(Struct, frozen=True):
    """A document of the history: its file, what wrote it, and the kernel under test."""

    name: str
    kind: Literal["result", "matrix"]
    revision: str  # "" if it was not written by a checkout
    version: str
    kernels: dict[str, str]  # the releases, by the name of the kernel


class TrendPoint(Struct, frozen=True):
    """A figure of one document: the median of its rounds with its interval."""

    document: str
    n: Count
    value: Interval


class LevelChange(Struct, frozen=True):
    """A document from which on a figure is another one. `before` and `after` are medians over all rounds between steps.

    `differs` tells what else is different from the document before: the program, the kernel, the machine.
    """

    document: str
    before: float
    after: float
    ratio: float | None  # None if it was zero
    verdict: Verdict
    p: float  # the probability that rounds of one level, in another order, would differ as much
    differs: list[str]


class Trend(Struct):
    """One figure over all documents of a kernel, a clock and a scenario that have it."""

    kernel: Name
    clock: Clock
    scenario: str
    workload: str
    axes: Axes
    dataplane: Name
    metric: str
    points: list[TrendPoint]
    steps: list[LevelChange]

    def name(self) -> str:
        """Name the figure."""
        return " ".join((self.dataplane, at(self.workload, self.axes.label()), self.metric))

    def group(self) -> str:
        """Name what its figures have in common with those of other planes."""
        return f"{self.kernel}, {self.clock} clock, {self.scenario}"


class HeldSemantics(Struct):
    """By document, how many semantics hold on a plane and how many were observed."""

    kernel: Name
    dataplane: Name
    points: dict[str, tuple[Count, Count]]


class CellHistory(Struct, frozen=True):
    """What a matrix gained, lost or changed against the matrix before it that has the cell."""

    document: str
    changes: list[CellChange]


class History(Struct, tag_field="kind", tag="history"):
    """The document that `bench history -o x.json` writes. `units` has the units of its figures."""

    tool: dict[str, Any]
    documents: list[HistoryDocument]
    trends: list[Trend]
    semantics: list[HeldSemantics]
    cells: list[CellHistory]
    verdict: str  # the last line of the output
    units: dict[str, str] = field(default_factory=dict)
    schema: Literal[2] = SCHEMA
