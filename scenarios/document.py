"""The lab document: nodes, networks, services and tasks, with their namespaces for `ip netns exec`."""

from __future__ import annotations

from typing import Any

from scenarios.lab import Lab


def document(lab: Lab) -> dict[str, Any]:
    """Return the present state of a lab as plain data."""
    hosts = {node: name for kind, node, name in lab.namespaces() if kind == "host"}
    return {
        "nodes": [{"name": node, "netns": name} for node, name in hosts.items()],
        "networks": [
            {
                "name": network.name,
                "subnet": network.subnet,
                "mtu": network.mtu,
                "overlay_netns": {s.node: s.overlay_netns for s in lab.segments() if s.network == network.name},
            }
            for network in lab.scenario.networks
        ],
        "services": [
            {
                "name": spec.name,
                "network": spec.network,
                "vip": spec.vip,
                "ports": [lab.scenario.traffic.port],
                "tasks": [task.name for task in spec.tasks],
            }
            for spec in lab.specs()
        ],
        "tasks": [
            {
                "name": container.task.name,
                "service": container.task.service,
                "node": container.task.node,
                "netns": container.netns,
                "cgroup": container.cgroup,
                "mac": container.task.mac,
                "addresses": {endpoint.network: endpoint.address for endpoint in container.endpoints},
            }
            for container in lab.containers.values()
        ],
    }
