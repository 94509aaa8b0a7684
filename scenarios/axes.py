"""How large the world is: the axes figures are drawn against, and the scenario at one point of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from dataplanes.errors import Usage

CONCURRENCY = 16
FIRST_PORT, LAST_PORT = 32_768, 60_999
"""The client's ephemeral ports, the kernel's default (Documentation/networking/ip-sysctl.rst, ip_local_port_range)."""
USUAL_PORTS = LAST_PORT + 1 - FIRST_PORT


class Axes(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A point on the axes; 0 means what the scenario has."""

    services: int = 0  # further services, beside the scenario's own
    backends: int = 0  # of the workload's service, and of every further one
    containers: int = 0  # further containers on every node
    nodes: int = 0  # in all
    concurrency: int = CONCURRENCY  # connections at a time
    ports: int = 0  # the client's ephemeral ports; with few, each is soon used again
    sources: int = 0  # further addresses of the client; connections come from all in turn

    def label(self) -> str:
        """What is unusual at this point, in words; nothing if all is the scenario's own."""
        return ", ".join(
            words.format(value)
            for name, (words, _, _) in AXES.items()
            if (value := getattr(self, name)) != getattr(_ORIGIN, name)
        )


_ORIGIN = Axes()
AXES: dict[str, tuple[str, int, int]] = {
    "services": ("{:,} more services", 0, 20_000),
    "backends": ("{:,} backends", 0, 250),
    "containers": ("{:,} more containers per node", 0, 200),
    "nodes": ("{:,} nodes", 0, 100),
    "concurrency": ("{:,} at a time", 1, 10_000),
    "ports": ("{:,} client ports", 0, 64_000),
    "sources": ("{:,} more client addresses", 0, 250),
}
"""Per axis: how it is told, its least and its most."""


class Sweep(Struct, forbid_unknown_fields=True):
    """`[[sweep]]` of a scenario file: every combination of the values of its axes, for these workloads (all: any)."""

    services: tuple[int, ...] = (0,)
    backends: tuple[int, ...] = (0,)
    containers: tuple[int, ...] = (0,)
    nodes: tuple[int, ...] = (0,)
    concurrency: tuple[int, ...] = (CONCURRENCY,)
    ports: tuple[int, ...] = (0,)
    sources: tuple[int, ...] = (0,)
    workloads: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # data planes it would take out of all reason

    def points(self) -> list[Axes]:
        """The points, the first axis slowest."""
        return [Axes(*values) for values in itertools.product(*(getattr(self, name) for name in AXES))]


def wrong(sweep: Sweep) -> tuple[str, str] | None:
    """(axis, what is wrong with its values), or None."""
    for name, (_, least, most) in AXES.items():
        values = getattr(sweep, name)
        if not values:
            return name, "no value"
        for value in values:
            if not least <= value <= most:
                return name, f"{value} is not between {least} and {most:,}"
    return None


def grid(values: Mapping[str, Sequence[int]]) -> tuple[Axes, ...]:
    """Every combination of some axes' values. Raises Usage for a value out of bounds, naming its option."""
    sweep = msgspec.convert(values, Sweep)
    if found := wrong(sweep):
        raise Usage(f"--{found[0]}: {found[1]}")
    return tuple(sweep.points())


def parse(name: str, text: str) -> list[int]:
    """The values of `--services 1,10`. Raises Usage."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise Usage(f"--{name} {text!r} is not a list of numbers") from error


def nodes_for(existing: Sequence[str], count: int) -> list[str]:
    """The scenario's nodes and as many more as make `count`."""
    return [*existing, *(f"node{number + 1}" for number in range(len(existing), count))]
