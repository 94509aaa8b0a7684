"""What is measured in a lab: one function per workload. A figure is a number with its unit in its name."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from bench import load
from bench.documents import TrialPlan
from dataplanes import catalog
from dataplanes.errors import KernelRefused, Usage
from dataplanes.model import Service
from scenarios.lab import Lab
from scenarios.topology import ServiceSpec, Task

Metrics = dict[str, Any]
_PROOF_PER_BACKEND = 2


class Workload(Struct, frozen=True):
    """A workload: what it is, how it is measured, whether the services that make up the number are there before."""

    summary: str
    measure: Callable[[Lab, catalog.Selection, TrialPlan, str], Metrics]
    filled: bool = True


def prove(lab: Lab, selection: catalog.Selection) -> None:
    """Every backend must answer, or there is no figure. Raises KernelRefused."""
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


def _targets(lab: Lab, selection: catalog.Selection) -> list[str]:
    """Where the client connects: the VIP, or for `direct` every backend's own address in turn."""
    workload = lab.scenario.workload
    service = lab.service(workload.service)
    if selection.dataplane == catalog.DIRECT:
        return [f"{backend.address}:{workload.port}" for backend in service.backends]
    return [f"{service.vip}:{workload.port}"]


def _load(lab: Lab, selection: catalog.Selection, connections: int, concurrency: int) -> load.LoadResult:
    warmup = connections // 10  # the program paged in, neighbours and routes resolved
    argv = load.load_argv(_targets(lab, selection), connections=connections, concurrency=concurrency, warmup=warmup)
    client = lab.scenario.workload.client
    process = lab.spawn(client, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()  # it gives up on a connection by itself
    if process.returncode:
        raise KernelRefused("the load generator failed", where=f"{selection.name}, {client}", why=err.decode().strip())
    return load.parse(out)


def crr(lab: Lab, selection: catalog.Selection, plan: TrialPlan, clock: str) -> Metrics:
    """Connect, 1-byte request, 1-byte reply, close."""
    result = _load(lab, selection, plan.connections, plan.axes.concurrency)
    seconds = result.elapsed_ns / 1e9
    metrics: Metrics = {
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


def program(lab: Lab, selection: catalog.Selection, plan: TrialPlan, clock: str) -> Metrics:
    """What changes cost at size: all services at once, then one service, one backend, one container more or less."""
    plane = lab.plane
    assert plane
    services = lab.fillers(plan.axes.services, plan.axes.backends or 3)
    one, rest = services[-1], services[:-1]
    fewer = Service(one.name, one.network, one.vip, one.backends[:-1])
    spec = ServiceSpec("newcomer", one.network, tasks=[Task("newcomer.1", lab.scenario.nodes[-1])])
    metrics: Metrics = {
        "install_ms": _milliseconds(lambda: plane.apply(rest)),
        "add_service_ms": _milliseconds(lambda: plane.apply([one])),
        "remove_backend_ms": _milliseconds(lambda: plane.apply([fewer])),
        "add_backend_ms": _milliseconds(lambda: plane.apply([one])),
        "remove_service_ms": _milliseconds(lambda: plane.remove([one])),
    }
    metrics["join_ms"] = _joining(lab, spec)
    held = plane.footprint()
    metrics["objects"] = sum(each.objects for each in held)
    metrics["bytes"] = sum(each.bytes or 0 for each in held)
    metrics["errors"], metrics["backends"] = {}, {}
    return metrics


def _joining(lab: Lab, spec: ServiceSpec) -> float:
    """What the plane does when a container joins: the container itself is not the plane's work."""
    plane = lab.plane
    assert plane
    taken: list[float] = []
    original = plane.add_endpoint

    def timed(endpoint: Any) -> None:
        taken.append(_milliseconds(lambda: original(endpoint)))

    plane.add_endpoint = timed  # type: ignore[method-assign]
    try:
        lab.create_service(spec)
    finally:
        del plane.add_endpoint
    return sum(taken)


def _milliseconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return (time.monotonic() - begun) * 1e3


WORKLOADS: dict[str, Workload] = {
    "crr": Workload("connect, 1-byte request, 1-byte reply, close", crr),
    "program": Workload(
        "time to program all services at once, and one service, backend, container more", program, False
    ),
}


def parse(text: str | None, swept: Sequence[str] = ()) -> Sequence[str]:
    """The names of a `--workload` value; by default what a sweep asks for, or crr. Raises Usage."""
    names = list(swept) or ["crr"]
    if text is not None:
        names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown or not names:
        raise Usage(f"unknown workload {', '.join(unknown) or text!r}", fix=f"there are: {', '.join(WORKLOADS)}")
    return list(dict.fromkeys(names))
