"""The matrix of a world that exists already: the checks run on containers of others, and change nothing there."""

from __future__ import annotations

import platform
from collections.abc import Callable

import msgspec

from bench import load
from bench.documents import Event, Job
from bench.inside import environment
from dataplanes.selection import Selection
from scenarios import checks, expectations
from scenarios.adopted import Adopted, Adoption
from scenarios.checks import Cell, Check
from scenarios.checks.world import World
from scenarios.operated import Operated
from scenarios.topology import Task

_SCENARIO = "matrix"
"""The scenario whose roles a world plays."""


def observe(job: Job, clock: str, tell: Callable[[Event], None]) -> int:
    """Observe the checks of the job on the world that it names."""
    tell(Event("environment", data=environment.collect(clock)))
    adoption = msgspec.convert(job.adoption, Adoption)
    name, port = adoption.roles.scenario.name, adoption.roles.scenario.traffic.port
    imitated = adoption.imitates or Selection(name, name)

    def report(cell: Cell) -> None:
        found = expectations.expected(imitated, cell.check, platform.release())
        if cell.outcome == "skip":
            found = msgspec.structs.replace(found, expected="skip", reason=cell.detail)
        cell.expected = found.expected
        tell(Event("cell", data=msgspec.to_builtins(cell) | {"reason": found.reason, "reference": found.reference}))

    def server(task: Task) -> list[str]:
        return load.serve_argv((task.number - 1) % load.NUMBERS + 1, tcp=[port], udp=[port])

    with (Operated if adoption.commands else Adopted)(adoption, server) as testbed:
        world = World(testbed)
        for each in checks.named(job.checks):
            if why := _skipped(each, adoption, clock):
                report(Cell(name, each.name, "skip", why, 0.0))
                continue
            for cell in checks.observe([each], world, name):
                report(cell)
    return 0


def _skipped(check: Check, adoption: Adoption, clock: str) -> str:
    """Return why a check is not observed in a world of others, or ""."""
    if check.scenario != _SCENARIO:
        return f"not applicable: it needs the scenario {check.scenario}, and this world plays {_SCENARIO}"
    any_port = not any(each.ports for each in adoption.roles.scenario.services)
    return checks.skipped(check, clock, any_port, adoption.scheduler == "rr", adoption.protocols)
