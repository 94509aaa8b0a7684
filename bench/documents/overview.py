"""The document of `bench report`: a verdict on each plane, and its curves."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from bench.documents import SCHEMA, Interval
from bench.documents.metrics import Clock
from bench.documents.workloads import WORKLOADS

Answer = Literal["yes", "no", "partly", ""]
_COSTS = WORKLOADS["crr"].costs
SHOWN = (*_COSTS, "connect_p50_us")
"""The figures of a verdict, from the workload `crr` at the scenario's own size."""


class Curve(Struct, frozen=True):
    """A metric against an axis: per plane, pairs of the axis's value and the figure, in order."""

    workload: str
    metric: str
    axis: str
    clock: Clock
    planes: dict[str, list[tuple[int, Interval]]]


class PlaneOverview(Struct, frozen=True):
    """One plane in a line.

    Of the checks it names those with the `same` outcome as the reference, and those that hold only here (`more`) or
    only there (`less`).
    """

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
        """The cost of a connection: instructions, or processor time by the wall clock."""
        return next((self.figures[name] for name in _COSTS if name in self.figures), None)


class Overview(Struct, tag_field="kind", tag="report"):
    """The document that `bench report -o x.json` writes. `units` has the units of its figures."""

    verdicts: list[PlaneOverview]
    curves: list[Curve]
    units: dict[str, str]
    schema: Literal[2] = SCHEMA
