"""The workloads that send packets: `vipload` in the client's container, and the kernel's counters meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import msgspec

from bench import load
from bench.documents import Figures, TrialPlan, Work
from bench.documents.workloads import WORKLOADS
from bench.load import Counted, DatagramResult, LoadResult, StreamResult
from dataplanes.errors import KernelRefused
from dataplanes.selection import Selection, balances
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec, Task

FiguresAndWork = tuple[Figures, Work]
"""The result of a workload's function: the figures, and the work that was done."""
_WARMUP_SHARE = 10  # a tenth: it pages in the program, and resolves neighbours and routes
_REQUESTS_PER_CONNECTION = 5  # rr makes this many requests for each connection of crr
_BYTES_PER_CONNECTION = 16 << 10  # stream sends this many bytes for each connection of crr


def targets(testbed: Testbed, selection: Selection) -> list[str]:
    """Return the client's targets: the VIP, or on a plane without VIPs every backend's own address in turn."""
    return [_vip(testbed, testbed.scenario.traffic.service)] if balances(selection.dataplane) else own(testbed)


def own(testbed: Testbed) -> list[str]:
    """Return every backend's own address."""
    traffic = testbed.scenario.traffic
    return [f"{backend.address}:{traffic.port}" for backend in testbed.service(traffic.service).backends]


def _vip(testbed: Testbed, service: str) -> str:
    return f"{testbed.service(service).vip}:{testbed.scenario.traffic.port}"


def start(testbed: Testbed, command: str, to: list[str], **options: int | str) -> subprocess.Popen[bytes]:
    """Start a client in the scenario's calling container."""
    argv = load.argv(command, to, **options)
    return testbed.spawn(testbed.scenario.traffic.client, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(testbed: Testbed, process: subprocess.Popen[bytes]) -> bytes:
    """Return the client's output. Raises KernelRefused if the client failed."""
    out, err = process.communicate()  # there is no time-out here: the client itself gives up on a connection
    if process.returncode:
        where = f"{testbed.scenario.traffic.client}: vipload"
        raise KernelRefused("the load generator failed", where=where, why=err.decode().strip())
    return out


def _carried(testbed: Testbed, command: str, to: list[str], **options: int | str) -> bytes:
    """Return the output of a client while which nothing changes."""
    with testbed.at_rest():
        return finish(testbed, start(testbed, command, to, **options))


def connect(testbed: Testbed, to: list[str], connections: int, concurrency: int, **options: int | str) -> LoadResult:
    """Make connections, in turn from all addresses that the client has on the network."""
    client = testbed.containers[testbed.scenario.traffic.client]
    if client.aliases:
        options["sources"] = ",".join((client.endpoints[0].address, *client.aliases))
    warmup = connections // _WARMUP_SHARE
    sizes = {"connections": connections, "concurrency": concurrency, "warmup": warmup}
    return msgspec.json.decode(_carried(testbed, "load", to, **sizes, **options), type=LoadResult)


def crr(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure connect, 1-byte request, 1-byte reply, close."""
    return connections(connect(testbed, targets(testbed, selection), plan.connections, plan.axes.concurrency), clock)


def crr_rst(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure the same as `crr`, with connections that are closed by reset."""
    to = targets(testbed, selection)
    return connections(connect(testbed, to, plan.connections, plan.axes.concurrency, close="rst"), clock)


def others(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure connections to the backends' own addresses while the plane is on."""
    return connections(connect(testbed, own(testbed), plan.connections, plan.axes.concurrency), clock)


def open_loop(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure latencies at half the rate that the closed loop reaches, which a first run finds."""
    to = targets(testbed, selection)
    tried = connect(testbed, to, max(plan.connections // 4, 1), plan.axes.concurrency)
    if not tried.ok:
        raise none_succeeded("open", selection.name, tried.errors)
    rate = max(int(tried.ok / (tried.elapsed_ns / 1e9) / 2), 1)
    result = connect(testbed, to, plan.connections, max(plan.axes.concurrency, 1024), rate=rate)
    return connections(result, clock, rate)


def none_succeeded(workload: str, plane: str, errors: Mapping[str, int]) -> KernelRefused:
    """Return the error of a run in which nothing succeeded, because a figure of 0 would be wrong."""
    counts = ", ".join(f"{count} {name}" for name, count in errors.items() if count)
    return KernelRefused(f"not one {WORKLOADS[workload].unit} succeeded", where=f"{plane}, {workload}", why=counts)


def connections(result: LoadResult, clock: str, rate: int | None = None) -> FiguresAndWork:
    """Return the figures of connections.

    `rate` is the number that was asked for per second, if it was a steady rate.
    """
    figures = {
        "connections_per_second": result.ok / (result.elapsed_ns / 1e9),
        **result.figures,
        "stalled_percent": 100 * result.stalled / result.connections,
        "lost_percent": 100 * (1 - result.ok / result.connections),
        **_cost(result, result.ok, "crr", clock),
    }
    return figures, _work(result, result.ok, clock, result.errors, result.backends, rate)


def rr(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure requests on connections that stay."""
    flows = plan.axes.concurrency
    each = max(plan.connections * _REQUESTS_PER_CONNECTION // flows, 1)
    result = connect(testbed, targets(testbed, selection), flows, flows, requests=each)
    figures = {
        "transactions_per_second": result.requests / (result.elapsed_ns / 1e9),
        **{
            name: value for name, value in result.figures.items() if name.startswith("request_")
        },  # the rest is connects
        **_cost(result, result.requests, "rr", clock),
    }
    return figures, _work(result, result.requests, clock, result.errors, result.backends)


def udp(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure requests and replies by datagrams in flows that stay."""
    return _datagrams(testbed, selection, "udp", 2 * plan.connections, plan.axes.concurrency, clock)


def first(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure the first and the second datagram of new flows, one flow at a time."""
    return _datagrams(testbed, selection, "first", plan.connections, 1, clock, fresh=1)


def _datagrams(
    testbed: Testbed, selection: Selection, name: str, exchanges: int, flows: int, clock: str, **options: int
) -> FiguresAndWork:
    sizes = {"exchanges": exchanges, "concurrency": flows, "warmup": max(exchanges // _WARMUP_SHARE, flows)}
    out = _carried(testbed, "udp", targets(testbed, selection), **sizes, **options)
    result = msgspec.json.decode(out, type=DatagramResult)
    counts = {"lost": result.lost, "late": result.late, "refused": result.refused}
    figures = {
        "exchanges_per_second": result.ok / (result.elapsed_ns / 1e9),
        **result.figures,
        "lost_percent": 100 * result.lost / result.exchanges,
        **_cost(result, result.ok, name, clock),
    }
    return figures, _work(result, result.ok, clock, counts, result.backends)


def stream(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure the transfer to a service with one backend, which is on another node than the client."""
    traffic = testbed.scenario.traffic
    away = next(n for n in (*testbed.scenario.nodes,) if n != testbed.containers[traffic.client].task.node)
    spec = ServiceSpec("sink", testbed.service(traffic.service).network, tasks=[Task("sink.1", away)])
    testbed.create_service(spec)
    testbed.settled()
    to = _vip(testbed, "sink") if balances(selection.dataplane) else f"{spec.tasks[0].address}:{traffic.port}"
    moved = plan.connections * _BYTES_PER_CONNECTION
    result = msgspec.json.decode(_carried(testbed, "stream", [to], bytes=moved), type=StreamResult)
    figures = {
        "megabits_per_second": result.bytes * 8e3 / result.elapsed_ns,
        "retransmits": result.retransmits,
        **_cost(result, result.bytes // 1000, "stream", clock),
    }
    return figures, _work(result, result.bytes // 1000, clock, {}, {"1": 1})


def _work(
    result: Counted,
    operations: int,
    clock: str,
    errors: Mapping[str, int],
    backends: dict[str, int],
    rate: int | None = None,
) -> Work:
    return Work(
        operations=operations,
        elapsed_ns=result.elapsed_ns,
        asked_per_second=rate,
        syn_retransmits=result.syn_retransmits,
        generator_share=sum(result.cpu_ns.values()) / result.elapsed_ns if clock == "wall" else None,
        errors={name: count for name, count in errors.items() if count},
        backends=backends,
    )


def _cost(result: Counted, operations: int, workload: str, clock: str) -> Figures:
    """Return the cost of one operation for the whole machine: both ends and everything between them."""
    return cost_of(result.elapsed_ns, result.stat_ns, operations, workload, clock)


def cost_of(elapsed_ns: int, states_ns: dict[str, int], operations: int, workload: str, clock: str) -> Figures:
    """Return instructions or microseconds of CPU time per operation, from the time that was not idle."""
    if not operations:
        return {}
    metric = WORKLOADS[workload].cost(clock)
    if clock == "instructions":
        # There is one vCPU, and one nanosecond per instruction, so the time that was not idle was executed.
        idle = min(states_ns.get("idle", 0) + states_ns.get("iowait", 0), elapsed_ns)
        return {metric: (elapsed_ns - idle) / operations}
    busy = sum(ns for name, ns in states_ns.items() if name not in ("idle", "iowait"))
    return {metric: busy / 1e3 / operations}
