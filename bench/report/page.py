"""The report as one HTML file. It fetches nothing, it can be printed, and it can be read without seeing it."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from bench.documents import Matrix, MatrixCell, Result
from bench.documents.metrics import METRICS
from bench.documents.overview import Curve
from bench.documents.workloads import WORKLOADS
from bench.report import clocks, figures
from bench.report.digits import figure, number, ratio
from bench.report.matrix_table import MARKS, differences
from bench.report.model import PLACES, Report
from bench.report.places import families, needs, standing
from bench.report.questions import QUESTIONS, REFERENCE
from bench.report.sections import compared, counts, larger
from bench.report.short import short
from bench.report.words import ENGLISH
from dataplanes.selection import SHORT
from dataplanes.texts import clean
from scenarios.axes import Axes

_HERE = Path(__file__).parent
_LARGE = 0.03  # the share of a connection's cost below which parts are drawn with the rest
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


def page(report: Report) -> str:
    """Return the whole file."""
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, finalize=_finalize)
    environment.filters |= {"figure": figure, "number": number, "ratio": ratio, "emphasis": _emphasis}
    planes = report.planes()
    groups = [_group(report, workload, at, planes) for workload, at in report.workloads()]
    observed = list(dict.fromkeys(cell.dataplane for cell in report.cells()))
    clock = groups[0]["clock"] if groups else ""
    return environment.get_template("report.html.j2").render(
        css=Markup((_HERE / "report.css").read_text("utf-8")),
        js=Markup((_HERE / "report.js").read_text("utf-8")),
        short=short(report),
        families=[
            (", ".join(filter(None, (each.mechanism, at.label()))), *compared(report, each, ENGLISH))
            for at in (Axes(), *larger(report))
            for each in families(report, at)
        ],
        verdicts=report.verdicts(),
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
        curves=[_curve(curve, planes) for curve in report.curves()],
        parts=_parts(report, clock),
        places=PLACES,
        states=report.states(),
        checks=report.checks(),
        themes=list(dict.fromkeys(check.partition(".")[0] for check in report.checks())),
        matrix_planes=[name for name in planes if name in observed],
        matrix_rows=_rows(report, [name for name in planes if name in observed]),
        differences=[line.replace("**", "") for line in differences(report.cells())],
        documents=_documents(report),
    )


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


def _lost(report: Report, plane: str) -> tuple[str, str, str]:
    """Return how a plane's effect is marked, how many semantics it lost by level, and which."""
    found = standing(report, plane)
    if found is None or plane == REFERENCE:
        return "", "", ""
    return _MARK[found.effect], counts(found.lost), ", ".join(check for each in found.lost.values() for check in each)


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


def _group(report: Report, workload: str, at: Axes, planes: list[str]) -> dict[str, Any]:
    """Return a workload at a point: a plot of the ratios, and a table of the other figures."""
    rows = report.rows(workload, at)
    clock = next((clock for _, clock in rows.values()), "")
    known = WORKLOADS[workload]
    columns = [m for m in known.shown if any(m in row.figures for row, _ in rows.values())]
    ratios = {name: row.ratio_to_direct for name, (row, _) in rows.items() if row.ratio_to_direct}
    title = ", ".join(filter(None, (known.title, at.label())))
    label = f"{METRICS[known.primary].title}, ratio to direct"
    return {
        "title": title[0].upper() + title[1:],
        "at": at,
        "clock": clock,
        "figure": figures.bars(title, label, ratios, planes, limit=ratios.get(SHORT)) if len(ratios) > 1 else "",
        "headings": [METRICS[name].column() for name in columns],
        "rows": [(name, [row.figures.get(m) for m in columns], row.n) for name, (row, _) in rows.items()],
    }


def _curve(curve: Curve, planes: list[str]) -> dict[str, Any]:
    xs = _xs(curve)
    return {
        "title": figures.title(curve),
        "clock": curve.clock,
        "svg": figures.curve(curve, planes),
        "xs": xs,
        "rows": [(name, [dict(points).get(x) for x in xs]) for name, points in curve.planes.items()],
    }


def _parts(report: Report, clock: str) -> dict[str, Any] | None:
    """Return the parts of a connection's cost: a plot of the larger ones, and a table of all."""
    found = report.parts()
    if not found:
        return None
    unit = "instructions" if clock == "instructions" else "CPU µs"
    whole = {plane: sum(costs.values()) for plane, costs in found.items()}
    large = [p for p in next(iter(found.values())) if any(c[p] >= _LARGE * whole[plane] for plane, c in found.items())]
    drawn = {
        plane: {part: costs[part] for part in large} | {"the rest": sum(costs.values()) - sum(costs[p] for p in large)}
        for plane, costs in found.items()
    }
    return {
        "figure": figures.stacked("Where a connection's time goes", f"{unit} per connection", drawn),
        "unit": unit,
        "planes": found,
    }


def _rows(report: Report, planes: Sequence[str]) -> list[dict[str, Any]]:
    made = []
    for check, statement in report.checks().items():
        per_plane = [[c for k in report.kernels() if (c := report.cell(k, name, check))] for name in planes]
        outcomes = {cell.outcome for cells in per_plane for cell in cells} - {"skip"}
        made.append(
            {
                "check": check,
                "statement": statement,
                "differs": len(outcomes) > 1,
                "cells": [_cell(check, name, cells) for name, cells in zip(planes, per_plane, strict=True)],
            }
        )
    return made


def _cell(check: str, plane: str, cells: Sequence[MatrixCell]) -> dict[str, Any] | None:
    """Return the outcome on all kernels as one mark, or as both if kernels differ."""
    if not cells:
        return None
    outcomes = list(dict.fromkeys(cell.outcome for cell in cells))
    seen = "; ".join(f"{cell.kernel}: {cell.outcome}: {cell.detail}" for cell in cells)
    reasons = list(dict.fromkeys(" ".join(filter(None, (c.reason, c.reference))) for c in cells if c.outcome != "pass"))
    return {
        "outcome": outcomes[0] if len(outcomes) == 1 else "partly",
        "odd": any(cell.outcome != cell.expected for cell in cells),
        "mark": "".join(MARKS[outcome] for outcome in outcomes),
        "label": f"{check} on {plane}: {seen}" + (f" ({'; '.join(filter(None, reasons))})" if any(reasons) else ""),
    }


def _documents(report: Report) -> list[dict[str, Any]]:
    found: list[tuple[str, Result | Matrix]] = [*report.results, *report.matrices]
    return [
        {
            "name": name,
            "command": document.plan.get("command", ""),
            "environment": _facts(document),
            "data": base64.b64encode(gzip.compress(msgspec.json.encode(document), mtime=0)).decode(),
        }
        for name, document in found
    ]


def _facts(document: Result | Matrix) -> list[tuple[str, str]]:
    """Return the program and the environment: a result has one environment, and a matrix one per kernel."""
    tool = " ".join(document.tool[key] for key in ("name", "version", "revision") if key in document.tool)
    several = {"": document.environment} if isinstance(document, Result) else document.environment
    return [("made by", tool)] + [
        (f"{kernel}: {key}".removeprefix(": "), str(facts[key]))
        for kernel, facts in several.items()
        for key in _TOLD
        if facts.get(key)
    ]
