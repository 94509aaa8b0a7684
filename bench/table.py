"""The table `bench run` prints: one row per data plane, every figure with its unit, n and interval."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.documents import Interval, Result, Summary
from scenarios.axes import Axes

if TYPE_CHECKING:
    from bench.compare import Difference


def render(result: Result) -> RenderableType:
    """The comparison as a person reads it, with what the figures are: kernel, clock, n."""
    groups: dict[tuple[str, Axes], list[Summary]] = {}
    for row in result.summary:
        groups.setdefault((row.workload, row.axes), []).append(row)
    tables = [_TABLES[workload](result, at, rows) for (workload, at), rows in groups.items()]
    return Group(*tables, *(_notes(result)))


def _title(result: Result, what: str, at: Axes) -> str:
    scenario = os.path.basename(result.plan["scenario"]).removesuffix(".toml")
    return ", ".join(filter(None, (f"{scenario}: {what}", at.label())))


def _crr(result: Result, at: Axes, rows: Sequence[Summary]) -> Table:
    clock = result.environment["clock"]
    cost = "instructions_per_connection" if clock == "instructions" else "cpu_us_per_connection"
    table = Table(title=_title(result, "connect / request / reply / close", at), title_justify="left")
    table.add_column("data plane", no_wrap=True)
    table.add_column("connections/s", justify="right")
    table.add_column("ratio [95 %]", justify="right")
    table.add_column("connect p50 / p99", justify="right")
    table.add_column("instr./conn" if clock == "instructions" else "CPU µs/conn", justify="right")
    table.add_column("errors", justify="right")
    table.add_column("backends", justify="right")
    table.add_column("n", justify="right")
    for row in rows:
        table.add_row(*_cells(row, cost))
    return table


_PROGRAM = {
    "install_ms": "all",
    "add_service_ms": "1 service more",
    "remove_service_ms": "1 less",
    "add_backend_ms": "1 backend more",
    "remove_backend_ms": "1 less",
    "join_ms": "1 container more",
}


def _program(result: Result, at: Axes, rows: Sequence[Summary]) -> Table:
    table = Table(title=_title(result, "time to program, ms", at), title_justify="left")
    table.add_column("data plane", no_wrap=True)
    for heading in (*_PROGRAM.values(), "objects", "MB", "n"):
        table.add_column(heading, justify="right")
    for row in (row for row in rows if row.n):
        times = [f"{row.metrics[name].value:,.1f}" for name in _PROGRAM]
        held = [f"{row.metrics['objects'].value:,.0f}", f"{row.metrics['bytes'].value / 1e6:,.1f}"]
        table.add_row(row.dataplane, *times, *held, str(row.n))
    return table


_TABLES: dict[str, Callable[[Result, Axes, Sequence[Summary]], Table]] = {"crr": _crr, "program": _program}


def _cells(row: Summary, cost: str) -> list[str]:
    if not row.n:
        return [row.dataplane, "-", "-", "-", "-", "-", "-", "0"]
    metrics = row.metrics
    return [
        row.dataplane,
        f"{metrics['connections_per_second'].value:,.0f}",
        _ratio(row.ratio_to_direct),
        f"{metrics['connect_p50_us'].value:,.1f} / {metrics['connect_p99_us'].value:,.1f} µs",
        f"{metrics[cost].value:,.0f}",
        str(sum(row.errors.values())),
        str(sum(1 for count in row.backends.values() if count)),
        str(row.n),
    ]


def _ratio(found: Interval | None) -> str:
    if found is None:
        return "-"
    bounds = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}{bounds}"


def _notes(result: Result) -> list[Text]:
    environment = result.environment
    what = {
        "instructions": "instruction clock: 1 ns is 1 guest instruction; counts work, not cache misses or lock waits",
        "wall": "wall clock",
    }[environment["clock"]]
    notes = [
        f"kernel {environment['kernel']} ({environment['kernel_name']}: {environment['kernel_reason']}); {what}",
        "medians over n interleaved rounds, each in a fresh lab; intervals are 95 % bootstrap of paired ratios",
    ]
    if environment["clock"] == "wall" and environment["kernel_name"] != "host" and not environment.get("accelerated"):
        notes.append("wall clock under emulation: a smoke test, not a measurement")
    notes += [f"{row.dataplane}: no number, {row.note}" for row in result.summary if row.note]
    return [Text(note, style="dim") for note in notes]


def show(result: Result) -> None:
    """Print the comparison on stdout."""
    Console(width=None if Console().is_terminal else 120).print(render(result))


def show_differences(name: str, differences: Sequence[Difference], warnings: Sequence[str], noise: float) -> None:
    """Print what `bench compare` found about one run."""
    console = Console(width=None if Console().is_terminal else 120)
    table = Table(title=name, title_justify="left")
    for heading in ("data plane", "workload", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("base", "new", "new / base [95 %]", "verdict"):
        table.add_column(heading, justify="right")
    for each in differences:
        needed = f", {each.rounds_needed} rounds would tell" if each.rounds_needed else ""
        workload = ", ".join(filter(None, (each.workload, each.axes.label())))
        figures = (f"{each.base:,.6g}", f"{each.new:,.6g}", _ratio(each.ratio), each.verdict + needed)
        style = {"worse": "red", "better": "green", "inconclusive": "yellow"}.get(each.verdict)
        table.add_row(each.dataplane, workload, each.metric, *figures, style=style)
    console.print(table)
    console.print(Text(f"noise threshold {noise:.1%}; ratios of medians, 95 % bootstrap over rounds", style="dim"))
    for warning in warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
