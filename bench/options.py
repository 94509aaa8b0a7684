"""What the commands' arguments have in common: options, and the arguments they check themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from bench import terminal
from bench.rounds import Series
from dataplanes import catalog, files
from dataplanes.errors import Usage
from scenarios import axes
from scenarios.axes import Sweep


def _complete_dataplane(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    done, comma, last = incomplete.rpartition(",")
    return [f"{done}{comma}{name}" for name in (*catalog.SUMMARIES, "all") if name.startswith(last)]


def _complete_scenario(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from scenarios import topology

    return [name for name in topology.named() if name.startswith(incomplete)]


def options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


dataplane_option = click.option(
    "--dataplane",
    "-d",
    required=True,
    multiple=True,
    callback=lambda _ctx, _param, names: ",".join(names),
    metavar="NAME[,NAME]|all",
    shell_complete=_complete_dataplane,
    help="Data planes, or NAME@VARIANT+KNOB=VALUE; `bench list dataplanes` shows them.",
)
scenario_option = click.option(
    "--scenario",
    "-s",
    default="seed",
    show_default=True,
    shell_complete=_complete_scenario,
    help="A named scenario or a TOML file.",
)
kernel_option = click.option(
    "--kernel",
    default="auto",
    show_default=True,
    metavar="auto|host|guest|NAME",
    help="The kernel under test; `bench list kernels` shows them; or a path: VMLINUZ[:MODULES], or its .deb.",
)
clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "instructions"]),
    help="Default: instructions under emulation, wall on the host and under KVM.",
)
timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=1), metavar="S", help="Give up when it has run for S seconds (exit 124)."
)


def axis_options(command: Any) -> Any:
    """An option per axis, each a value or a list."""
    for name, (words, _, _) in reversed(axes.AXES.items()):
        told = words.replace("{:,} ", "").capitalize() + "."
        letter = ("-c",) if name == "concurrency" else ()
        option = click.option(f"--{name}", *letter, metavar="N[,N]", help=told)
        command = option(command)
    return command


def series(workloads: Sequence[str], given: Mapping[str, str | None], sweeps: Sequence[Sweep]) -> list[Series]:
    """What to measure where: the axes given as options, or else the scenario's sweeps, or else its own point.

    Raises Usage. `program` needs services to program: 1,000 unless told.
    """
    values = {name: axes.parse(name, text) for name, text in given.items() if text is not None}
    names = tuple(workloads)
    if not values and sweeps:
        return [
            Series(tuple(w for w in each.workloads or names if w in names), tuple(each.points()), each.without)
            for each in sweeps
        ]
    points = axes.grid(values)
    if "program" not in names or any(point.services for point in points):
        return [Series(names, points)]
    others = tuple(name for name in names if name != "program")
    more = axes.grid({**values, "services": [1000]})
    return [*([Series(others, points)] if others else []), Series(("program",), more)]


def crowded(found: Sequence[Series]) -> bool:
    """True if the seed's subnet may have no room for it; the scenario scale has."""
    return any(
        at.services + at.backends + at.sources + at.nodes * at.containers > 100 or at.containers > 30
        for each in found
        for at in each.points
    )


def one(dataplane: str) -> list[catalog.Selection]:
    selections = catalog.select(dataplane)
    if len(selections) != 1:
        raise Usage("this command takes one data plane", where=dataplane)
    return selections


def scenario_path(scenario: str) -> str:
    return os.path.abspath(scenario) if os.path.sep in scenario or scenario.endswith(".toml") else scenario


def output_writer(path: str | None) -> Callable[[bytes], object]:
    """A writer for the result, opened before anything runs: a bad path fails in a second, not after ten minutes."""
    if path is None:
        return lambda data: None
    if path == "-":
        return terminal.write
    try:
        with open(path, "ab"):
            pass
    except (OSError, ValueError) as error:
        raise files.cannot_write(path, error, "the output file") from error

    def write(data: bytes) -> None:
        try:
            files.replace(path, data)
        except OSError as error:
            raise files.cannot_write(path, error, "the output file") from error

    return write
