"""How long a trial takes, by the size of its world: what the plan's estimate and the progress bar count by.

The figures are seconds, fitted by hand to trials on a kernel that ran at the processor's speed (6.18, two processors
that were busy with other work). Elsewhere all of them are longer by much the same factor, which a run's pace tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.documents import TrialPlan
from bench.kernels import Kernel
from bench.workloads import WORKLOADS
from dataplanes import catalog
from dataplanes.catalog import DIRECT
from scenarios.topology import Scenario

_LAB = 0.2  # the underlay, names, the generator
_NODE = 0.05
_TASK = 0.025  # a container that serves
_IDLER = 0.008  # one that is only there
_SITE = 0.03  # where a plane is programmed: in every container, or once per node
_SERVICE = 0.00025  # of one site
_BACKEND = 1 / 30  # of a service, in services
_CONNECTION = 1 / 8000
_COSTS: Mapping[str, float] = {"open": 1.6, "rr": 0.7, "udp": 0.5, "stream": 0.3}
"""Of the workloads that make no such connections: what takes the place of one, in connections."""
_CHURN = 5.0
"""Seconds that `churn` spreads its connections over."""
_PROFILED = 3.0
"""A profiled trial measures twice, with bcc's compiler in between."""

_EMULATED, _EMULATED_COUNTING = 6.0, 5.5
"""How many times as long all of it takes under emulation, by wall clock and by the instruction clock."""

_IN_CONTAINERS = ("container", "socket", "tc")
"""Placements that are programmed once per container."""


def seconds(trial: TrialPlan, world: Scenario) -> float:
    """How long it would take there, about."""
    tasks = sum(1 for _ in world.tasks())
    idlers = len(world.idlers)
    built = _LAB + _NODE * len(world.nodes) + _TASK * tasks + _IDLER * idlers
    measured = _CONNECTION * trial.connections * _COSTS.get(trial.workload, 1.0)
    measured += _CHURN if trial.workload == "churn" and not trial.warmup else 0
    return (built + _programmed(trial, world, tasks + idlers) + measured) * (_PROFILED if trial.profile else 1)


def _programmed(trial: TrialPlan, world: Scenario, containers: int) -> float:
    if trial.dataplane == DIRECT:
        return 0
    placement = catalog.placement(trial.dataplane)
    sites = containers if placement in _IN_CONTAINERS else len(world.nodes) * len(world.networks)
    fillers = (world.filler.count, world.filler.backends) if world.filler else (0, 0)
    services = len(world.services) + fillers[0] * (1 + fillers[1] * _BACKEND)
    # Programs and maps are a node's: every container only has them attached.
    programmed = len(world.nodes) if placement in ("socket", "tc") else sites
    again = 1 if WORKLOADS[trial.workload].filled else 3
    return sites * _SITE + programmed * services * _SERVICE * again


def pace(kernel: Kernel) -> float:
    """How many times as long everything takes on a kernel that nothing was run on before."""
    if kernel.accelerated:
        return 1.0
    return _EMULATED_COUNTING if kernel.clock == "instructions" else _EMULATED
