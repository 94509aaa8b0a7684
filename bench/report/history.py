"""A history as a page, and as Markdown for a terminal: a chart per figure, with a mark where its level changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from msgspec import Struct

from bench.documents.history import History, LevelChange, Trend, TrendPoint
from bench.documents.metrics import METRICS
from bench.report import looks, svg
from bench.report.columns import table
from bench.report.digits import number
from bench.report.scales import Scale, around, written
from dataplanes.texts import clean
from dataplanes.texts import markdown as told

_HERE = Path(__file__).parent
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520.0, 150.0, 76.0, 12.0, 22.0, 20.0
"""The size of a chart in pixels, and what is left at its sides for the labels."""


def markdown(history: History) -> str:
    """Return what changed, and then the figures and the semantics as tables."""
    parts = ["# History", "", told(history.verdict), ""]
    for document, change in changes(history).items():
        parts += [f"## From {told(document)} on", "", *(f"{told(each)}." for each in change.differs)]
        parts += [*([""] if change.differs else []), *(f"- {told(each)}" for each in change.lines), ""]
    for group, trends in groups(history).items():
        body = [
            [trend.dataplane, what(trend), *(number(trend.points[n].value.value) for n in (0, -1)), sure(trend)]
            for trend in trends
        ]
        headings = ["data plane", "figure", "first", "last", "changes"]
        parts += [f"## {told(group)}", "", *table(headings, body), ""]
    if history.semantics:
        names = [each.name for each in history.documents if each.kind == "matrix"]
        headings = ["kernel", "data plane", *names]
        parts += ["## Semantics that hold, of those observed", "", *table(headings, held(history)), ""]
    return "\n".join(parts)


def groups(history: History) -> dict[str, list[Trend]]:
    """Return the trends by kernel, clock and scenario."""
    found: dict[str, list[Trend]] = {}
    for trend in history.trends:
        found.setdefault(trend.group(), []).append(trend)
    return found


def what(trend: Trend) -> str:
    """Return the figure with its unit, and its workload at its point."""
    where = ", ".join(filter(None, (trend.workload, trend.axes.label())))
    return f"{where}: {METRICS[trend.metric].column()}"


def sure(trend: Trend) -> str:
    """Return the changes of a figure in short, or "none"."""
    return ", ".join(f"{_change(step)} at {step.document}" for step in trend.steps) or "none"


class DocumentChange(Struct):
    """What is another from one document on, a line each, and what else differs there."""

    differs: list[str] = []
    lines: list[str] = []


def changes(history: History) -> dict[str, DocumentChange]:
    """Return the changes by document, the newest first."""
    found: dict[str, DocumentChange] = {each.name: DocumentChange() for each in reversed(history.documents)}
    for trend in history.trends:
        for step in trend.steps:
            levels = f"{number(step.before)} -> {number(step.after)}"
            found[step.document].lines.append(
                f"{trend.name()} is {step.verdict}: {_change(step)} ({levels}, p = {step.p:.3f})"
            )
            found[step.document].differs = step.differs
    for each in history.cells:
        found[each.document].lines += [f"{cell.name()} is {cell.what}: {cell.change()}" for cell in each.changes]
    return {name: change for name, change in found.items() if change.lines}


def held(history: History) -> list[list[str]]:
    """Return a row per kernel and plane, with a cell per matrix."""
    names = [each.name for each in history.documents if each.kind == "matrix"]
    return [
        [each.kernel, each.dataplane, *(" of ".join(map(str, each.points.get(name, ()))) for name in names)]
        for each in history.semantics
    ]


def _change(step: LevelChange) -> str:
    return "from zero" if step.ratio is None else f"{step.ratio - 1:+.1%}"


# -- the page ----------------------------------------------------------------------------------------------------------


def page(history: History) -> str:
    """Return the page. It needs no other file and no script."""
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, finalize=_finalize)
    charts = {
        group: [(trend.dataplane, what(trend), sure(trend), chart(trend)) for trend in _odd_first(trends)]
        for group, trends in groups(history).items()
    }
    return environment.get_template("history.html.j2").render(
        css=Markup(looks.style() + (_HERE / "report.css").read_text("utf-8")),
        verdict=history.verdict,
        changes=changes(history),
        charts=charts,
        headings=["kernel", "data plane", *(each.name for each in history.documents if each.kind == "matrix")],
        held=held(history),
        documents=history.documents,
    )


def _finalize(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _odd_first(trends: list[Trend]) -> list[Trend]:
    """Return the trends that changed before those that did not."""
    return sorted(trends, key=lambda trend: not trend.steps)


def chart(trend: Trend) -> Markup:
    """Return the figure by document as SVG: medians with their intervals, and a dashed line where the level changed.

    A change of a tenth of a percent is drawn as one: the chart is 2 % high at least.
    """
    values = [point.value for point in trend.points]
    ends = [end for each in values for end in (each.value, each.low, each.high) if end is not None]
    middle = (max(ends) + min(ends)) / 2
    ys = around([*ends, 0.99 * middle, 1.01 * middle], _HEIGHT - _BOTTOM, _TOP)
    xs = Scale(0, max(len(values) - 1, 1), _LEFT, _WIDTH - _RIGHT)
    places = {point.document: xs.at(number) for number, point in enumerate(trend.points)}
    parts = [*_axes(list(places), xs, ys)]
    parts.append(svg.polyline(((places[each.document], ys.at(each.value.value)) for each in trend.points), "line"))
    for step in trend.steps:
        parts += _step(step, places[step.document] - (xs.at(1) - xs.at(0)) / 2)
    parts += [_point(each, places[each.document], ys, METRICS[trend.metric].unit) for each in trend.points]
    title = clean(f"{trend.name()}: {sure(trend)}")
    return Markup(svg.chart(title, (_WIDTH, _HEIGHT), parts, more="at-other"))


def _axes(names: list[str], xs: Scale, ys: Scale) -> Iterator[str]:
    """Yield labelled lines, and the names of the first, the middle and the last document."""
    for value in ys.ticks():
        yield svg.rule(xs.start, ys.at(value), xs.end - xs.start, 0, "grid")
        yield svg.text(xs.start - 6, ys.at(value) + 4, written(value), anchor="end")
    for place in sorted({0, (len(names) - 1) // 2, len(names) - 1}):
        anchor = "" if place == 0 else "end" if place == len(names) - 1 else "middle"
        yield svg.text(xs.at(place), _HEIGHT - 5, _short(names[place]), anchor=anchor)


def _step(step: LevelChange, x: float) -> Iterator[str]:
    """Yield the line of a change, between two documents, with its ratio."""
    yield svg.rule(x, _TOP, 0, _HEIGHT - _BOTTOM - _TOP, "limit")
    yield svg.text(x, _TOP - 8, _change(step), anchor="middle", kind=step.verdict)


def _point(point: TrendPoint, x: float, ys: Scale, unit: str) -> str:
    """Return the median of a document with its interval. The exact figure is a tooltip."""
    found = point.value
    low, high = (ys.at(found.value if end is None else end) for end in (found.low, found.high))
    parts = [svg.rule(x, low, 0, high - low, "line"), svg.mark("circle", x, ys.at(found.value), radius=3)]
    return svg.group(parts, title=clean(f"{point.document}: {found.value:,.6g} {unit} (n = {point.n})"))


def _short(document: str) -> str:
    """Return a name as it fits below a chart."""
    name = clean(document).removesuffix(".json")
    return name if len(name) <= 18 else f"…{name[-17:]}"
