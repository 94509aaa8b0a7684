"""What planes would cost at a size: the table of `bench predict`, its answer, and how far off the models were."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from bench.analysis import predict
from bench.analysis.predict import CONNECTION, START, Missed
from bench.documents import Result
from bench.documents.comparison import several
from bench.documents.prediction import Cost, PlaneCosts, Prediction
from dataplanes.selection import DIRECT, SHORT

_OUTSIDE = "*"
_HEADINGS = {
    CONNECTION: "instr. per connection",
    "add_service_ms": "1 service more, ms on a node",
    "add_backend_ms": "1 backend more, ms on a node",
    START: "a node's start, s",
    "kernel_bytes": "kernel memory of a node, MB",
}
_SHOWN: dict[str, Callable[[float], str]] = {
    CONNECTION: lambda value: f"{value:,.0f}",
    "add_service_ms": lambda value: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}",
    "add_backend_ms": lambda value: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}",
    START: lambda value: f"{value / 1e3:,.3g}" if value < 1e6 else f"{value / 1e3:,.0f}",
    "kernel_bytes": lambda value: f"{value / 1e6:,.3g}" if value < 1e9 else f"{value / 1e6:,.0f}",
}
_ANSWERED = {
    CONNECTION: ("a connection costs", "{} instructions"),
    "add_service_ms": ("one service more costs", "{} ms on a node"),
    START: ("a node's start takes", "{} s"),
    "kernel_bytes": ("kernel memory is", "{} MB on a node"),
}
_WHAT = {
    CONNECTION: "instructions per connection",
    "add_service_ms": "time of one service more",
    "add_backend_ms": "time of one backend more",
    START: "time of a node's start",
    "kernel_bytes": "kernel memory",
}


def table(found: Prediction) -> Table:
    """Return a row per plane: each cost with the model's largest error at a size that it had not seen."""
    asked = found.question
    parts = several(asked.services, "service"), several(asked.nodes, "node"), several(asked.containers, "container")
    title = f"{', '.join(parts)} on each: {found.kernel}"
    made = Table(title=title, title_justify="left")
    made.add_column("data plane", no_wrap=True)
    made.add_column("ratio", justify="right")
    for heading in _HEADINGS.values():
        made.add_column(heading, justify="right")
    reference = next((each.costs.get(CONNECTION) for each in found.planes if each.dataplane == DIRECT), None)
    for plane in sorted((each for each in found.planes if each.costs), key=_dearness):
        cost = plane.costs.get(CONNECTION)
        ratio = f"{cost.value / reference.value:.2f}" if cost and reference else "-"
        made.add_row(plane.dataplane, ratio, *(_cell(metric, plane.costs.get(metric)) for metric in _HEADINGS))
    return made


def _dearness(plane: PlaneCosts) -> float:
    cost = plane.costs.get(CONNECTION)
    return cost.value if cost else float("inf")


def _cell(metric: str, cost: Cost | None) -> str:
    if cost is None:
        return "-"
    return f"{_SHOWN[metric](cost.value)} ±{cost.error:.0%}{_OUTSIDE if cost.outside else ''}"


def notes(found: Prediction) -> list[str]:
    """Return what a reader must know of the table, and the answer, which is the last line."""
    costs = [(metric, cost) for plane in found.planes for metric, cost in plane.costs.items()]
    told = [
        "ratio: instructions per connection to those of `direct`. Instruction clock: a ms is 1,000,000 instructions.",
        "±: as far off as the model was, at most, at a size that it had not seen. -: cannot be told; --json says why.",
    ]
    if silent := [each.dataplane for each in found.planes if not each.costs]:
        told.append(f"Nothing can be told of {', '.join(silent)}: they were measured at too few sizes.")
    for axis, what in (("services", "services"), ("containers", "containers on a node")):
        outside = [cost for _, cost in costs if axis in cost.outside]
        if outside:
            spans = sorted({(getattr(cost, axis).least, getattr(cost, axis).most) for cost in outside})
            ends = (" to ".join(dict.fromkeys(f"{end:,.0f}" for end in span)) for span in spans)
            by_figure = ", by figure" if len(spans) > 1 else ""
            told.append(f"{_OUTSIDE} outside of what was measured: {' or '.join(ends)} {what}{by_figure}.")
    nodes = several(found.question.nodes, "node")
    told.append(f"Each node programs itself, so a change in the cluster takes the work of {nodes}.")
    return [*told, *answer(found)]


def answer(found: Prediction) -> list[str]:
    """Return which plane costs least and which most. The reference and the limit balance nothing, and are left out."""
    asked = found.question
    services, nodes = several(asked.services, "service"), several(asked.nodes, "node")
    size = f"{services} on {nodes} with {several(asked.containers, 'container')} each"
    told = []
    for metric, (what, unit) in _ANSWERED.items():
        planes = [each for each in found.planes if metric in each.costs and each.dataplane not in (DIRECT, SHORT)]
        if planes:
            ordered = sorted(planes, key=lambda each: each.costs[metric].value)
            least, most = (
                f"{each.dataplane}: {unit.format(_SHOWN[metric](each.costs[metric].value))}"
                f"{_OUTSIDE if each.costs[metric].outside else ''}"
                for each in (ordered[0], ordered[-1])
            )
            told.append(f"  {what} least on {least}" + (f", and most on {most}" if len(planes) > 1 else ""))
    return [f"{size}:", *told] if told else [f"{size}: these results tell nothing"]


def validation(results: Sequence[Result]) -> list[str]:
    """Return a table in Markdown: how far off the models were at the largest sizes, to which they were not fitted."""
    lines = ["| kernel | cost | left out | models | median error | largest error |", "|---|---|---|---:|---:|---|"]
    for kernel in predict.kernels(results):
        missed = predict.validated(predict.points(results, kernel))
        for metric, what in _WHAT.items():
            for axis in ("services", "containers"):
                if found := [each for each in missed if (each.metric, each.axis) == (metric, axis)]:
                    lines.append(f"| {kernel} | {what} | {_row(found, axis)} |")
    return lines


def _row(found: Iterable[Missed], axis: str) -> str:
    ordered = sorted(found, key=lambda each: abs(each.error))
    sizes = [each.at for each in ordered]
    span = f"{min(sizes):,.0f}" if min(sizes) == max(sizes) else f"{min(sizes):,.0f} to {max(sizes):,.0f}"
    left = f"{span} {axis if axis == 'services' else 'containers on a node'}"
    middle, worst = statistics.median(abs(each.error) for each in ordered), ordered[-1]
    return f"{left} | {len(ordered)} | {middle:.1%} | {worst.error:+.1%}, {worst.dataplane}"
