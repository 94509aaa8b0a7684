"""The lab document: nodes, networks, services and tasks, with their namespaces for `ip netns exec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from dataplanes.model import Service
    from scenarios.testbed import Testbed


class LabNode(Struct):
    """A node, and its host namespace."""

    name: str
    netns: str


class LabNetwork(Struct):
    """An overlay network, and its overlay namespace on each node that is on it."""

    name: str
    subnet: str
    mtu: int
    overlay_netns: dict[str, str]  # by node


class LabService(Struct):
    """A service with its VIP and the names of its tasks."""

    name: str
    network: str
    vip: str
    ports: list[int]
    tasks: list[str]


class LabTask(Struct):
    """A task, and the container that it is."""

    name: str
    service: str
    node: str
    netns: str
    cgroup: str | None  # None: the lab has no cgroups, because the data plane needs none
    mac: str
    addresses: dict[str, str]  # by network
    weight: int = 1  # its share of its service's connections; 0: it is drained
    crashed: bool = False  # its container is gone, and its service still lists it


class LabDocument(Struct, tag_field="kind", tag="lab"):
    """The document that BENCH_LAB names: the present state of a lab."""

    nodes: list[LabNode]
    networks: list[LabNetwork]
    services: list[LabService]
    tasks: list[LabTask]
    schema: Literal[2] = 2


def document(testbed: Testbed) -> LabDocument:
    """Return the present state of a testbed as a document."""
    services = [(testbed.service(spec.name), spec) for spec in testbed.specs()]  # those without tasks, too
    weights = {
        (service.network, backend.address): backend.weight for service, _ in services for backend in service.backends
    }
    return LabDocument(
        [LabNode(node, name) for kind, node, name in testbed.namespaces() if kind == "host"],
        [
            LabNetwork(each.name, each.subnet, each.mtu, testbed.overlays(each.name))
            for each in testbed.scenario.networks
        ],
        [
            LabService(each.name, each.network, each.vip, _ports(testbed, each), [task.name for task in spec.tasks])
            for each, spec in services
        ],
        [
            LabTask(
                container.task.name,
                container.task.service,
                container.task.node,
                container.netns,
                container.cgroup,
                container.endpoints[0].mac,
                {endpoint.network: endpoint.address for endpoint in container.endpoints},
                weights.get((container.task.network, container.task.address), container.task.weight),
                container.crashed,
            )
            for container in testbed.containers.values()
        ],
    )


def _ports(testbed: Testbed, service: Service) -> list[int]:
    """Return the ports that a service declares, or else the one of the scenario's traffic."""
    return sorted({port.number for port in service.ports}) or [testbed.scenario.traffic.port]
