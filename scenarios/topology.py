"""Scenarios as data: nodes, networks, services and tasks from a TOML file, checked before anything is created."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

from msgspec import Struct

from dataplanes import files, toml
from dataplanes.errors import Usage
from dataplanes.model import Port
from dataplanes.texts import demand_utf8
from scenarios import axes, ports, size
from scenarios.axes import Axes, Sweep
from scenarios.pool import Pool

_FILES = os.path.join(os.path.dirname(__file__), "files")
_MOST_BYTES = 256 << 10
GATEWAY = IPv4Network("172.18.0.0/16")
"""The subnet of docker_gwbridge on every node. Each container has an address there."""
ENGINE = IPv4Network("172.17.0.0/16")
"""The subnet of docker0, on nodes as dockerd leaves them. No container of a scenario is there."""
_HEAVIEST = 256
"""The largest weight. A plane that takes turns has as many entries."""
# The bounds of an overlay's MTU, and the bytes that the underlay carries around one of its packets.
_LEAST, _MOST, VXLAN = 576, 1450, 50
_LABEL = re.compile(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?\Z")


class Network(Struct, forbid_unknown_fields=True):
    """An overlay network. Its bridge has the subnet's first address, as in swarm."""

    name: str
    subnet: str
    mtu: int = 1450


class Task(Struct, forbid_unknown_fields=True):
    """One container of a service. Its address comes from the network's pool if none is given."""

    name: str = ""
    node: str = ""
    address: str = ""
    service: str = ""  # filled in
    network: str = ""  # filled in
    number: int = 0  # filled in: the number of its server, from 1 within the service
    joins: dict[str, str] = {}  # further networks, each with the address there ("": from the pool)
    remapped: bool = False  # its root is another user than the node's (dockerd --userns-remap)
    weight: int = 1  # its share of its service's connections; 0: it is drained

    @property
    def mac(self) -> str:
        """The MAC that Docker derives from the address: 02:42 and its bytes."""
        return mac(self.address)


class ServiceSpec(Struct, forbid_unknown_fields=True):
    """A service. Its tasks are listed, or `replicas` of them are spread over the nodes in turn."""

    name: str
    network: str
    vip: str = ""
    tasks: list[Task] = []
    replicas: int = 0
    nodes: list[str] = []  # the nodes for replicas; empty: all
    ports: list[str] = []  # 80, 80/tcp, 53/udp, 9899/sctp; empty: every port of the VIP


class Filler(Struct, forbid_unknown_fields=True):
    """Services that only raise the number. Their backends are those of the called service."""

    count: int
    backends: int = 3


class Traffic(Struct, forbid_unknown_fields=True):
    """The traffic of a scenario: a task that calls a service, and a port that every backend serves."""

    client: str
    service: str
    port: int = 80


class Scenario(Struct, forbid_unknown_fields=True):
    """A whole scenario with all addresses filled in."""

    nodes: list[str]
    networks: list[Network]
    services: list[ServiceSpec]
    traffic: Traffic
    description: str = ""
    node: Literal["bare", "docker"] = "bare"  # a node's own namespace: without rules, or as dockerd leaves it
    # The MTU between the nodes. It may be too small for the networks; then senders must learn it by ICMP.
    underlay_mtu: int = 1500
    filler: Filler | None = None
    idle: int = 0  # containers on every node that do nothing
    sweep: list[Sweep] = []
    name: str = ""
    idlers: list[Task] = []  # filled in

    def tasks(self) -> Iterator[Task]:
        """Yield every task of every service."""
        for service in self.services:
            yield from service.tasks

    def network(self, name: str) -> Network:
        """Return a network by name."""
        return next(network for network in self.networks if network.name == name)

    def service(self, name: str) -> ServiceSpec:
        """Return a service by name."""
        return next(service for service in self.services if service.name == name)


def mac(address: str) -> str:
    """Return the MAC that Docker derives from an address: 02:42 and its four bytes."""
    return "02:42:" + IPv4Address(address).packed.hex(":")


def is_label(name: str) -> bool:
    """Return True if a node, a network, a service or a task may have this name."""
    return bool(_LABEL.match(name))


def named() -> dict[str, str]:
    """Return the scenarios that come with the program, with their descriptions."""
    names = sorted(entry.removesuffix(".toml") for entry in os.listdir(_FILES) if entry.endswith(".toml"))
    return {name: load(name).description for name in names}


def load(name_or_path: str, at: Axes | None = None) -> Scenario:
    """Load a named scenario or a TOML file at a point of the axes, check it, and fill in every address.

    Raises Usage with file, line and field for the first fault.
    """
    path = name_or_path
    if os.path.sep not in path and not path.endswith(".toml"):
        path = os.path.join(_FILES, f"{name_or_path}.toml")
        if not os.path.exists(path):
            known = [entry.removesuffix(".toml") for entry in os.listdir(_FILES)]
            near = difflib.get_close_matches(name_or_path, known, 1)
            hint = f"did you mean {near[0]}?" if near else "`bench list scenarios` shows them; or give a .toml file"
            raise Usage(f"unknown scenario {name_or_path!r}", fix=hint)
    demand_utf8(path, "the scenario's path")
    return parse(files.text(path, _MOST_BYTES), path, at)


def parse(text: str, path: str, at: Axes | None = None) -> Scenario:
    """Return the scenario of a file's text, as `load` does."""
    if len(text) > _MOST_BYTES:
        raise Usage("the file is too large", where=path, why=f"more than {_MOST_BYTES >> 10:,} KiB")
    scenario = toml.decode(text, Scenario, path, "a scenario", _renamed)
    scenario.name = scenario.name or os.path.basename(path).removesuffix(".toml")
    if at and scenario.nodes:
        _move(scenario, at)
    _Finisher(path, text, scenario, at or Axes()).finish()
    return scenario


def _move(scenario: Scenario, at: Axes) -> None:
    """Change the size of a scenario to a point of the axes."""
    extra = axes.nodes_for(scenario.nodes, at.nodes)[len(scenario.nodes) :]
    scenario.nodes += extra
    scenario.idle = max(at.containers, scenario.idle, 1 if extra else 0)  # a node needs one for its overlay
    if at.services:
        scenario.filler = Filler(at.services, at.backends or 3)
    for service in scenario.services:
        if at.backends and service.name == scenario.traffic.service:
            nodes = service.nodes or scenario.nodes
            kept = service.tasks[: at.backends]
            service.tasks = kept + [Task(node=nodes[n % len(nodes)]) for n in range(len(kept), at.backends)]
            service.replicas = 0


def _renamed(tables: dict[str, Any]) -> dict[str, Any]:
    """Convert a file of version 0.1: the table `[traffic]` was `[workload]`."""
    if "workload" in tables and "traffic" not in tables:
        tables["traffic"] = tables.pop("workload")
    return tables


class _Finisher:
    """A scenario that is checked for contradictions, and whose open fields are filled in."""

    def __init__(self, path: str, text: str, scenario: Scenario, at: Axes) -> None:
        self._path, self._text, self._scenario, self._at = path, text, scenario, at
        self._pools: dict[str, Pool] = {}
        self._names: dict[str, str] = {}

    def finish(self) -> None:
        scenario = self._scenario
        self._refuse(size.too_large(scenario, self._at))
        if scenario.idlers:
            self._fail("idlers", "the program fills this in")
        for number, node in enumerate(scenario.nodes):
            self._name(node, "nodes", f"node {number + 1}")
        if not scenario.nodes:
            self._fail("nodes", "a scenario needs a node")
        least, most = _LEAST + VXLAN, _MOST + VXLAN
        if not least <= scenario.underlay_mtu <= most:
            self._fail("underlay_mtu", f"{scenario.underlay_mtu} is not between {least} and {most}")
        for number, network in enumerate(scenario.networks):
            self._network(f"networks[{number}]", network)
        self._namespaces()
        self._refuse(size.too_small(scenario, self._at))
        for number, service in enumerate(scenario.services):
            self._service(f"services[{number}]", service)
        for number, service in enumerate(scenario.services):
            self._claim(f"services[{number}]", service)
        for service in scenario.services:
            self._fill(service)
        self._traffic()
        self._idlers()
        self._sweeps()

    def _fail(self, field: str, why: str) -> None:
        raise Usage(why, where=f"{self._path}:{toml.line(self._text, field)}: {field}")

    def _refuse(self, found: tuple[str, str] | None) -> None:
        if found:
            self._fail(*found)

    def _namespaces(self) -> None:
        """Reserve the names of further namespaces that the lab creates."""
        self._names["underlay"] = "the nodes' wire"
        for node, network in itertools.product(self._scenario.nodes, self._scenario.networks):
            for name in (f"{node}.{network.name}", f"lb.{node}.{network.name}"):
                self._names.setdefault(name, f"a namespace of {network.name} on {node}")

    def _name(self, name: str, field: str, what: str) -> None:
        if not is_label(name):
            self._fail(field, f"{name!r} is not a DNS name of at most 32 lower-case letters, digits, - and .")
        if name in self._names:
            self._fail(field, f"{name!r} is already the name of {self._names[name]}")
        self._names[name] = what

    def _network(self, field: str, network: Network) -> None:
        self._name(network.name, f"{field}.name", "a network")
        try:
            subnet = IPv4Network(network.subnet)
        except ValueError as error:
            self._fail(f"{field}.subnet", str(error))
            raise
        if subnet.is_multicast or subnet.is_loopback or subnet.is_reserved or subnet.network_address.is_unspecified:
            self._fail(f"{field}.subnet", f"{subnet} has no addresses for hosts")
        if subnet.overlaps(GATEWAY):
            self._fail(f"{field}.subnet", f"{subnet} overlaps {GATEWAY}, which each container's gateway has")
        if self._scenario.node == "docker" and subnet.overlaps(ENGINE):
            self._fail(f"{field}.subnet", f"{subnet} overlaps {ENGINE}, which docker0 has")
        if subnet.prefixlen > 29:
            self._fail(f"{field}.subnet", f"{subnet} is too small for a bridge, a VIP and two tasks")
        if not _LEAST <= network.mtu <= _MOST:
            self._fail(f"{field}.mtu", f"{network.mtu} is not between {_LEAST} and {_MOST}")
        self._pools[network.name] = Pool(network.subnet)

    def _service(self, field: str, service: ServiceSpec) -> None:
        self._name(service.name, f"{field}.name", "a service")
        if service.network not in self._pools:
            self._fail(f"{field}.network", f"no network {service.network!r}")
        if service.tasks and service.replicas:
            self._fail(f"{field}.replicas", "give tasks or replicas, not both")
        self._ports(f"{field}.ports", service)
        nodes = service.nodes or self._scenario.nodes
        for number in range(service.replicas):
            service.tasks.append(Task(node=nodes[number % len(nodes)]))
        for number, task in enumerate(service.tasks):
            where = f"{field}.tasks[{number}]" if not service.replicas else f"{field}.nodes"
            task.name = task.name or f"{service.name}.{number + 1}"
            task.service, task.network = service.name, service.network
            self._name(task.name, f"{where}.name", "a task")
            if task.node not in self._scenario.nodes:
                self._fail(f"{where}.node", f"no node {task.node!r}")
            if not 0 <= task.weight <= _HEAVIEST:
                self._fail(f"{where}.weight", f"{task.weight} is not between 0 and {_HEAVIEST}")
            for other in task.joins:
                if other not in self._pools or other == service.network:
                    self._fail(f"{where}.joins", f"no other network {other!r}")

    def _ports(self, field: str, service: ServiceSpec) -> None:
        try:
            declared = ports.parse(service.ports)
        except ValueError as error:
            self._fail(field, str(error))
            raise
        traffic = self._scenario.traffic
        if declared and service.name == traffic.service and Port("tcp", traffic.port) not in declared:
            self._fail(field, f"{traffic.port}/tcp, which the traffic is sent to, is not among them")

    def _claim(self, field: str, service: ServiceSpec) -> None:
        self._claim_one(service.network, service.vip, f"{field}.vip")
        for number, task in enumerate(service.tasks):
            self._claim_one(service.network, task.address, f"{field}.tasks[{number}].address")
            for other, address in task.joins.items():
                self._claim_one(other, address, f"{field}.tasks[{number}].joins")

    def _claim_one(self, network: str, address: str, field: str) -> None:
        wrong = self._pools[network].claim(address) if address else None
        if wrong:
            self._fail(field, wrong)

    def _fill(self, service: ServiceSpec) -> None:
        service.vip = service.vip or self._take(service.network)
        for task in service.tasks:
            task.address = task.address or self._take(service.network)
            task.joins = {other: address or self._take(other) for other, address in task.joins.items()}

    def _idlers(self) -> None:
        network = self._scenario.service(self._scenario.traffic.service).network
        for node in self._scenario.nodes:
            for number in range(self._scenario.idle):
                idler = Task(f"idle{number + 1}.{node}", node, self._take(network), network=network)
                self._name(idler.name, "idle", "a container")
                self._scenario.idlers.append(idler)

    def _sweeps(self) -> None:
        for number, sweep in enumerate(self._scenario.sweep):
            if found := axes.wrong(sweep):
                self._fail(f"sweep[{number}].{found[0]}", found[1])
        points = sum(sweep.count() for sweep in self._scenario.sweep)
        if points > axes.POINTS:
            self._fail("sweep", f"{points:,} points, more than {axes.POINTS}")

    def _take(self, network: str) -> str:
        address = self._pools[network].take()
        if address is None:
            number = [each.name for each in self._scenario.networks].index(network)
            self._fail(f"networks[{number}].subnet", "the subnet is too small for its services and tasks")
        return address or ""

    def _traffic(self) -> None:
        traffic = self._scenario.traffic
        tasks = {task.name: task for task in self._scenario.tasks()}
        services = {service.name: service for service in self._scenario.services}
        if traffic.client not in tasks:
            self._fail("traffic.client", f"no task {traffic.client!r}")
        if traffic.service not in services:
            self._fail("traffic.service", f"no service {traffic.service!r}")
        if not services[traffic.service].tasks:
            self._fail("traffic.service", f"{traffic.service} has no tasks to answer")
        client = tasks[traffic.client]
        if services[traffic.service].network not in (client.network, *client.joins):
            self._fail("traffic.client", f"{traffic.client} is not on the network of {traffic.service}")
        if not 0 < traffic.port < 65536:
            self._fail("traffic.port", f"{traffic.port} is not a port")
