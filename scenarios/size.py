"""Bounds for the size of a scenario, checked before anything is created. Errors say what would fit."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from scenarios.axes import AXES, Axes

if TYPE_CHECKING:
    from scenarios.topology import Scenario, ServiceSpec

_NETWORKS = 64
_SERVICES = 1000
"""The largest number of services with tasks of their own. A filler's services come on top."""
_CONTAINERS = 2000
"""The largest number of containers on all nodes. A container needs a namespace, two links and a server process."""
_RESERVED = 3
"""The number of addresses in a subnet that no container gets: the first, the bridge's and the last."""


def too_large(scenario: Scenario, at: Axes) -> tuple[str, str] | None:
    """Return the first field that asks for too much, and why it is too much; or None."""
    for number, service in enumerate(scenario.services):
        if wrong := _outside("backends", service.replicas):
            return f"services[{number}].replicas", wrong
        if wrong := _outside("backends", len(service.tasks)):
            return f"services[{number}].tasks", f"its number of tasks, {wrong}"
    if filler := scenario.filler:
        for field, axis, value in (("count", "services", filler.count), ("backends", "backends", filler.backends)):
            if wrong := _outside(axis, value):
                return f"filler.{field}", wrong
    if wrong := _outside("containers", scenario.idle):
        return "idle", wrong
    containers = sum(map(_tasks, scenario.services)) + scenario.idle * len(scenario.nodes)
    for field, what, count, most in (
        ("nodes", "nodes", len(scenario.nodes), AXES["nodes"][2]),
        ("networks", "networks", len(scenario.networks), _NETWORKS),
        ("services", "services", len(scenario.services), _SERVICES),
        ("idle" if scenario.idle else "services", "containers", containers, _CONTAINERS),
    ):
        if count > most:
            return field, f"{count:,} {what}, more than {most:,}"
    return None


def too_small(scenario: Scenario, at: Axes) -> tuple[str, str] | None:
    """Return the field of the first subnet that has too few addresses, and how many are needed; or None."""
    needs: Counter[str] = Counter()
    for service in scenario.services:
        needs[service.network] += 1 + _tasks(service)
        needs.update(network for task in service.tasks for network in task.joins)
    crowd = next((s.network for s in scenario.services if s.name == scenario.traffic.service), "")
    needs[crowd] += (scenario.filler.count if scenario.filler else 0) + scenario.idle * len(scenario.nodes) + at.sources
    for number, network in enumerate(scenario.networks):
        room = IPv4Network(network.subnet).num_addresses - _RESERVED
        need = needs[network.name]
        if need > room:
            fits = 32 - (need + _RESERVED - 1).bit_length()
            why = f"{network.subnet} has {room:,} addresses, and {need:,} are needed for VIPs and containers: a /{fits}"
            return f"networks[{number}].subnet", why
    return None


def _tasks(service: ServiceSpec) -> int:
    return service.replicas or len(service.tasks)


def _outside(axis: str, value: int) -> str:
    _, _, most = AXES[axis]
    return "" if 0 <= value <= most else f"{value} is not between 0 and {most:,}"
