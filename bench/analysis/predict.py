"""What each plane costs at a size that nobody measured: models of published results, and how far off they are.

A figure of the whole lab, which is the time of a change and the kernel's memory, is divided by the nodes that have
containers: each programs its own share. A node's containers are those of an average node; for a connection and for a
node that starts, they are those on the client's node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from msgspec import Struct

from bench.analysis import scaling
from bench.analysis.scaling import Forms, GrowthModel, Point
from bench.documents import Result, Summary
from bench.documents.metrics import units
from bench.documents.prediction import AskedSize, Cost, PlaneCosts, Prediction, Span
from dataplanes.errors import Usage
from scenarios import topology
from scenarios.axes import Axes

CONNECTION = "instructions_per_connection"
PER_NODE = ("add_service_ms", "add_backend_ms", "kernel_bytes")
START = "cold_start_ms"
METRICS: dict[str, str] = {CONNECTION: "crr", **dict.fromkeys((*PER_NODE, START), "program")}
"""The metrics that are predicted, each with the workload that measures it."""
CLOCK = "instructions"
_REACH = 50
"""The largest size is told by a model of smaller ones only if the next one is within such a factor of it."""
_NOISE, _NOISE_ONCE = 0.01, 0.05
"""The fractions by which a cost may differ from one run to the next: of many connections, and of what is done once."""
_WRONG = 0.5
"""A model that was more than so far off at a size that it had not seen says nothing."""


class Growth(Struct, frozen=True):
    """What was measured of a plane's metric, and the forms in which it may grow."""

    points: list[Point]
    forms: Forms
    noise: float  # the fraction by which it may differ from one run to the next

    def model(self, points: Sequence[Point] | None = None) -> GrowthModel | None:
        """Return the model of all points, or of some."""
        return scaling.fitted(self.points if points is None else points, self.forms, self.noise)


Points = dict[tuple[str, str], Growth]
"""Plane and metric -> what was measured."""


class LabSize(Struct, frozen=True):
    """The size of a lab: services, nodes with containers, containers on them, and those on the client's node."""

    services: int
    nodes: int
    containers: int
    beside_client: int


@cache
def world(scenario: str, at: Axes) -> LabSize | None:
    """Return the size of a scenario that comes with the program, or None for any other."""
    if not re.fullmatch(r"[a-z0-9-]+", scenario):
        return None
    try:
        made = topology.load(scenario, at)
    except Usage:
        return None
    tasks = [*made.tasks(), *made.idlers]
    client = next(task.node for task in tasks if task.name == made.traffic.client)
    services = len(made.services) + (made.filler.count if made.filler else 0)
    nodes = len({task.node for task in tasks})
    return LabSize(services, nodes, len(tasks), sum(task.node == client for task in tasks))


def kernels(results: Iterable[Result]) -> list[str]:
    """Return the kernels by whose instruction clock the results were measured, the one with the most figures first."""
    counts: dict[str, int] = {}
    for each in results:
        if each.environment.get("clock") == CLOCK:
            name = each.kernel()
            counts[name] = counts.get(name, 0) + len(each.summary)
    return sorted(counts, key=lambda name: -counts[name])


def points(results: Iterable[Result], kernel: str) -> Points:
    """Return what was measured on a kernel, at sizes that differ in services and containers only."""
    found: dict[tuple[str, str], dict[tuple[float, float], float]] = {}
    placements: dict[str, str] = {}
    for result in results:
        if result.environment.get("clock") != CLOCK or result.kernel() != kernel:
            continue
        for each in result.plan.get("dataplanes", []):
            placements[each["name"]] = each.get("placement", "")
        for row in result.summary:
            if row.axes != Axes(services=row.axes.services, containers=row.axes.containers) or row.note:
                continue
            if size := world(row.scenario, row.axes):
                for metric, (at, cost) in _costs(row, size).items():
                    found.setdefault((row.dataplane, metric), {})[at] = cost
    return {
        (name, metric): Growth(
            [Point(services, containers, cost) for (services, containers), cost in sorted(each.items())],
            scaling.OF_CONTAINERS if metric != CONNECTION and placements.get(name) == "container" else scaling.OF_NODE,
            _NOISE if metric == CONNECTION else _NOISE_ONCE,
        )
        for (name, metric), each in found.items()
    }


def _costs(row: Summary, size: LabSize) -> Mapping[str, tuple[tuple[float, float], float]]:
    """Return the costs of a row by metric, each with the services and the containers on a node."""
    made = {}
    for metric, workload in METRICS.items():
        if row.workload == workload and metric in row.figures:
            value = row.figures[metric].value
            if metric in PER_NODE:
                made[metric] = (float(size.services), round(size.containers / size.nodes, 1)), value / size.nodes
            else:
                made[metric] = (float(size.services), float(size.beside_client)), value
    return made


def predict(
    results: Sequence[Result], question: AskedSize, kernel: str | None, planes: Sequence[str], tool: dict[str, Any]
) -> Prediction:
    """Return what planes cost at a size; all that were measured if none is named.

    Raises Usage if nothing was measured on the kernel, or a plane was not.
    """
    known = kernels(results)
    chosen = kernel or next(iter(known), "")
    if not known:
        raise Usage("nothing was measured by the instruction clock", fix="name results of `bench run` in a guest")
    if chosen not in known:
        raise Usage(f"nothing was measured on the kernel {chosen!r:.60}", fix=f"one of {', '.join(known)}")
    measured = points(results, chosen)
    names = list(dict.fromkeys(name for name, _ in measured))
    wanted = [_named(plane, names) for plane in planes]
    for plane, found in zip(planes, wanted, strict=True):
        if not found:
            raise Usage(f"{plane!r:.60} was not measured on {chosen}", fix=f"one of {', '.join(names)}")
    ordered = dict.fromkeys(name for found in wanted for name in found) if planes else names
    made = [_plane(name, measured, question) for name in ordered]
    return Prediction(tool, chosen, CLOCK, question, made, units(METRICS))


def _named(plane: str, names: Sequence[str]) -> list[str]:
    """Return the measured planes that a name means: one, or all variants of one."""
    return [name for name in names if name == plane or name.partition("@")[0] == plane]


def _plane(name: str, measured: Points, question: AskedSize) -> PlaneCosts:
    costs, unknown = {}, {}
    for metric in METRICS:
        there = measured.get((name, metric), Growth([], (), 0))
        model = there.model()
        if model is None:
            unknown[metric] = f"measured at {len(there.points)} sizes, and a model needs more"
        elif model.error > _WRONG:
            unknown[metric] = (
                f"the best model of {len(there.points)} sizes was {model.error:.0%} off at one it had not seen"
            )
        elif why := _only_at(model, there.forms, question):
            unknown[metric] = why
        else:
            costs[metric] = _cost(model, question)
    return PlaneCosts(name, costs, unknown)


def _only_at(model: GrowthModel, forms: Forms, question: AskedSize) -> str:
    """Return that one size was measured of an axis on which the cost may depend, and another is asked for; or ""."""
    axes = [("services", model.services, question.services)]
    if forms is scaling.OF_CONTAINERS:
        axes.append(("containers on a node", model.containers, question.containers))
    for axis, (least, most), asked in axes:
        if least == most != asked:
            return f"measured with {most:,.0f} {axis} only"
    return ""


def _cost(model: GrowthModel, question: AskedSize) -> Cost:
    value = model.cost(question.services, question.containers)
    asked = {"services": question.services, "containers": question.containers}
    spans = {"services": model.services, "containers": model.containers}
    outside = [name for name, (least, most) in spans.items() if not least <= asked[name] <= most]
    return Cost(
        value,
        value * (1 - model.error),
        value * (1 + model.error),
        model.error,
        list(model.form),
        model.points,
        Span(*model.services),
        Span(*model.containers),
        outside,  # type: ignore[arg-type]
    )


class Missed(Struct, frozen=True):
    """How far off a model was at the largest size, to which it was not fitted."""

    dataplane: str
    metric: str
    axis: str
    at: float
    measured: float
    told: float

    @property
    def error(self) -> float:
        """The error as a fraction of what was measured. It is negative if less was told."""
        return self.told / self.measured - 1


def validated(measured: Points) -> list[Missed]:
    """Fit every model without the largest number of services, and then of containers, and return what it tells of them.

    Left out are those that cannot be fitted without them or know only much smaller sizes, and costs of nothing.
    """
    found = []
    for (name, metric), there in measured.items():
        for axis in ("services", "containers"):
            most = max(getattr(each, axis) for each in there.points)
            seen = [each for each in there.points if getattr(each, axis) < most]
            sizes = {getattr(each, axis) for each in seen}
            reaching = len(sizes) > 1 and max(sizes) * _REACH >= most
            model = there.model(seen) if reaching else None
            if model is None or model.error > _WRONG:
                continue
            for each in there.points:
                if getattr(each, axis) == most and each.cost:
                    told = model.cost(each.services, each.containers)
                    found.append(Missed(name, metric, axis, most, each.cost, told))
    return found
