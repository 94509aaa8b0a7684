"""One trial: a fresh lab, the plane programmed, reachability proven, the load run, everything taken down."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from bench import load
from bench.documents import Trial, TrialPlan
from dataplanes import catalog
from dataplanes.base import DataPlane
from dataplanes.errors import BenchError, KernelRefused, TimedOut
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.topology import Scenario, Task

_PROOF_PER_BACKEND = 2


def build(
    scenario: Scenario,
    selection: catalog.Selection,
    journal: Journal,
    *,
    cgroups_for: catalog.Selection | None = None,
    make: Callable[[Lab], DataPlane] | None = None,
) -> Lab:
    """The lab of a scenario with one plane on, every task serving; with cgroups if that or another plane needs them.

    `make` makes the plane, if it is not simply the selected one.
    """
    ids: dict[str, list[str]] = {}  # service -> its tasks in the order they came
    port = scenario.workload.port

    def server(task: Task) -> list[str]:
        known = ids.setdefault(task.service, [])
        known.append(task.name)
        task.number = len(known)
        return load.serve_argv(task.number, tcp=[port], udp=[port])

    plane = make or (lambda lab: catalog.make(selection, lab))
    return Lab(scenario, plane, journal=journal, server=server, cgroups=catalog.needs_cgroups(cgroups_for or selection))


def targets(lab: Lab, selection: catalog.Selection) -> list[str]:
    """Where the client connects: the VIP, or for `direct` every backend's own address in turn."""
    workload = lab.scenario.workload
    service = lab.service(workload.service)
    if selection.dataplane == catalog.DIRECT:
        return [f"{backend.address}:{workload.port}" for backend in service.backends]
    return [f"{service.vip}:{workload.port}"]


def run(scenario: Scenario, selection: catalog.Selection, plan: TrialPlan, clock: str) -> Trial:
    """Measure once. A plane that cannot reach its backends gets an error and no number."""
    trial = Trial(plan.dataplane, scenario.name, plan.workload, plan.round, plan.warmup, {})
    try:
        with Journal() as journal, build(scenario, selection, journal) as lab:
            _prove(lab, selection)
            trial.metrics = _metrics(_load(lab, selection, plan.connections, plan.concurrency), clock)
    except BenchError as error:
        trial.error = str(error)
    return trial


def _prove(lab: Lab, selection: catalog.Selection) -> None:
    backends = lab.service(lab.scenario.workload.service).backends
    result = _load(lab, selection, _PROOF_PER_BACKEND * len(backends), 1)
    failed = {name: count for name, count in result.errors.items() if count}
    if failed:
        raise KernelRefused(
            f"{sum(failed.values())} of {result.connections} connections failed",
            where=selection.name,
            why=", ".join(f"{count} {name}" for name, count in failed.items()),
            fix="no figure without reachability; look with `bench inspect`",
        )


def _load(lab: Lab, selection: catalog.Selection, connections: int, concurrency: int) -> load.LoadResult:
    warmup = connections // 10  # the program paged in, neighbours and routes resolved
    argv = load.load_argv(targets(lab, selection), connections=connections, concurrency=concurrency, warmup=warmup)
    client = lab.scenario.workload.client
    process = lab.spawn(client, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise TimedOut("the load generator did not end", where=f"{selection.name}, {client}") from error
    if process.returncode:
        raise KernelRefused("the load generator failed", where=f"{selection.name}, {client}", why=err.decode().strip())
    return load.parse(out)


def _metrics(result: load.LoadResult, clock: str) -> dict[str, Any]:
    seconds = result.elapsed_ns / 1e9
    metrics: dict[str, Any] = {
        "connections": result.ok,
        "connections_per_second": result.ok / seconds,
        "connect_us": _microseconds(result.connect_ns),
        "request_us": _microseconds(result.request_ns),
        "errors": {name: count for name, count in result.errors.items() if count},
        "backends": result.backends,
        "syn_retransmits": result.syn_retransmits,
        "elapsed_ns": result.elapsed_ns,
    }
    busy = sum(ns for name, ns in result.stat_ns.items() if name not in ("idle", "iowait"))
    if clock == "instructions":
        # One vCPU, one nanosecond per instruction: what was not idle was executed.
        idle = min(result.stat_ns.get("idle", 0) + result.stat_ns.get("iowait", 0), result.elapsed_ns)
        metrics["instructions_per_connection"] = (result.elapsed_ns - idle) / result.ok
    else:
        metrics["cpu_us_per_connection"] = busy / 1e3 / result.ok
    return metrics


def _microseconds(latencies: dict[str, float]) -> dict[str, float]:
    return {name: latencies[name] / 1e3 for name in ("p50", "p90", "p99", "p99.9")}
