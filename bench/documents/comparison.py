"""The document of `bench compare`: each NEW against BASE, figure by figure or cell by cell."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from bench.documents import SCHEMA, Fraction, Interval, Name
from scenarios.axes import Axes
from scenarios.outcomes import Outcome

_CHANGES = ("gained", "lost", "changed", "detail")
Verdict = Literal["better", "worse", "same", "inconclusive"]
VERDICTS: dict[str, Literal["result", "matrix"]] = {
    **dict.fromkeys(("worse", "better", "inconclusive"), "result"),
    **dict.fromkeys(("lost", "gained", "changed", "detail"), "matrix"),
}
"""What --fail-on may name alone, and the kind of document that it is about. What is lost fails in any case."""


class Difference(Struct, frozen=True):
    """One metric of one plane: the ratio of NEW to BASE with its interval, and the verdict."""

    workload: str
    axes: Axes
    dataplane: str
    metric: str
    base: float
    new: float
    ratio: Interval | None  # None if BASE is zero
    verdict: Verdict
    rounds: int  # rounds of the side that has fewer
    rounds_needed: int | None = None  # rounds that each run needs if the verdict is inconclusive
    p: float | None = None  # the probability of no change; below 0.05 exactly if the interval does not contain 1
    p_noise: float | None = None  # the probability of no change beyond noise, for the correction of many verdicts

    def name(self) -> str:
        """Name the figure: its plane, its workload at its point, and its metric."""
        return " ".join((self.dataplane, at(self.workload, self.axes.label()), self.metric))

    def change(self) -> str:
        """Tell the change in percent, with its interval."""
        if self.ratio is None:
            return f"{self.base:,.6g} -> {self.new:,.6g}"
        told = f"{self.ratio.value - 1:+.1%}"
        if self.ratio.low is None or self.ratio.high is None:
            return told
        return f"{told} [{self.ratio.low - 1:+.1%}, {self.ratio.high - 1:+.1%}]"


class CellChange(Struct, frozen=True):
    """A cell that both matrices have, with different outcomes, or with different observations of the same outcome."""

    kernel: str
    dataplane: str
    check: Name
    base: Outcome
    new: Outcome
    detail: str  # what NEW observed
    what: Literal["gained", "lost", "changed", "detail"]
    base_detail: str = ""  # what BASE observed

    def name(self) -> str:
        """Name the cell: its kernel, its plane and its check."""
        return " ".join((self.kernel, self.dataplane, self.check))

    def change(self) -> str:
        """Tell the outcomes, and what NEW observed; of one outcome, what both observed."""
        if self.what == "detail":
            return f"{self.new}: {self.base_detail} -> {self.detail}"
        return f"{self.base} -> {self.new}: {self.detail}"


class SameCell(Struct, frozen=True):
    """A cell that both matrices have, with the same outcome and the same observation."""

    kernel: str
    dataplane: str
    check: Name
    outcome: Outcome

    def name(self) -> str:
        """Name the cell: its kernel, its plane and its check."""
        return " ".join((self.kernel, self.dataplane, self.check))


class Comparison(Struct):
    """One NEW document, compared with BASE. It passes if the list of failures is empty.

    Of a document that only a folder NEW has there is nothing but its name, in `added`, and the folder's.
    """

    name: str
    kind: Literal["result", "matrix"]
    noise: Fraction = 0  # smaller changes are taken for noise
    differences: list[Difference] = []
    changes: list[CellChange] = []
    cells: int = 0  # cells that both matrices have
    added: list[str] = []  # cells, figures or documents that only NEW has
    warnings: list[str] = []
    failures: list[str] = []
    unchanged: list[SameCell] = []

    def uncompared(self) -> bool:
        """Return True if this is a document that only NEW has."""
        return bool(self.added) and not (self.differences or self.cells or self.failures)

    def tally(self) -> str:
        """Count the figures or cells that were compared, by verdict, in one line."""
        if self.uncompared():
            return "not in BASE"
        if self.kind == "matrix":
            lists = {what: sum(each.what == what for each in self.changes) for what in _CHANGES}
            return several(self.cells, "cell") + _counted(lists)
        verdicts = [each.verdict for each in self.differences]
        counts = {each: verdicts.count(each) for each in dict.fromkeys(verdicts)}
        return several(len(verdicts), "figure") + _counted({str(each): count for each, count in counts.items()})


def at(workload: str, point: str) -> str:
    """Name a workload at a point of the axes."""
    return f"{workload} ({point})" if point else workload


def several(count: int, what: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _counted(counts: dict[str, int]) -> str:
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f" ({told})" if told else ""


class Comparisons(Struct, tag_field="kind", tag="comparison"):
    """The document that `bench compare --json` prints. `units` has the units of its figures."""

    tool: dict[str, Any]
    base: str  # the path of BASE
    comparisons: list[Comparison]
    verdict: str  # the last line of the output
    units: dict[str, str] = field(default_factory=dict)
    schema: Literal[2] = SCHEMA
