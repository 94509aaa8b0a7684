"""The report as Markdown (which a terminal shows as well), CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import msgspec

from bench.documents import tidy
from bench.documents.metrics import METRICS, units
from bench.documents.overview import Overview
from bench.documents.workloads import WORKLOADS
from bench.report import clocks, sections
from bench.report.columns import table
from bench.report.digits import figure, number, ratio
from bench.report.matrix_table import MARKS, differences
from bench.report.model import PLACES, Report
from bench.report.questions import QUESTIONS, REFERENCE
from bench.report.words import ENGLISH
from dataplanes import texts
from dataplanes.selection import SHORT

TIDY = ("document", *tidy.FIGURE, *(name for name in tidy.CELL if name not in tidy.FIGURE))


def markdown(report: Report) -> str:
    """Return everything except the plots."""
    parts = ["# Service VIP data planes compared", "", *sections.summary(report, ENGLISH), *_verdicts(report)]
    parts += sections.alike(report, ENGLISH)
    parts += clocks.section(report, ENGLISH)
    for workload, at in report.workloads():
        known = WORKLOADS[workload]
        rows = report.rows(workload, at)
        metrics = [m for m in known.shown if any(m in row.figures for row, _ in rows.values())]
        clock = next((clock for _, clock in rows.values()), "")
        title = ", ".join(filter(None, (known.title, at.label())))
        parts += [f"## {title} ({clock} clock)", ""]
        headings = ["data plane", *(METRICS[m].column() for m in metrics), "ratio to direct", "n"]
        body = [
            [name, *(figure(row.figures.get(m)) for m in metrics), ratio(row.ratio_to_direct), str(row.n)]
            for name, (row, _) in rows.items()
        ]
        parts += [*table(headings, body), ""]
    found = report.parts()
    if found:
        body = [[name, *map(number, costs.values())] for name, costs in found.items()]
        parts += [
            "## Where a connection's time goes",
            "",
            *table(["data plane", *next(iter(found.values()))], body),
            "",
        ]
    states = report.states()
    if states:
        headings = [f"{place}: {what}" for place in PLACES for what in ("programmed", "entries", "bytes")]
        body = [
            [name, *(number(n) for each in state.values() for n in (each.objects, each.entries, each.bytes))]
            for name, state in states.items()
        ]
        parts += ["## What the kernel holds", "", *table(["data plane", *headings], body), ""]
    if report.cells():
        parts += [
            "## What holds",
            "",
            "● holds, ○ does not, - not applicable; two marks: by kernel",
            "",
            *_matrix(report),
        ]
        parts += [
            "",
            "## Differences and their reasons",
            "",
            *(f"- {texts.markdown(line)}" for line in differences(report.cells())),
            "",
        ]
    warnings = report.warnings()
    if warnings:
        parts += ["## Warnings", "", *(f"- {texts.markdown(line)}" for line in warnings), ""]
    return "\n".join(parts)


def _verdicts(report: Report) -> list[str]:
    observed = bool(report.cells())
    of_limit = SHORT in report.planes()
    headings = ["data plane", "rate, of direct", *(["of the limit"] if of_limit else []), "cost/connection"]
    headings += [f"as {REFERENCE}", *(q.name for q in QUESTIONS)] if observed else []
    body = []
    for v in report.verdicts():
        limit = [ratio(report.rate(v.dataplane, base=SHORT))] if of_limit else []
        cells = [v.dataplane, ratio(v.ratio_to_direct), *limit, figure(v.cost)]
        if observed:
            told = f"{len(v.same)} same, {len(v.more)} more, {len(v.less)} less" if v.same else ""
            cells += [told, *(v.answers[q.name] for q in QUESTIONS)]
        body.append(cells)
    return [*table(headings, body), ""]


def _matrix(report: Report) -> list[str]:
    observed = {cell.dataplane for cell in report.cells()}
    planes = [name for name in report.planes() if name in observed]
    body = []
    for check in report.checks():
        row = [check]
        for name in planes:
            outcomes = [c.outcome for k in report.kernels() if (c := report.cell(k, name, check))]
            row.append("".join(MARKS[outcome] for outcome in dict.fromkeys(outcomes)))
        body.append(row)
    return table(["check", *planes], body)


def tidy_csv(report: Report) -> str:
    """Return CSV: the tidy rows of every document, results and matrices one after another."""
    out = io.StringIO()
    writer = csv.DictWriter(out, TIDY, restval="", lineterminator="\n")
    writer.writeheader()
    for row in tidy_rows(report):
        writer.writerow({key: texts.cell(value) if isinstance(value, str) else value for key, value in row.items()})
    return out.getvalue()


def tidy_rows(report: Report) -> Iterator[tidy.Row]:
    """Yield the tidy rows of every document, each with the document's name. Their columns are among TIDY."""
    for name, result in report.results:
        yield from ({"document": name, **row} for row in tidy.figures(result))
    for name, matrix in report.matrices:
        yield from ({"document": name, **row} for row in tidy.cells(matrix))


def merged(report: Report) -> bytes:
    """Return JSON: verdicts and curves, as on the page."""
    verdicts, curves = report.verdicts(), report.curves()
    named = {name for each in verdicts for name in each.figures} | {curve.metric for curve in curves}
    found = Overview(verdicts, curves, units(named))
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
