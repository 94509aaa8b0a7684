"""The table `bench run` prints: one row per data plane, every figure with its unit, n and interval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.documents import Interval, Profile, Result, Summary, Trial
from bench.workloads import METRICS, WORKLOADS, Workload
from scenarios.axes import Axes

if TYPE_CHECKING:
    from bench.compare import Difference


_FUNCTIONS = 25


def render(result: Result) -> RenderableType:
    """The comparison as a person reads it, with what the figures are: kernel, clock, n."""
    groups: dict[tuple[str, Axes], list[Summary]] = {}
    for row in result.summary:
        groups.setdefault((row.workload, row.axes), []).append(row)
    tables = [_table(result, WORKLOADS[workload], at, rows) for (workload, at), rows in groups.items()]
    profiles = [_profile(trial, trial.profile) for trial in result.trials if trial.profile]
    return Group(*tables, *profiles, *(_notes(result)))


def _profile(trial: Trial, profile: Profile) -> Table:
    """Where a trial's time went: by part of the kernel, and its most costly functions."""
    told = ", ".join(f"{name} {share:.0%}" for name, share in profile.parts.items() if share > 0.01)
    table = Table(title=f"{trial.dataplane}, {trial.workload}: where the time goes: {told}", title_justify="left")
    for heading in ("function", "part"):
        table.add_column(heading)
    for heading in ("share", f"calls/{WORKLOADS[trial.workload].unit}"):
        table.add_column(heading, justify="right")
    for each in sorted(profile.functions, key=lambda f: -f.share)[:_FUNCTIONS]:
        table.add_row(each.name, each.part, f"{each.share:.1%}", "" if each.calls is None else f"{each.calls:.1f}")
    return table


def _title(result: Result, what: str, at: Axes) -> str:
    scenario = os.path.basename(result.plan["scenario"]).removesuffix(".toml")
    return ", ".join(filter(None, (f"{scenario}: {what}", at.label())))


def _table(result: Result, workload: Workload, at: Axes, rows: Sequence[Summary]) -> Table:
    cost = f"instructions_per_{workload.unit}" if result.environment["clock"] == "instructions" else ""
    cost = cost or f"cpu_us_per_{workload.unit}"
    metrics = [workload.primary, *workload.columns, *([cost] if any(cost in row.metrics for row in rows) else [])]
    table = Table(title=_title(result, workload.title, at), title_justify="left")
    table.add_column("data plane", no_wrap=True)
    compared = any(row.ratio_to_direct for row in rows)
    for name in metrics:
        table.add_column(METRICS[name].column(), justify="right")
        if name == workload.primary and compared:
            table.add_column("ratio [95 %]", justify="right")
    for heading in (["errors", "backends"] if compared else []) + ["n"]:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [_figure(row.metrics.get(name)) for name in metrics]
        if compared:
            cells.insert(1, _ratio(row.ratio_to_direct))
            cells += [str(sum(row.errors.values())), str(sum(1 for count in row.backends.values() if count))]
        table.add_row(row.dataplane, *cells, str(row.n))
    return table


def _figure(found: Interval | None) -> str:
    """With three or four digits, as many as say something."""
    if found is None:
        return "-"
    return f"{found.value:,.0f}" if found.value >= 1000 or found.value == 0 else f"{found.value:,.3g}"


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
    notes += [f"warning: {each}" for each in result.warnings]
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


def show_agreement(result: Result) -> None:
    """Print whether wrk and nginx say the same of the planes as our own generator."""
    rows = {(row.workload, row.dataplane): row for row in result.summary if row.n}
    table = Table(title="the generator against wrk and nginx: ratios between planes", title_justify="left")
    for heading in ("planes", "vipload", "wrk", "apart"):
        table.add_column(heading, justify="left" if heading == "planes" else "right")
    names = [name for workload, name in rows if workload == "crr" and ("wrk", name) in rows]
    for number, name in enumerate(names):
        for other in names[:number]:
            ours, theirs = (
                rows[w, name].metrics["connections_per_second"].value
                / rows[w, other].metrics["connections_per_second"].value
                for w in ("crr", "wrk")
            )
            table.add_row(f"{name} / {other}", f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours - 1:+.1%}")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    ceiling = result.environment.get("generator_ceiling", 0)
    console.print(Text(f"over loopback the generator reaches {ceiling:,.0f} connections/s", style="dim"))
