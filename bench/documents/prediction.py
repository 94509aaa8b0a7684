"""The document of `bench predict --json`: what each plane costs at a size, by a model of what was measured."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from bench.documents import SCHEMA, Count, Figure, Fraction


class AskedSize(Struct, frozen=True):
    """The size that was asked for. Containers are those on each node."""

    services: Count
    nodes: Count
    containers: Count


class Span(Struct, frozen=True):
    """The least and the most that was measured."""

    least: Figure
    most: Figure


class Cost(Struct, frozen=True):
    """A cost by a model, of one node or of one connection."""

    value: Figure
    low: Figure  # as far below and above as the model was wrong, at most, at a size that it had not seen
    high: Figure
    error: Fraction  # that error, as a fraction of the cost
    form: list[str]  # the terms in which the cost grows
    points: Count  # sizes that were measured
    services: Span
    containers: Span
    outside: list[Literal["services", "containers"]]  # what was asked for and lies outside of what was measured


class PlaneCosts(Struct, frozen=True):
    """The costs of a plane by metric. A metric whose cost cannot be told has a reason in `unknown`."""

    dataplane: str
    costs: dict[str, Cost]
    unknown: dict[str, str] = {}


class Prediction(Struct, tag_field="kind", tag="prediction"):
    """What each plane costs at a size."""

    tool: dict[str, Any]
    kernel: str
    clock: str
    question: AskedSize
    planes: list[PlaneCosts]
    units: dict[str, str] = field(default_factory=dict)
    schema: Literal[2] = SCHEMA
