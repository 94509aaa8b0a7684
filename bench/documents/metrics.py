"""The metrics. A figure has one name from the load generator's output to the page.

A trial, a summary, a comparison, a tidy row, a rule of `--fail-on` and a curve all name a figure as it is named here.
Units, headings and directions are defined only here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Clock = Literal["wall", "instructions"]
Direction = Literal["higher", "lower"]

_ANY: tuple[Clock, ...] = ("wall", "instructions")
LATENCIES = "the load generator (bench/load): exact percentiles by its clock"
_RATE = "the load generator (bench/load): what succeeded per second of its clock"
_LOST = "the load generator (bench/load): a share of all that it tried"
_INSTRUCTIONS = "the guest's clock, which counts instructions, less the idle time in /proc/stat"
_CPU = "/proc/stat: the time in which a processor was not idle, in whole ticks"
_PROGRAMMED = "the clock of the kernel under test, around the data plane's own work"
_COLD = f"{_PROGRAMMED}, on a node that joins with as many containers as the client's node and all services"
_GAP = "the load generator (bench/load): the longest time between two answers to a container that uses no VIP"
_FOOTPRINT = "the data plane, of what it has programmed in the whole lab"
_MEMORY = "/proc/meminfo: SUnreclaim, VmallocUsed and Percpu; what the plane with all services adds to the whole lab"
_ENTRIES = "the kernel, over all namespaces of the lab"


class Metric(Struct, frozen=True):
    """A figure: its heading, unit, source and better direction, and the clocks by which it has a meaning."""

    title: str
    unit: str
    source: str
    better: Direction = "lower"
    clocks: tuple[Clock, ...] = _ANY

    def column(self) -> str:
        """Return the heading with the unit, unless it has it."""
        told = self.unit in self.title or self.unit in ("1/s", "instructions")
        return self.title if told else f"{self.title}, {self.unit}"

    def summary(self) -> str:
        """Return all of it in a line."""
        clocks = "" if self.clocks == _ANY else f", {' and '.join(self.clocks)} clock only"
        return f"{self.unit}, {self.better} is better{clocks}: {self.source}"


def _latency(of: str) -> dict[str, Metric]:
    return {f"{of}_{each}_us": Metric(f"{of} {each}", "µs", LATENCIES) for each in ("p50", "p90", "p99", "p99.9")}


def _cost(unit: str, short: str) -> dict[str, Metric]:
    return {
        f"instructions_per_{unit}": Metric(f"instr./{short}", "instructions", _INSTRUCTIONS, clocks=("instructions",)),
        f"cpu_us_per_{unit}": Metric(f"CPU µs/{short}", "µs", _CPU, clocks=("wall",)),
    }


def _gap(of: str, title: str) -> dict[str, Metric]:
    return {
        f"{of}_gap_ms": Metric(f"gap, {title}", "ms", _GAP, clocks=("wall",)),
        f"{of}_calm_ms": Metric(
            f"calm gap, {title}", "ms", f"{_GAP}; nothing is programmed for as long", clocks=("wall",)
        ),
    }


METRICS: dict[str, Metric] = {
    "connections_per_second": Metric("connections/s", "1/s", _RATE, "higher"),
    "transactions_per_second": Metric("transactions/s", "1/s", _RATE, "higher"),
    "exchanges_per_second": Metric("exchanges/s", "1/s", _RATE, "higher"),
    "megabits_per_second": Metric("Mbit/s", "Mbit/s", _RATE, "higher"),
    **_latency("connect"),
    **_latency("request"),
    **_latency("first"),
    **_latency("next"),
    **_cost("connection", "conn"),
    **_cost("transaction", "trans."),
    **_cost("exchange", "exch."),
    **_cost("kilobyte", "kB"),
    "lost_percent": Metric("lost", "%", _LOST),
    "stalled_percent": Metric("stalled > 1 s", "%", _LOST),
    "changes": Metric("changes", "changes", "the replicas that were added and removed meanwhile", "higher"),
    "retransmits": Metric("retransmits", "segments", "/proc/self/net/snmp: RetransSegs"),
    "install_ms": Metric("all at once", "ms", _PROGRAMMED),
    "add_service_ms": Metric("1 service more", "ms", _PROGRAMMED),
    "obey_ms": Metric("until it answers", "ms", f"{_PROGRAMMED}, until the VIP answers"),
    "remove_service_ms": Metric("1 service less", "ms", _PROGRAMMED),
    "add_backend_ms": Metric("1 backend more", "ms", _PROGRAMMED),
    "remove_backend_ms": Metric("1 backend less", "ms", _PROGRAMMED),
    "join_ms": Metric("1 container more", "ms", _PROGRAMMED),
    **_gap("install", "all at once"),
    **_gap("add_service", "1 service more"),
    "cold_start_ms": Metric("cold start of a node", "ms", _COLD),
    "objects": Metric("objects", "objects", _FOOTPRINT),
    "kernel_bytes": Metric("kernel memory", "B", _MEMORY, clocks=("instructions",)),
    "bytes": Metric("bytes", "B", f"{_FOOTPRINT}, as far as the kernel tells it; in documents of version 0.2.0"),
    "conntrack_entries": Metric("conntrack", "entries", f"{_ENTRIES}: net.netfilter.nf_conntrack_count"),
    "ipvs_entries": Metric("IPVS", "entries", f"{_ENTRIES}: /proc/net/ip_vs_conn"),
    "slab_bytes": Metric("slab", "B", f"{_ENTRIES}: connection entries by their size in /sys/kernel/slab"),
    "kthreads": Metric("IPVS kernel threads", "threads", "/proc: the kernel threads whose names begin with ipvs-"),
}


def units(names: Iterable[str]) -> dict[str, str]:
    """Return the units of the metrics among some names, in the registry's order."""
    wanted = set(names)
    return {name: each.unit for name, each in METRICS.items() if name in wanted}


def wrong(name: str, clock: str) -> str:
    """Return what is wrong with a figure of this name by this clock ("": any), or "" if nothing is."""
    if name not in METRICS:
        return "there is no such metric"
    return "" if clock in ("", *METRICS[name].clocks) else f"it has no meaning by the {clock} clock"
