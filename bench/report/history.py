"""A history as a page, and as Markdown for a terminal: a chart per figure, with a mark where its level changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from msgspec import Struct

from bench.documents.history import History, LevelChange, Trend, TrendPoint
from bench.documents.metrics import METRICS
from bench.report.columns import table
from bench.report.digits import number
from dataplanes.texts import clean
from dataplanes.texts import markdown as told

_HERE = Path(__file__).parent
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 150, 76, 12, 22, 20
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
        css=Markup((_HERE / "report.css").read_text("utf-8")),
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


class _Plot:
    """The places of a trend's points in a chart of fixed size."""

    def __init__(self, trend: Trend) -> None:
        values = [each.value for each in trend.points]
        ends = [end for each in values for end in (each.value, each.low, each.high) if end is not None]
        self.middle = (max(ends) + min(ends)) / 2
        # A change of a tenth of a percent is drawn as one: the chart is 2 % high at least.
        reach = max((max(ends) - min(ends)) * 0.6, abs(self.middle) * 0.01, 1e-9)
        self.low, self.high = self.middle - reach, self.middle + reach
        self.across = (_WIDTH - _LEFT - _RIGHT) / max(len(values) - 1, 1)
        self.xs = {each.document: _LEFT + n * self.across for n, each in enumerate(trend.points)}

    def y(self, value: float) -> float:
        """Return the height of a value."""
        return _TOP + (self.high - value) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> Iterator[str]:
        """Yield three labelled lines, and the names of the first, the middle and the last document."""
        width = self.high - self.low
        for value in (self.low + 0.1 * width, self.middle, self.high - 0.1 * width):
            y = self.y(value)
            yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value, width)}</text>'
        names = [*self.xs]
        for place in sorted({0, (len(names) - 1) // 2, len(names) - 1}):
            anchor = "start" if place == 0 else "end" if place == len(names) - 1 else "middle"
            told_name = escape(_short(names[place]))
            yield f'<text x="{self.xs[names[place]]:.1f}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{told_name}</text>'

    def step(self, step: LevelChange) -> Iterator[str]:
        """Yield the line of a change, between two documents, with its ratio."""
        x = self.xs[step.document] - self.across / 2
        yield f'<line class="step" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        yield f'<text class="{step.verdict}" x="{x:.1f}" y="{_TOP - 8}" text-anchor="middle">{_change(step)}</text>'

    def point(self, point: TrendPoint, unit: str) -> Iterator[str]:
        """Yield the median of a document with its interval. The exact figure is a tooltip."""
        x, found = self.xs[point.document], point.value
        if found.low is not None and found.high is not None:
            low, high = self.y(found.low), self.y(found.high)
            yield f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        title = escape(clean(f"{point.document}: {found.value:,.6g} {unit} (n = {point.n})"))
        yield f'<circle cx="{x:.1f}" cy="{self.y(found.value):.1f}" r="3"><title>{title}</title></circle>'


def chart(trend: Trend) -> Markup:
    """Return the figure by document as SVG: medians with their intervals, and a dashed line where the level changed."""
    plot = _Plot(trend)
    line = " ".join(f"{plot.xs[each.document]:.1f},{plot.y(each.value.value):.1f}" for each in trend.points)
    parts = [*plot.axes(), f'<polyline points="{line}"/>']
    parts += [part for step in trend.steps for part in plot.step(step)]
    parts += [part for point in trend.points for part in plot.point(point, METRICS[trend.metric].unit)]
    label = escape(clean(f"{trend.name()}: {sure(trend)}"))
    shape = f'class="trend" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return Markup(f"<svg {shape}>{''.join(parts)}</svg>")


def _tick(value: float, width: float) -> str:
    """Write a tick with as many digits as tell it from the next."""
    digits = next((digits for digits in range(7) if width / 4 >= 10**-digits), 7)
    return f"{value:,.{digits}f}"


def _short(document: str) -> str:
    """Return a name as it fits below a chart."""
    name = clean(document).removesuffix(".json")
    return name if len(name) <= 18 else f"…{name[-17:]}"
