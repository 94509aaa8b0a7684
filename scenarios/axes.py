"""The size of a scenario: the axes against which figures are drawn, and the scenario at one point of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from dataplanes.errors import Usage

CONCURRENCY = 16
FIRST_PORT, LAST_PORT = 32_768, 60_999
"""The client's ephemeral ports: the kernel's default (Documentation/networking/ip-sysctl.rst, ip_local_port_range)."""
USUAL_PORTS = LAST_PORT + 1 - FIRST_PORT


class Axes(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A point on the axes. 0 means the scenario's own value."""

    services: int = 0  # further services beside the scenario's own
    backends: int = 0  # backends of the called service and of every further service
    containers: int = 0  # further containers on every node
    nodes: int = 0  # nodes in all
    concurrency: int = CONCURRENCY  # connections that are open at the same time
    ports: int = 0  # the client's ephemeral ports; if there are few, each is soon used again
    sources: int = 0  # further addresses of the client, which connections use in turn

    def label(self) -> str:
        """Describe the axes that differ from the scenario's own values; "" if none does."""
        return ", ".join(
            words.format(value)
            for name, (words, _, _) in AXES.items()
            if (value := getattr(self, name)) != getattr(_ORIGIN, name)
        )


_ORIGIN = Axes()
AXES: dict[str, tuple[str, int, int]] = {
    "services": ("{:,} more services", 0, 50_000),
    "backends": ("{:,} backends", 0, 1_000),
    "containers": ("{:,} more containers per node", 0, 200),
    "nodes": ("{:,} nodes", 0, 100),
    "concurrency": ("{:,} at a time", 1, 10_000),
    "ports": ("{:,} client ports", 0, 64_000),
    "sources": ("{:,} more client addresses", 0, 250),
}
"""Axis -> its description, its least and its largest value."""


class Sweep(Struct, forbid_unknown_fields=True):
    """`[[sweep]]` of a scenario file: every combination of its axes' values, for these workloads (empty: all)."""

    services: tuple[int, ...] = (0,)
    backends: tuple[int, ...] = (0,)
    containers: tuple[int, ...] = (0,)
    nodes: tuple[int, ...] = (0,)
    concurrency: tuple[int, ...] = (CONCURRENCY,)
    ports: tuple[int, ...] = (0,)
    sources: tuple[int, ...] = (0,)
    workloads: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # data planes for which it would take too long; NAME@VARIANT is one programming
    only: tuple[str, ...] = ()  # the only data planes for which it would not
    rounds: int = 0  # the largest number of rounds, for points that take long; 0: as many as the run has

    def count(self) -> int:
        """Return the number of points."""
        return math.prod(len(getattr(self, name)) for name in AXES)

    def points(self) -> list[Axes]:
        """Return the points. The first axis changes slowest."""
        return [Axes(*values) for values in itertools.product(*(getattr(self, name) for name in AXES))]


def out_of_bounds(name: str, value: int) -> str:
    """Return what is wrong with a value of an axis, or "" if nothing is."""
    _, least, most = AXES[name]
    return "" if least <= value <= most else f"{value} is not between {least} and {most:,}"


POINTS = 500
"""The largest number of points in one run. A run of more points would take days."""


def wrong(sweep: Sweep) -> tuple[str, str] | None:
    """Return the first axis with wrong values, and what is wrong with them; or None."""
    for name in AXES:
        values = getattr(sweep, name)
        if not values:
            return name, "no value"
        if found := next(filter(None, (out_of_bounds(name, value) for value in values)), ""):
            return name, found
    count = sweep.count()
    return ("services", f"{count:,} points, more than {POINTS}") if count > POINTS else None


def grid(values: Mapping[str, Sequence[int]]) -> tuple[Axes, ...]:
    """Return every combination of some axes' values. Raises Usage for a value out of bounds, with its option."""
    sweep = msgspec.convert(values, Sweep)
    if found := wrong(sweep):
        raise Usage(f"--{found[0]}: {found[1]}")
    return tuple(sweep.points())


def parse(name: str, text: str) -> list[int]:
    """Parse the values of an option such as `--services 1,10`. Raises Usage."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[+-]?[0-9]{1,9}", part) for part in parts):
        raise Usage(f"--{name} {text!r:.60} is not a list of numbers")
    return [int(part) for part in parts]


def nodes_for(existing: Sequence[str], count: int) -> list[str]:
    """Return the scenario's nodes, and as many more as make `count`."""
    return [*existing, *(f"node{number + 1}" for number in range(len(existing), count))]
