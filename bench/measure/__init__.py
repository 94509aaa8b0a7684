"""How each workload of bench.workloads is measured in a lab: one function each, figures with their unit in the name."""

from __future__ import annotations

import glob
from collections.abc import Callable
from contextlib import suppress

from bench.documents import TrialPlan
from bench.measure import traffic
from bench.measure.churn import churn
from bench.measure.programming import program
from bench.measure.traffic import Metrics
from bench.measure.wrk import wrk
from dataplanes import catalog
from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns
from scenarios.lab import Lab

_PROOF_PER_BACKEND = 2
_SLABS = ("ip_vs_conn", "nf_conntrack")

MEASURES: dict[str, Callable[[Lab, catalog.Selection, TrialPlan, str], Metrics]] = {
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
    "wrk": wrk,
}


def prove(lab: Lab, selection: catalog.Selection) -> None:
    """Every backend must answer, or there is no figure. Raises KernelRefused."""
    backends = lab.service(lab.scenario.workload.service).backends
    result = traffic.connect(lab, traffic.targets(lab, selection), _PROOF_PER_BACKEND * len(backends), 1)
    failed = {name: count for name, count in result.errors.items() if count}
    if failed:
        raise KernelRefused(
            f"{sum(failed.values())} of {result.connections} connections failed",
            where=selection.name,
            why=", ".join(f"{count} {name}" for name, count in failed.items()),
            fix="no figure without reachability; look with `bench inspect`",
        )


def measure(lab: Lab, selection: catalog.Selection, plan: TrialPlan, clock: str) -> Metrics:
    """Run a trial's workload in its lab, and see what it leaves in the kernel."""
    metrics = {"install_ms": lab.applied.by(clock)} | MEASURES[plan.workload](lab, selection, plan, clock)
    return metrics | _state(lab)


def _state(lab: Lab) -> Metrics:
    """Connection entries in all the lab's namespaces; everywhere, the memory of such entries and IPVS's threads."""
    entries = 0
    for _, _, name in lab.namespaces():
        with netns.inside(name):
            for path in glob.glob("/proc/sys/net/netfilter/nf_conntrack_count"):
                with open(path, encoding="ascii") as file:
                    entries += int(file.read())
    return {"conntrack_entries": entries, "slab_bytes": _slab_bytes(), "kthreads": _kthreads()}


def _kthreads() -> int:
    """IPVS's kernel threads: since Linux 6.2 one and more per namespace with services (ip_vs_est.c)."""
    total = 0
    for path in glob.glob("/proc/[0-9]*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError), open(path, encoding="ascii", errors="replace") as file:
            total += file.read().startswith("ipvs-")
    return total


def _slab_bytes() -> int:
    """Bytes of active objects of the caches connections are kept in (proc_slabinfo(5)); 0 where they are merged."""
    total = 0
    with open("/proc/slabinfo", encoding="ascii") as file:
        for line in file:
            fields = line.split()
            if fields[0] in _SLABS:
                total += int(fields[1]) * int(fields[3])
    return total
