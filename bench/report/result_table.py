"""The table that `bench run` prints: one row per data plane, and every figure with its unit, n and interval."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.documents import Profile, Result, Summary, Trial, TrialPlan
from bench.documents.metrics import METRICS
from bench.documents.workloads import WORKLOADS, Workload
from bench.report.digits import figure, ratio
from bench.report.terminal import console
from scenarios.axes import Axes

_FUNCTIONS = 25


def render(result: Result) -> RenderableType:
    """Return the comparison for a person, with the facts of the figures: kernel, clock, n."""
    groups: dict[tuple[str, Axes], list[Summary]] = {}
    for row in result.summary:
        groups.setdefault((row.workload, row.axes), []).append(row)
    tables = [_table(result, WORKLOADS[workload], at, rows) for (workload, at), rows in groups.items()]
    profiles = [_profile(trial, trial.profile) for trial in result.trials if trial.profile]
    return Group(*tables, *profiles, *(_notes(result)))


def _profile(trial: Trial, profile: Profile) -> Table:
    """Return the time of a trial by part of the kernel, and its most costly functions."""
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
    scenario = os.path.basename(result.plan.get("scenario", "")).removesuffix(".toml")
    return ", ".join(filter(None, (f"{scenario}: {what}", at.label())))


def _table(result: Result, workload: Workload, at: Axes, rows: Sequence[Summary]) -> Table:
    cost = workload.cost(result.environment["clock"])
    metrics = [workload.primary, *workload.columns, *([cost] if any(cost in row.figures for row in rows) else [])]
    headings = [METRICS[name].column() for name in metrics]
    compared = any(row.ratio_to_direct for row in rows)
    if compared:
        headings = [headings[0], "ratio [95%]", *headings[1:], "errors", "backends"]
    body = []
    for row in rows:
        cells = [figure(row.figures.get(name)) or "-" for name in metrics]
        if compared:
            cells.insert(1, ratio(row.ratio_to_direct) or "-")
            cells += [str(sum(row.errors.values())), str(sum(1 for count in row.backends.values() if count))]
        body.append([row.dataplane, *cells, str(row.n)])
    table = Table(title=_title(result, workload.title, at), title_justify="left")
    for number, heading in enumerate(["data plane", *headings, "n"]):
        widest = max(map(len, (*heading.split(), *(cells[number] for cells in body))))
        table.add_column(textwrap.fill(heading, widest), justify="right" if number else "left", no_wrap=True)
    for cells in body:
        table.add_row(*cells)
    return table


def _notes(result: Result) -> list[Text]:
    environment = result.environment
    what = {
        "instructions": "instruction clock: 1 ns is 1 guest instruction; counts work, not cache misses or lock waits",
        "wall": "wall clock",
    }[environment["clock"]]
    chosen = f"{environment.get('kernel_name', '')}: {environment.get('kernel_reason', '')}"
    notes = [
        f"kernel {environment['kernel']} ({chosen}); {what}",
        "medians over n interleaved rounds, each in a fresh lab; intervals are 95 % bootstrap over the rounds",
    ]
    if (
        environment["clock"] == "wall"
        and environment.get("kernel_name") != "host"
        and not environment.get("accelerated")
    ):
        notes.append("wall clock under emulation: a smoke test, not a measurement")
    notes += [f"warning: {each}" for each in result.warnings]
    notes += [f"{row.dataplane}: no number, {row.note}" for row in result.summary if row.note]
    return [Text(note, style="dim") for note in notes]


def show(result: Result) -> None:
    """Print the comparison on stdout."""
    console().print(render(result))


def show_plan(trials: Sequence[TrialPlan]) -> None:
    """Print the plan: a row per workload and point."""
    rows: dict[tuple[str, Axes], list[TrialPlan]] = {}
    for trial in trials:
        rows.setdefault((trial.workload, trial.axes), []).append(trial)
    table = Table("workload", "at", "data planes")
    for heading in ("rounds", "trials", "connections each"):
        table.add_column(heading, justify="right")
    for (workload, at), found in rows.items():
        rounds = {trial.round for trial in found if not trial.warmup}
        each = found[-1].connections
        names = ", ".join(dict.fromkeys(trial.dataplane for trial in found))
        table.add_row(workload, at.label(), names, str(len(rounds)), str(len(found)), f"{each:,}")
    console().print(table)


def show_agreement(result: Result) -> None:
    """Print whether wrk and nginx agree with our own generator about the planes."""
    rows = {(row.workload, row.dataplane): row for row in result.summary if row.n}
    table = Table(title="the generator against wrk and nginx: ratios between planes", title_justify="left")
    for heading in ("planes", "vipload", "wrk", "apart"):
        table.add_column(heading, justify="left" if heading == "planes" else "right")
    names = [name for workload, name in rows if workload == "crr" and ("wrk", name) in rows]
    for number, name in enumerate(names):
        for other in names[:number]:
            ours, theirs = (
                rows[w, name].figures["connections_per_second"].value
                / rows[w, other].figures["connections_per_second"].value
                for w in ("crr", "wrk")
            )
            table.add_row(f"{name} / {other}", f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours - 1:+.1%}")
    out = console()
    out.print(table)
    ceiling = result.environment.get("generator_ceiling", 0)
    out.print(Text(f"over loopback the generator reaches {ceiling:,.0f} connections/s", style="dim"))
