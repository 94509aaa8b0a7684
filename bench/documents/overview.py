"""What a report says of the planes in its documents, as a document: a verdict on each, and its curves."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from bench.documents import SCHEMA, Interval
from bench.documents.metrics import Clock
from bench.documents.workloads import WORKLOADS

Answer = Literal["yes", "no", "partly", ""]
_COSTS = WORKLOADS["crr"].costs
SHOWN = (*_COSTS, "connect_p50_us")
"""The figures that a verdict has, of the workload `crr` in the scenario's own world."""


class Curve(Struct, frozen=True):
    """A metric against an axis: per plane, (value of the axis, figure) in order."""

    workload: str
    metric: str
    axis: str
    clock: Clock
    planes: dict[str, list[tuple[int, Interval]]]


class PlaneOverview(Struct, frozen=True):
    """One plane in a line. Against the reference, checks: `same` outcome, `more` hold here only, `less` there only."""

    dataplane: str
    summary: str
    ratio_to_direct: Annotated[Interval | None, Meta(extra_json_schema={"x-unit": "1"})]
    figures: dict[str, Interval]
    same: list[str]
    more: list[str]
    less: list[str]
    answers: dict[str, Answer]

    @property
    def cost(self) -> Interval | None:
        """What a connection costs: instructions, or processor time by the wall clock."""
        return next((self.figures[name] for name in _COSTS if name in self.figures), None)


class Overview(Struct, tag_field="kind", tag="report"):
    """What `bench report -o x.json` writes. `units` are those of the figures in it."""

    verdicts: list[PlaneOverview]
    curves: list[Curve]
    units: dict[str, str]
    schema: Literal[2] = SCHEMA
