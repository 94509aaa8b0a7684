"""Estimate how long a trial takes from the size of its world. The plan and the progress bar use the estimate.

The constants are seconds. They were fitted to trials on the host's kernel (6.18, two busy processors). Elsewhere all of
them are longer by about the same factor, which is the run's pace.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.documents import TrialPlan
from bench.documents.workloads import WORKLOADS
from bench.kernels import Kernel
from dataplanes.selection import Selection, balances
from scenarios.topology import Scenario

_LAB = 0.2  # the underlay, names, the generator
_NODE = 0.05
_TASK = 0.025  # a container that serves
_IDLER = 0.008  # a container that does nothing
_SITE = 0.03  # a plane, where it is programmed: in every container, or once per node
_SERVICE = 0.00025  # one site of a plane
_BACKEND = 1 / 30  # the services on which programming one more costs as much as the service itself
_CONNECTION = 1 / 8000
_COSTS: Mapping[str, float] = {"open": 1.6, "rr": 0.7, "udp": 0.5, "stream": 0.3}
"""The duration of one operation, in connections, for workloads with another operation."""
_CHURN = 5.0
"""The seconds over which `churn` spreads its connections."""
_PROFILED = 3.0
"""A profiled trial measures twice, and runs bcc's compiler in between."""

_EMULATED, _EMULATED_COUNTING = 6.0, 5.5
"""The factor by which everything takes longer under emulation, by wall clock and by the instruction clock."""

_IN_CONTAINERS = ("container", "socket", "tc")
"""The placements that are programmed once per container."""


def seconds(trial: TrialPlan, plane: Selection, world: Scenario) -> float:
    """Estimate the seconds that a trial of a plane takes on the host's kernel."""
    tasks = sum(1 for _ in world.tasks())
    idlers = len(world.idlers)
    built = _LAB + _NODE * len(world.nodes) + _TASK * tasks + _IDLER * idlers
    measured = _CONNECTION * trial.connections * _COSTS.get(trial.workload, 1.0)
    measured += _CHURN if trial.workload == "churn" and not trial.warmup else 0
    return (built + _programmed(trial, plane, world, tasks + idlers) + measured) * (_PROFILED if trial.profile else 1)


def _programmed(trial: TrialPlan, plane: Selection, world: Scenario, containers: int) -> float:
    if not balances(plane.dataplane):
        return 0
    sites = containers if plane.placement in _IN_CONTAINERS else len(world.nodes) * len(world.networks)
    fillers = (world.filler.count, world.filler.backends) if world.filler else (0, 0)
    services = len(world.services) + fillers[0] * (1 + fillers[1] * _BACKEND)
    # Programs and maps belong to a node. A container only has them attached.
    programmed = len(world.nodes) if plane.placement in ("socket", "tc") else sites
    again = 1 if WORKLOADS[trial.workload].filled else 3
    return sites * _SITE + programmed * services * _SERVICE * again


def pace(kernel: Kernel) -> float:
    """Guess the factor by which a trial takes longer on a kernel, as long as no run there has told it."""
    if kernel.accelerated:
        return 1.0
    return _EMULATED_COUNTING if kernel.clock == "instructions" else _EMULATED
