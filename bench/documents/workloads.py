"""The workloads, and the metrics that describe each. bench.inside.measure runs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from bench.documents.metrics import METRICS
from dataplanes.errors import Prerequisite, Usage
from dataplanes.requirements import Tool
from scenarios.axes import AXES, USUAL_PORTS, Axes


class Workload(Struct, frozen=True):
    """A workload. `unit` is the name of one operation, and `primary` is the metric by which planes are compared."""

    summary: str
    title: str
    primary: str
    columns: tuple[str, ...]
    unit: str = "connection"
    needs_vip: bool = False  # it needs a plane, so `direct` does not run it
    filled: bool = True  # filler services exist before it begins
    tools: tuple[Tool, ...] = ()
    # The client's ports that each connection occupies for a minute: closed by FIN, it is in TIME_WAIT.
    ports: float = 0
    spread: bool = False  # it uses all addresses of the client
    own_addresses: bool = False  # it calls the backends' own addresses, on any plane
    processors: int = 1  # those that it needs at the same time

    @property
    def of_programming(self) -> bool:
        """Whether programming itself is measured. Its figures count what is executed (scenarios/stopwatch.py)."""
        return not self.filled

    @property
    def costs(self) -> tuple[str, str]:
        """The metrics of one operation's cost: by the instruction clock, and by the wall clock."""
        return f"instructions_per_{self.unit}", f"cpu_us_per_{self.unit}"

    def cost(self, clock: str) -> str:
        """Return the metric of an operation's cost by this clock."""
        return next(name for name in self.costs if clock in METRICS[name].clocks)

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that a table has columns for. Of the two costs it shows the one that was measured."""
        return self.primary, *self.columns, *self.costs


WORKLOADS: dict[str, Workload] = {
    "crr": Workload(
        "connect, 1-byte request, 1-byte reply, close",
        "connect / request / reply / close",
        "connections_per_second",
        ("connect_p50_us", "connect_p99_us"),
        ports=1.1,  # including its warm-up
        spread=True,
    ),
    "crr-rst": Workload(
        "as crr, closed by reset: no TIME_WAIT at the client, ports are used again",
        "connect / request / reply / reset",
        "connections_per_second",
        ("connect_p50_us", "connect_p99_us"),
        spread=True,
    ),
    "open": Workload(
        "as crr, at half the rate that it reached; latencies count from the time at which a connection was due",
        "connections at half the closed loop's rate",
        "connect_p50_us",
        ("connect_p99_us", "connect_p99.9_us"),
        ports=1.375,  # including the connections that it tries before
        spread=True,
    ),
    "rr": Workload(
        "1-byte requests and replies on connections that stay",
        "requests on long-lived connections",
        "transactions_per_second",
        ("request_p50_us", "request_p99_us"),
        "transaction",
        spread=True,
    ),
    "udp": Workload(
        "requests and replies by datagrams in flows that stay, with those that are lost, late or refused",
        "UDP requests and replies",
        "exchanges_per_second",
        ("next_p50_us", "next_p99_us", "lost_percent"),
        "exchange",
    ),
    "first": Workload(
        "the first datagram of a new UDP flow against the next one, which shows the cost of a new connection",
        "UDP, a new flow each time, one at a time",
        "first_p50_us",
        ("first_p99_us", "next_p50_us", "next_p99_us"),
        "exchange",
    ),
    "stream": Workload(
        "bytes through one connection to a service with one backend on another node",
        "bulk transfer to another node",
        "megabits_per_second",
        ("retransmits",),
        "kilobyte",
    ),
    "churn": Workload(
        "connections at a steady rate while replicas are added and removed, with those that are lost or stalled",
        "connections while replicas are added and removed",
        "connections_per_second",
        ("lost_percent", "stalled_percent", "changes", "connect_p99_us"),
        needs_vip=True,
        ports=1,
    ),
    "others": Workload(
        "crr to the backends' own addresses while the plane is on, which shows its cost for other connections",
        "connections to a backend's own address, the plane on",
        "connections_per_second",
        ("connect_p50_us", "connect_p99_us"),
        ports=1.1,
        spread=True,
        own_addresses=True,
    ),
    "program": Workload(
        "time to program all services at once, one more service, backend or container, and a node that comes up",
        "time to program, ms",
        "install_ms",
        (
            "add_service_ms",
            "obey_ms",
            "remove_service_ms",
            "add_backend_ms",
            "remove_backend_ms",
            "join_ms",
            "cold_start_ms",
            "kernel_bytes",
            "objects",
        ),
        needs_vip=True,
        filled=False,
    ),
    "gap": Workload(
        "the longest gap in the packets of containers that use no VIP, while services are programmed",
        "longest gap between two answers to others while services are programmed, ms",
        "install_gap_ms",
        ("install_calm_ms", "add_service_gap_ms", "add_service_calm_ms", "install_ms", "add_service_ms"),
        needs_vip=True,
        filled=False,
        processors=2,
    ),
    "wrk": Workload(
        "crr by wrk and nginx, as a check of the generator",
        "a connection per request, by wrk to nginx",
        "connections_per_second",
        (),
        needs_vip=True,
        tools=(
            Tool("wrk", "wrk", "the other generator"),
            Tool("nginx", "nginx-light", "the other server"),
        ),
    ),
}


def demand_ports(name: str, connections: int, at: Axes, targets: int) -> None:
    """Raise Usage if the client has fewer ports than a trial needs. The message tells what would work.

    `targets`: addresses that connections go to in turn; each is another set of ports.
    """
    workload, ports = WORKLOADS[name], at.ports or USUAL_PORTS
    sets = (1 + at.sources if workload.spread else 1) * targets
    needed = math.ceil(workload.ports * connections / sets)
    if needed > ports:
        least = max(int(ports * sets / workload.ports), 1)
        sources = math.ceil(workload.ports * connections / ports / targets) - 1
        ways = [f"--connections {least}"]
        ways += [f"--ports {needed}"] if needed <= AXES["ports"][2] else []
        ways += [f"--sources {sources}"] if workload.spread and sources <= AXES["sources"][2] else []
        ways += ["--workload crr-rst"] if name == "crr" else []
        raise Usage(
            f"{ports:,} client ports are too few for {connections:,} connections",
            where=name,
            why=f"each is closed by FIN, and its port then rests for a minute: {needed:,} are needed",
            fix=" or ".join(ways),
        )
    if at.concurrency > ports * sets:
        raise Usage(
            f"{ports:,} client ports are too few for {at.concurrency:,} connections at a time",
            where=name,
            fix=f"--ports {at.concurrency} or --concurrency {ports}",
        )


def demand_processors(names: Iterable[str], kernel: str, accelerated: bool) -> None:
    """Raise Prerequisite if a workload needs processors that run at the same time, and the kernel has only one."""
    for name in names:
        if WORKLOADS[name].processors > 1 and not accelerated:
            raise Prerequisite(
                f"{name} needs two processors that run at the same time",
                where=kernel,
                why="QEMU lets those of an emulated guest run in turn, each for up to 0.1 s",
                fix="--kernel host, or a guest with KVM",
            )


def parse(text: str | None, swept: Sequence[str] = ()) -> Sequence[str]:
    """Return the names in a `--workload` value, which may be `all`: those that every kernel can run.

    The default is those of a sweep, or crr. Raises Usage.
    """
    if text == "all":
        return [name for name, each in WORKLOADS.items() if not each.tools and each.processors == 1]
    names = list(swept) or ["crr"]
    if text is not None:
        names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown or not names:
        raise Usage(f"unknown workload {', '.join(unknown) or text!r}", fix=f"there are: {', '.join(WORKLOADS)}")
    return list(dict.fromkeys(names))
