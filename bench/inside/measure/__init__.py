"""Measure each workload in a lab: one function per workload, and figures by their metrics' names."""

from __future__ import annotations

from collections.abc import Callable

from bench.documents import Figures, Held, TrialPlan, Work
from bench.inside.measure import state, traffic
from bench.inside.measure.churn import churn
from bench.inside.measure.gap import gap
from bench.inside.measure.programming import program
from bench.inside.measure.traffic import FiguresAndWork
from bench.inside.measure.wrk import wrk
from dataplanes import platforms
from dataplanes.errors import KernelRefused, NotApplicable
from dataplanes.selection import Selection
from scenarios.lab import Lab
from scenarios.testbed import Testbed

_PROOF_PER_BACKEND = 2

TRAFFIC: dict[str, Callable[[Testbed, Selection, TrialPlan, str], FiguresAndWork]] = {
    "crr": traffic.crr,
    "crr-rst": traffic.crr_rst,
    "open": traffic.open_loop,
    "rr": traffic.rr,
    "udp": traffic.udp,
    "first": traffic.first,
    "stream": traffic.stream,
    "churn": churn,
    "others": traffic.others,
    "wrk": wrk,
}
"""The workloads that any testbed can carry."""
PROGRAMMING: dict[str, Callable[[Lab, Selection, TrialPlan, str], FiguresAndWork]] = {"program": program, "gap": gap}
"""The workloads that program a data plane, which only a lab has."""


def prove(testbed: Testbed, selection: Selection) -> None:
    """Demand that every backend answers, because there is no figure otherwise. Raises KernelRefused."""
    backends = testbed.service(testbed.scenario.traffic.service).backends
    result = traffic.connect(testbed, traffic.targets(testbed, selection), _PROOF_PER_BACKEND * len(backends), 1)
    failed = {name: count for name, count in result.errors.items() if count}
    if failed:
        raise KernelRefused(
            f"{sum(failed.values())} of {result.connections} connections failed",
            where=selection.name,
            why=", ".join(f"{count} {name}" for name, count in failed.items()),
            fix="no figure without reachability; look with `bench inspect`",
        )


def measure(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> tuple[Figures, Work, list[Held]]:
    """Run a trial's workload on its testbed, and collect the kernel state that it leaves.

    Raises KernelRefused if nothing succeeded, because a figure of 0 would be wrong.
    """
    figures, work = _act(testbed, selection, plan, clock)
    if work.operations == 0:
        raise traffic.none_succeeded(plan.workload, selection.name, work.errors)
    held = state.held(testbed)
    installed = {"install_ms": testbed.applied.by(clock)} if isinstance(testbed, Lab) else {}
    return installed | figures | state.sums(held), work, held


def _act(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    if plan.workload in TRAFFIC:
        return TRAFFIC[plan.workload](testbed, selection, plan, clock)
    if isinstance(testbed, Lab) and platforms.of(selection) is None:
        return PROGRAMMING[plan.workload](testbed, selection, plan, clock)
    raise NotApplicable("it programs a data plane, and this testbed programs itself", where=plan.workload)
