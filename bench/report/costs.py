"""The section of the answer on costs: tables of planes against an axis, as lines of Markdown."""

from __future__ import annotations

from bench.documents import Interval
from bench.documents.workloads import WORKLOADS
from bench.report.digits import number
from bench.report.model import Report
from bench.report.questions import REFERENCE
from bench.report.words import Words
from dataplanes.texts import markdown
from scenarios.axes import Axes

PER_CONNECTION = WORKLOADS["crr"].costs
_SERVICES = (1, 100, 1000)
_CONTAINERS = (1, 10, 100)


def tables(report: Report, say: Words) -> list[str]:
    """Return what planes cost or save with more services and more containers."""
    lines = []
    for title, workload, metrics, axis, values in (
        ("A connection, with more services", "crr", PER_CONNECTION, "services", (0, *_SERVICES)),
        ("A connection, with more containers on every node", "crr", PER_CONNECTION, "containers", (0, *_CONTAINERS)),
        ("A connection that uses no VIP, with more services", "others", PER_CONNECTION, "services", (0, *_SERVICES)),
        ("One service more, ms", "program", ("add_service_ms",), "services", _SERVICES),
        ("One service more, ms, by containers per node", "program", ("add_service_ms",), "containers", _CONTAINERS),
        ("One container more, ms", "program", ("join_ms",), "services", _SERVICES),
    ):
        table = _table(report, workload, metrics, axis, values, say)
        if table:
            lines += [f"### {say(title)}", "", *table, ""]
    return [f"## {say('What it costs or saves')}", "", *lines] if lines else []


def _table(
    report: Report, workload: str, metrics: tuple[str, ...], axis: str, values: tuple[int, ...], say: Words
) -> list[str]:
    """Return a table of planes against an axis. Beside each figure is its ratio to the reference's."""
    columns: dict[int, dict[str, Interval]] = {}
    for name, at in report.workloads():
        others = all(getattr(at, each) == getattr(Axes(), each) for each in Axes.__struct_fields__ if each != axis)
        swept = axis == "services" or workload == "crr"
        if name == workload and getattr(at, axis) in values and (others or not swept):
            rows = report.rows(workload, at)
            figures = {n: row.figures[m] for n, (row, _) in rows.items() for m in metrics if m in row.figures}
            if figures:
                columns[getattr(at, axis)] = figures
    if not columns:
        return []
    used = sorted(columns)
    lines = [
        f"| {say('data plane')} | {' | '.join(f'{value:,}' for value in used)} |",
        "|---" + "|---:" * len(used) + "|",
    ]
    for name in report.planes():
        cells = [_against(columns[value], name) for value in used]
        if any(cells):
            lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
    return lines


def _against(figures: dict[str, Interval], name: str) -> str:
    if name not in figures:
        return ""
    base = figures.get(REFERENCE)
    share = f" ({figures[name].value / base.value:.2f}x)" if base and base.value and name != REFERENCE else ""
    return number(figures[name].value) + share
