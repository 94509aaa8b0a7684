"""The section of the answer on costs: tables of planes against an axis, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable

from bench.documents import Interval
from bench.documents.workloads import WORKLOADS
from bench.report.digits import number
from bench.report.model import Report
from bench.report.questions import REFERENCE
from bench.report.words import Words
from dataplanes.texts import markdown
from scenarios.axes import Axes

PER_CONNECTION = WORKLOADS["crr"].costs
_SERVICES = (1, 100, 1000, 10_000, 50_000)
_CONTAINERS = (1, 10, 100)
FigureGrid = dict[int, dict[str, Interval]]
"""Value of the axis -> plane -> figure."""
CellText = Callable[[int, dict[str, Interval], str], str]
"""A function that returns a cell: of a column, its figures, and a plane that has one."""
_GAPS = (
    ("Longest gap for others while all services are programmed, ms", "install"),
    ("Longest gap for others while ten services are added one by one, ms", "add_service"),
)


def tables(report: Report, say: Words) -> list[str]:
    """Return what planes cost or save with more services and more containers."""
    lines = []
    for title, workload, metrics, axis, values in (
        ("A connection, with more services", "crr", PER_CONNECTION, "services", (0, *_SERVICES)),
        ("A connection, with more containers on every node", "crr", PER_CONNECTION, "containers", (0, *_CONTAINERS)),
        ("A connection that uses no VIP, with more services", "others", PER_CONNECTION, "services", (0, *_SERVICES)),
        ("All services at once, ms", "program", ("install_ms",), "services", _SERVICES),
        ("One service more, ms", "program", ("add_service_ms",), "services", _SERVICES),
        ("One service more, ms, by containers per node", "program", ("add_service_ms",), "containers", _CONTAINERS),
        ("One container more, ms", "program", ("join_ms",), "services", _SERVICES),
        ("Cold start of a node, ms", "program", ("cold_start_ms",), "services", _SERVICES),
        ("Cold start of a node, ms, by containers per node", "program", ("cold_start_ms",), "containers", _CONTAINERS),
        ("Kernel memory, B", "program", ("kernel_bytes",), "services", _SERVICES),
    ):
        columns = _columns(report, workload, metrics, axis, values)
        lines += _table(report, title, columns, _against, say)
    for title, of in _GAPS:
        calm = _columns(report, "gap", (f"{of}_calm_ms",), "services", _SERVICES)

        def beside(column: int, figures: dict[str, Interval], name: str, calm: FigureGrid = calm) -> str:
            return say("{gap} (calm: {calm})", gap=_figure(figures, name), calm=_figure(calm[column], name))

        lines += _table(report, title, _columns(report, "gap", (f"{of}_gap_ms",), "services", _SERVICES), beside, say)
    return [f"## {say('What it costs or saves')}", "", *lines] if lines else []


def _columns(report: Report, workload: str, metrics: tuple[str, ...], axis: str, values: tuple[int, ...]) -> FigureGrid:
    """Return the figures of the first metric that was measured, at the values of an axis that were."""
    columns: FigureGrid = {}
    for name, at in report.workloads():
        others = all(getattr(at, each) == getattr(Axes(), each) for each in Axes.__struct_fields__ if each != axis)
        swept = axis == "services" or workload == "crr"
        if name == workload and getattr(at, axis) in values and (others or not swept):
            rows = report.rows(workload, at)
            figures = {n: row.figures[m] for n, (row, _) in rows.items() for m in metrics if m in row.figures}
            if figures:
                columns[getattr(at, axis)] = figures
    return dict(sorted(columns.items()))


def _table(report: Report, title: str, columns: FigureGrid, cell: CellText, say: Words) -> list[str]:
    """Return a table of planes against an axis, with its title, or nothing if nothing was measured."""
    if not columns:
        return []
    lines = [
        f"### {say(title)}",
        "",
        f"| {say('data plane')} | {' | '.join(f'{value:,}' for value in columns)} |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    for name in report.planes():
        cells = [cell(value, figures, name) if name in figures else "" for value, figures in columns.items()]
        if any(cells):
            lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _against(column: int, figures: dict[str, Interval], name: str) -> str:
    """Return a figure with its ratio to the reference's."""
    base = figures.get(REFERENCE)
    share = f" ({figures[name].value / base.value:.2f}x)" if base and base.value and name != REFERENCE else ""
    return _figure(figures, name) + share


def _figure(figures: dict[str, Interval], name: str) -> str:
    return number(figures[name].value)
