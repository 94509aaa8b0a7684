"""The report as one HTML file. It fetches nothing, it can be printed, and it can be read without seeing it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from msgspec import Struct

from bench.documents import Interval, Matrix, Result
from bench.documents.metrics import METRICS
from bench.documents.overview import Curve
from bench.documents.workloads import WORKLOADS
from bench.report import charts, clocks, heat, looks, picture
from bench.report.digits import figure, number, ratio
from bench.report.downloads import downloads
from bench.report.model import PLACES, Report
from bench.report.places import families, needs, standing
from bench.report.questions import QUESTIONS, REFERENCE
from bench.report.sections import compared, counts, larger
from bench.report.short import short
from bench.report.words import ENGLISH
from dataplanes.selection import DIRECT, SHORT
from dataplanes.texts import clean
from scenarios.axes import Axes
from scenarios.clauses import LEVELS

_HERE = Path(__file__).parent
_TOLD = (
    "kernel",
    "kernel_name",
    "kernel_reason",
    "emulator",
    "clock",
    "cpu",
    "cpus",
    "memory_kb",
    "cmdline",
    "generator_ceiling",
)
_MOST = 1_495_000
"""Bytes of the page, documents included. A reader waits for a larger one on a slow line."""
_DOWNLOADS = "<!-- documents -->"
_OPTIONAL = re.compile(r"</(?:td|th|tr|li)>\n?")
"""End tags that HTML does without (HTML, 13.1.2.4). They are a fifteenth of the page."""
_QUOTED = re.compile(r'(<t[dh] (?:class|scope)=)"([\w-]+)"')
"""Attributes of cells that HTML takes without quotes, because they are one word (HTML, 13.1.2.3). They are many."""
_CLOCKS = {
    "instructions": "by the instruction clock (1 ns is one instruction)",
    "wall": "by the wall clock",
}


class Lost(Struct, frozen=True):
    """What a plane lost: how its effect is marked, the numbers by level, and the checks."""

    mark: str = ""
    counts: str = ""
    checks: list[str] = []

    @property
    def number(self) -> int | str:
        """How many semantics are lost, by which a table is sorted."""
        return len(self.checks) if self.counts else ""


def page(report: Report) -> str:
    """Return the whole file."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters |= {"figure": figure, "number": number, "ratio": ratio, "emphasis": _emphasis}
    planes = report.planes()
    groups = [_group(report, workload, at) for workload, at in report.workloads()]
    clock = groups[0]["clock"] if groups else ""
    made = environment.get_template("report.html.j2").render(
        css=Markup(looks.style() + (_HERE / "report.css").read_text("utf-8")),
        js=Markup((_HERE / "report.js").read_text("utf-8")),
        short=short(report),
        origin=origin(report),
        picture=_picture(report),
        families=[
            (", ".join(filter(None, (each.mechanism, at.label()))), *compared(report, each, ENGLISH))
            for at in (Axes(), *larger(report))
            for each in families(report, at)
        ],
        verdicts=report.verdicts(),
        colours={name: looks.colour(report, name) for name in planes},
        lost={name: _lost(report, name) for name in planes},
        clocks=_clocks(report),
        needs=needs(report),
        limits={name: report.rate(name, base=SHORT) for name in planes},
        of_limit=SHORT in planes,
        reference=REFERENCE,
        questions=QUESTIONS,
        warnings=report.warnings(),
        cost_heading="instructions per connection" if clock == "instructions" else "CPU µs per connection",
        clock=clock,
        groups=[group for group in groups if group["at"] == Axes() or not _on_a_curve(report, group["at"])],
        growth=_growth(report),
        parts=_parts(report, clock),
        places=PLACES,
        states=report.states(),
        checks=report.checks(),
        columns=heat.columns(report),
        themes=heat.themes(report),
        levels=LEVELS,
        documents=[
            {"name": name, "command": each.plan.get("command", ""), "environment": [*_facts(each)]}
            for name, each in _all(report)
        ],
        downloads=Markup(_DOWNLOADS),
    )
    short_of_it = _QUOTED.sub(r"\1\2", _OPTIONAL.sub("", made.lstrip()))
    return short_of_it.replace(_DOWNLOADS, downloads(_all(report), _MOST - len(short_of_it.encode())), 1)


def origin(report: Report) -> str:
    """Return where the figures come from, in a line: the kernels by their clocks, the dates and the revisions."""
    documents = [document for _, document in _all(report)]
    kernels: dict[str, dict[str, None]] = {}
    for document in documents:
        for facts in [document.environment] if isinstance(document, Result) else document.environment.values():
            kernels.setdefault(str(facts["clock"]), {})[str(facts["kernel"])] = None
    told = [
        f"{_CLOCKS.get(clock, clock)} on kernel{'s' if len(names) > 1 else ''} {' and '.join(names)}"
        for clock, names in kernels.items()
    ]
    dates = sorted({str(each.tool["date"]) for each in documents if each.tool.get("date")})
    revisions = list(dict.fromkeys(str(each.tool["revision"]) for each in documents if each.tool.get("revision")))
    when = f", {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else ""
    more = f" and {len(revisions) - 1} more" if len(revisions) > 1 else ""
    return f"Measured {', '.join(told)}{when}" + (f", at revision {revisions[0]}{more}." if revisions else ".")


def _picture(report: Report) -> dict[str, str] | None:
    shown = picture.facts(report)
    if shown is None:
        return None
    wide, narrow = (picture.draw(report, shown, size) for size in (picture.WIDE, picture.NARROW))
    return {"wide": wide, "narrow": narrow, "title": picture.title()}


def _clocks(report: Report) -> list[tuple[str, list[str], list[list[str]], list[str]]]:
    """Return the tables on the two clocks: for each a sentence before it, headings, rows and sentences after it."""
    found = clocks.clocks(report)
    if found is None:
        return []
    before, *after = clocks.sentences(found, ENGLISH)
    tables = [(before, *clocks.compared(found, ENGLISH), after)]
    if found.parts:
        tables.append((clocks.parts_of(found, ENGLISH), *clocks.parts(found, ENGLISH), []))
    return tables


def _finalize(value: object) -> object:
    return clean(value) if type(value) is str else value  # markup is made only here, from cleaned texts


_MARK = {"the same effect": "yes", "nearly the same effect": "partly", "not the same effect": "no"}


def _lost(report: Report, plane: str) -> Lost:
    found = standing(report, plane)
    if found is None or plane == REFERENCE:
        return Lost()
    return Lost(_MARK[found.effect], counts(found.lost), [check for each in found.lost.values() for check in each])


def _emphasis(sentence: str) -> Markup:
    """Return a sentence with its emphasis of Markdown as that of HTML."""
    parts = clean(sentence).split("**")
    return Markup("").join(
        Markup("<strong>{}</strong>").format(each) if n % 2 else each for n, each in enumerate(parts)
    )


def _on_a_curve(report: Report, at: Axes) -> bool:
    return any(getattr(at, curve.axis) in _xs(curve) for curve in report.curves())


def _xs(curve: Curve) -> list[int]:
    return sorted({x for points in curve.planes.values() for x, _ in points})


def _key(*words: str) -> str:
    """Return words as the end of a link to a chart."""
    return "-".join(filter(None, re.split(r"[^A-Za-z0-9.]+", " ".join(words))))


def _group(report: Report, workload: str, at: Axes) -> dict[str, Any]:
    """Return a workload at a point: a chart of the ratios, and a table of the other figures."""
    rows = report.rows(workload, at)
    clock = next((clock for _, clock in rows.values()), "")
    known = WORKLOADS[workload]
    columns = [m for m in known.shown if any(m in row.figures for row, _ in rows.values())]
    ratios = {name: row.ratio_to_direct for name, (row, _) in rows.items() if row.ratio_to_direct}
    title = ", ".join(filter(None, (known.title, at.label())))
    return {
        "key": _key("cost", workload, at.label()),
        "title": title[0].upper() + title[1:],
        "at": at,
        "clock": clock,
        "figure": _ratios(report, title, METRICS[known.primary].title, ratios) if len(ratios) > 1 else "",
        "headings": [METRICS[name].column() for name in columns],
        "rows": [(name, [row.figures.get(m) for m in columns], row.n) for name, (row, _) in rows.items()],
    }


def _ratios(report: Report, title: str, metric: str, ratios: dict[str, Interval]) -> str:
    limit = {"limit": ratios[SHORT].value} if SHORT in ratios else {}
    return charts.dots(report, title, f"{metric}, ratio to direct", ratios, {"ref": 1.0} | limit)


def _growth(report: Report) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the curves by workload and axis, each with its chart and its figures."""

    def heading(curve: Curve) -> str:
        return f"{WORKLOADS[curve.workload].title}, against {charts.axis(curve)}"

    return [(title, [_curve(report, each) for each in curves]) for title, curves in groupby(report.curves(), heading)]


def _curve(report: Report, curve: Curve) -> dict[str, Any]:
    xs = _xs(curve)
    return {
        "key": _key("growth", curve.workload, curve.metric, curve.axis, curve.clock),
        "title": charts.title(curve),
        "metric": METRICS[curve.metric].column(),
        "clock": curve.clock,
        "svg": charts.lines(report, curve),
        "xs": xs,
        "rows": [(name, [dict(points).get(x) for x in xs]) for name, points in curve.planes.items()],
    }


def _parts(report: Report, clock: str) -> dict[str, Any] | None:
    """Return the parts of a connection's cost: a chart of the differences to direct, and a table of all."""
    found = report.parts()
    if not found:
        return None
    unit = "instructions" if clock == "instructions" else "CPU µs"
    drawn = charts.differences(found, DIRECT) if DIRECT in found else {}
    title, axis = "Where a connection's time goes", f"{unit} per connection, more or less than direct"
    return {"figure": charts.parted(report, title, drawn, axis) if drawn else "", "unit": unit, "planes": found}


def _all(report: Report) -> list[tuple[str, Result | Matrix]]:
    return [*report.results, *report.matrices]


def _facts(document: Result | Matrix) -> Iterator[tuple[str, str]]:
    """Yield the program and the environment: a result has one environment, and a matrix one per kernel."""
    yield (
        "made by",
        " ".join(str(document.tool[key]) for key in ("name", "version", "revision") if key in document.tool),
    )
    several = {"": document.environment} if isinstance(document, Result) else document.environment
    for kernel, facts in several.items():
        for key in _TOLD:
            if facts.get(key):
                yield f"{kernel}: {key}".removeprefix(": "), str(facts[key])
