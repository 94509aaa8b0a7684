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
from dataplanes.errors import KernelRefused
from dataplanes.selection import Selection
from scenarios.lab import Lab

_PROOF_PER_BACKEND = 2

MEASURES: dict[str, Callable[[Lab, Selection, TrialPlan, str], FiguresAndWork]] = {
    "crr": traffic.crr,
    "crr-rst": traffic.crr_rst,
    "open": traffic.open_loop,
    "rr": traffic.rr,
    "udp": traffic.udp,
    "first": traffic.first,
    "stream": traffic.stream,
    "churn": churn,
    "others": traffic.others,
    "program": program,
    "gap": gap,
    "wrk": wrk,
}


def prove(lab: Lab, selection: Selection) -> None:
    """Demand that every backend answers, because there is no figure otherwise. Raises KernelRefused."""
    backends = lab.service(lab.scenario.traffic.service).backends
    result = traffic.connect(lab, traffic.targets(lab, selection), _PROOF_PER_BACKEND * len(backends), 1)
    failed = {name: count for name, count in result.errors.items() if count}
    if failed:
        raise KernelRefused(
            f"{sum(failed.values())} of {result.connections} connections failed",
            where=selection.name,
            why=", ".join(f"{count} {name}" for name, count in failed.items()),
            fix="no figure without reachability; look with `bench inspect`",
        )


def measure(lab: Lab, selection: Selection, plan: TrialPlan, clock: str) -> tuple[Figures, Work, list[Held]]:
    """Run a trial's workload in its lab, and collect the kernel state that it leaves.

    Raises KernelRefused if nothing succeeded, because a figure of 0 would be wrong.
    """
    figures, work = MEASURES[plan.workload](lab, selection, plan, clock)
    if work.operations == 0:
        raise traffic.none_succeeded(plan.workload, selection.name, work.errors)
    held = state.held(lab)
    return {"install_ms": lab.applied.by(clock)} | figures | state.sums(held), work, held
