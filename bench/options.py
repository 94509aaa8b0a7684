"""What the commands' arguments have in common: options, and the arguments they check themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from dataplanes import catalog
from dataplanes.errors import Usage


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
    help="The kernel under test; `bench list kernels` shows them. A path to a vmlinuz works too.",
)
clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "instructions"]),
    help="Default: instructions under emulation, wall on the host and under KVM.",
)
timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=1), metavar="S", help="Give up after S seconds (exit 124)."
)


def sizes(text: str, workloads: Sequence[str]) -> list[int]:
    """The numbers of further services; the seed's subnet has room for a hundred, the scenario scale for the rest."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise Usage(f"--services {text!r} is not a list of numbers") from error
    if any(not 0 <= each <= 20_000 for each in found):
        raise Usage(f"--services {text} is not between 0 and 20000")
    return found if any(found) or "program" not in workloads else [*found, 1000]


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
        return sys.stdout.buffer.write
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise Usage("cannot write the output file", where=path, why=error.strerror or "") from error

    def write(data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)

    return write
