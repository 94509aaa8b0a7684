"""The common parts of the commands: options, and checks of their arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import click

from bench.cli import completion
from bench.report import terminal
from dataplanes import catalog, files
from dataplanes.errors import Usage
from dataplanes.selection import Selection
from scenarios import axes


def options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that gives a command these options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class NumberRange(click.FloatRange):
    """Numbers between two bounds. NaN is in no range, although it is neither below nor above a bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Raises BadParameter for one that is out of the range."""
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return found


some_dataplane_option = partial(
    click.option,
    "--dataplane",
    "-d",
    multiple=True,
    callback=lambda _ctx, _param, names: ",".join(names),
    metavar="NAME[,NAME]|all",
    shell_complete=completion.or_file(completion.dataplane),
    help="Name the data planes, or NAME@VARIANT+KNOB=VALUE. `bench list dataplanes` shows them. The path of a plane "
    "file works too, or PLACEMENT:PROGRAM.",
)
dataplane_option = some_dataplane_option(required=True)
scenario_option = click.option(
    "--scenario",
    "-s",
    default="seed",
    show_default=True,
    shell_complete=completion.or_file(completion.listed("scenarios")),
    help="Name the scenario, or a TOML file. `bench list scenarios` shows the names.",
)
own_scenario_option = click.option(
    "--scenario",
    "-s",
    shell_complete=completion.or_file(completion.listed("scenarios")),
    help="Observe in the lab of this scenario, a name or a TOML file. What it cannot express is not applicable. "
    "By default each check has its own scenario.",
)
kernel_option = click.option(
    "--kernel",
    default="auto",
    show_default=True,
    metavar="auto|host|guest|NAME",
    shell_complete=completion.or_file(completion.listed("kernels", more=("auto", "guest"))),
    help="Choose the kernel under test. `bench list kernels` shows the names. A path works too: VMLINUZ[:MODULES], or "
    "the package's .deb.",
)
kernels_option = click.option(
    "--kernel",
    default="auto",
    show_default=True,
    metavar="K[,K]",
    shell_complete=completion.or_file(completion.listed("kernels", more=("auto", "guest", "guests"), several=True)),
    help="Choose one or several kernels under test, side by side. `guests` means those of the published data.",
)
expression_option = click.option(
    "-k",
    "expression",
    default="",
    metavar="EXPR",
    shell_complete=completion.listed("checks"),
    help="Observe only the checks whose names match: words, `and`, `or`, `not` and parentheses.",
)
clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "instructions"]),
    help="Choose the clock. By default it is instructions under emulation, and wall on the host and under KVM.",
)
shown_clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "instructions"]),
    help="Choose the clock. By default it is wall on every kernel, because this command measures nothing.",
)
workload_option = click.option(
    "--workload",
    "-w",
    metavar="W[,W]",
    shell_complete=completion.listed("workloads", more=("all",), several=True),
    help="Name the workloads. The default is crr, or the scenario's own. `bench list workloads` shows them.",
)
jobs_option = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Run at most N guests, or lanes of checks on this machine's own kernel, at the same time; 1 to 1000. "
    "By default as many as processors and memory allow.",
)
cluster_option = click.option(
    "--cluster",
    metavar="tcp://HOST:PORT",
    help="Run the guests on the workers of this dask scheduler; `local` starts one here. By default on this machine. "
    "See docs/cluster.md.",
)
timeout_option = click.option(
    "--timeout",
    type=NumberRange(1, 1_000_000),
    metavar="S",
    help="Give up after S seconds of real time, with exit code 124; 1 to 1,000,000. By default there is no limit.",
)


_AXES = {
    "services": "Add N services to those of the scenario",
    "backends": "Give the service that is called, and every added one, N backends",
    "containers": "Add N idle containers to every node",
    "nodes": "Have N nodes in all",
    "concurrency": "Keep N connections open at the same time",
    "ports": "Give the client N source ports, so that each is soon used again",
    "sources": "Give the client N more addresses, and connect from all in turn",
}


def axis_options(command: Any) -> Any:
    """Return an option for each axis, which takes a value or a list."""
    for name, (_, least, most) in reversed(axes.AXES.items()):
        default = axes.CONCURRENCY if name == "concurrency" else "what the scenario has"
        told = f"{_AXES[name]}; {least:,} to {most:,}, by default {default}."
        letter = ("-c",) if name == "concurrency" else ()
        option = click.option(f"--{name}", *letter, metavar="N[,N]", help=told)
        command = option(command)
    return command


def axis_values(given: Mapping[str, str | None]) -> dict[str, list[int]]:
    """Return the values of the given axes. Raises Usage for a value that is not a list of numbers."""
    return {name: axes.parse(name, text) for name, text in given.items() if text is not None}


def one(dataplane: str) -> list[Selection]:
    """Parse a `--dataplane` value that names a single plane. Raises Usage if it names several."""
    selections = catalog.select(dataplane)
    if len(selections) != 1:
        raise Usage("this command takes one data plane", where=dataplane)
    return selections


def output_writer(path: str | None) -> Callable[[bytes], object]:
    """Return a writer for the result. It is opened before anything runs, so that a wrong path fails at once."""
    if path is None:
        return lambda data: None
    if path == "-":
        return terminal.write
    try:
        there = os.path.exists(path)
        with open(path, "ab"):
            pass
        if not there:  # a run that is refused or cut short leaves no empty result
            os.unlink(path)
    except (OSError, ValueError) as error:
        raise files.cannot_write(path, error, "the output file") from error

    return partial(files.write, path)
