"""The command `bench matrix`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from bench import api
from bench.cli.options import (
    clock_option,
    cluster_option,
    expression_option,
    jobs_option,
    kernels_option,
    options,
    output_writer,
    own_scenario_option,
    some_dataplane_option,
    timeout_option,
)
from bench.documents import Matrix
from dataplanes import catalog
from dataplanes.errors import Usage
from dataplanes.selection import Selection

_BESIDE = "failures", "traces"
"""The directories beside the first file: evidence of unexpected cells, and the stories of all cells."""


@click.command()
@some_dataplane_option()
@click.option(
    "--world",
    metavar="FILE",
    help="Observe containers that exist already on this machine, which FILE describes, instead of data planes. Nothing "
    "is changed there, unless FILE has commands for that. See docs/adopt.md.",
)
@options(
    own_scenario_option, kernels_option, expression_option, clock_option, timeout_option, jobs_option, cluster_option
)
@click.option(
    "--output",
    "-o",
    multiple=True,
    metavar="FILE",
    help="Write the matrix as .json or .md; - is JSON on stdout. It may be given several times.",
)
@click.option("--junit", metavar="FILE", help="Write the matrix as JUnit XML.")
@click.option("--pause-on-fail", is_flag=True, help="Open a shell in the lab of each cell that is not as expected.")
@click.option(
    "--trace",
    is_flag=True,
    help="Follow the packets of each check to the VIPs, and write their story beside the first file of -o.",
)
def matrix(
    dataplane: str,
    world: str | None,
    scenario: str | None,
    clock: str | None,
    timeout: float | None,
    jobs: int | None,
    cluster: str | None,
    expression: str,
    kernel: str,
    output: tuple[str, ...],
    junit: str | None,
    pause_on_fail: bool,
    trace: bool,
) -> None:
    """Observe the semantics of a VIP on data planes. The exit code is 1 if an outcome is not the expected one."""
    from bench import kernels as under_test
    from bench.cli.progress import cells
    from bench.outside import matrix as runner
    from bench.report import matrix_table
    from scenarios import checks

    total = len(checks.select(expression))
    if world is None:
        selections = _selected(dataplane)
        total *= len(selections) * len(under_test.expand(kernel))
    else:
        given = {
            "--dataplane": dataplane,
            "--scenario": scenario,
            "--kernel": kernel not in ("auto", "host"),
            "--clock": clock not in (None, "wall"),
            "--jobs": jobs,
            "--cluster": cluster,
            "--pause-on-fail": pause_on_fail,
            "--trace": trace,
        }
        _demand_nothing_else(given)
        adoption = api.read_world(world)
    writers = [(path, output_writer(path)) for path in (*output, *filter(None, [junit]))]
    first = next((path for path in (*output, junit) if path and path != "-"), None)
    if trace and not first:
        raise Usage("nowhere to write the traces", fix="give a file with -o; the traces are written beside it")
    evidence, traces = (Path(f"{os.path.splitext(first)[0]}-{name}") if first else None for name in _BESIDE)
    with cells(total) as on_event:
        if world is None:
            observed = api.observe(
                selections,
                expression,
                scenario=scenario,
                kernel=kernel,
                clock=clock,
                jobs=jobs,
                cluster=cluster,
                evidence=evidence,
                traces=traces if trace else None,
                pause=pause_on_fail,
                timeout=timeout,
                on_event=on_event,
            )
        else:
            observed = api.observe_world(adoption, expression, timeout=timeout, on_event=on_event)
    result: Matrix = observed.matrix
    for path, write in writers:
        if path == junit:
            write(matrix_table.junit(result))
        elif path.endswith(".md"):
            write(matrix_table.markdown(result).encode())
        else:
            write(api.encoded(result))
    if "-" not in output:
        matrix_table.show(result)
    if runner.unexpected(result):
        sys.exit(1)
    if all(cell.outcome == "skip" for cell in result.cells):
        sys.exit(4)


def _selected(dataplane: str) -> list[Selection]:
    """Return the planes that are named. Raises Usage if none is, or none that has a VIP."""
    from bench.outside import matrix as runner

    if not dataplane:
        raise Usage("nothing to observe", fix="name data planes with --dataplane, or a file with --world")
    return runner.planes(catalog.select(dataplane))


def _demand_nothing_else(given: Mapping[str, object]) -> None:
    """Raise Usage if an option is given that a world of others cannot have."""
    if odd := next((option for option, value in given.items() if value), None):
        why = "the world is there already, on this machine's kernel and clock"
        raise Usage(f"{odd} and --world exclude each other", why=why, fix="give one of them")
