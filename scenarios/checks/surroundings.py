"""What a check knows of its testbed and has it do. Each change is in effect when its method returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from ipaddress import IPv4Network

from dataplanes.base import Footprint
from dataplanes.errors import NotApplicable
from dataplanes.model import Port, Service
from scenarios import flush
from scenarios.container import Container
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec


class Surroundings:
    """The containers and services around a check. What the testbed does not have raises NotApplicable."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed

    # -- what runs ---------------------------------------------------------------------------------------------

    def demand(self, *names: str) -> None:
        """Raise NotApplicable if no part of the world has one of these names."""
        for name in names:
            if name in self._testbed.absent:
                raise NotApplicable(self._testbed.absent[name])

    def demand_changes(self, *methods: str) -> None:
        """Raise NotApplicable unless the testbed has these changes, before anything is made for them."""
        for each in methods:
            if not self._testbed.has(each):
                raise self._testbed.not_applicable(each)

    def demand_addresses(self) -> None:
        """Raise NotApplicable unless addresses of new services can be chosen, before anything is made for them."""
        self._testbed.demand_addresses()

    def demand_one_node(self, *containers: str) -> None:
        """Raise NotApplicable unless the containers are on one node."""
        if len({self._container(each).task.node for each in containers}) > 1:
            raise NotApplicable(f"{', '.join(containers)} are on several nodes, and the check needs clients of one")

    def demand_apart(self, one: str, other: str) -> None:
        """Raise NotApplicable unless two containers are on different nodes."""
        if self._container(one).task.node == self._container(other).task.node:
            raise NotApplicable(f"{one} and {other} are on the same node, and the check needs them on two")

    def spare(self, number: int) -> str:
        """Return an address near the end of my-network's subnet. No container has it."""
        return str(IPv4Network(self._testbed.scenario.network("my-network").subnet).broadcast_address - number)

    @property
    def in_turn(self) -> bool:
        """False if backends are chosen at random, and not in turn."""
        return self._testbed.in_turn

    @property
    def served(self) -> int:
        """The port at which every task's server answers, by TCP and UDP."""
        return self._testbed.scenario.traffic.port

    @property
    def resolver(self) -> str:
        """The address of every container's resolver. Raises NotApplicable if there is none."""
        if not self._testbed.resolver:
            raise NotApplicable("containers have no resolver that knows the services' names")
        return self._testbed.resolver

    def mtu(self, network: str) -> int:
        """Return the MTU of a network."""
        return self._testbed.scenario.network(network).mtu

    def definition(self, service: str) -> Service:
        """Return a service as its balancer is told it."""
        self.demand(service)
        return self._testbed.service(service)

    def services(self) -> list[Service]:
        """Return every service that has tasks."""
        return self._testbed.services()

    def vip(self, service: str) -> str:
        """Return a service's VIP."""
        return self.definition(service).vip

    def tasks(self, service: str) -> list[str]:
        """Return the names of a service's tasks, in the order of their servers' numbers. Raises NotApplicable."""
        self.demand(service)
        found = [name for name, each in self._testbed.containers.items() if each.task.service == service]
        if not found:
            self.definition(service)  # which there may be none of
        return found

    def address(self, container: str, network: str | None = None) -> str:
        """Return a container's address on a network, or on its first network."""
        endpoints = self._container(container).endpoints
        return next(each.address for each in endpoints if network in (None, each.network))

    def interface(self, container: str) -> str:
        """Return the interface by which a container is on its first network."""
        return self._container(container).endpoints[0].interface

    def netns(self, container: str) -> str:
        """Return a container's namespace, to look into it."""
        return self._container(container).netns

    def namespaces(self) -> list[tuple[str, str, str]]:
        """Return (kind, node, name) of every namespace, to look into it. Kinds: host, overlay, container, lb."""
        return self._testbed.namespaces()

    def hosts(self) -> dict[str, str]:
        """Return the nodes' own namespaces by node, to look into them. Raises NotApplicable if there are none."""
        found = {node: name for kind, node, name in self.namespaces() if kind == "host"}
        if not found:
            raise NotApplicable("the nodes' own namespaces are not known")
        return found

    def node_namespace(self, node: str) -> str:
        """Return a node's own namespace, to act in it. Raises NotApplicable if that may not be."""
        found = self.hosts()
        if node not in found:
            raise NotApplicable(f"the own namespace of {node} is not known")
        return self.alterable([found[node]])[0]

    def uplink(self, node: str) -> str:
        """Return the interface of a node's own namespace by which it reaches the other nodes."""
        return self._testbed.uplink(node)

    def alterable(self, namespaces: Sequence[str]) -> list[str]:
        """Return these namespaces, to change rules and settings in them. Raises NotApplicable if that may not be."""
        self._testbed.demand_alterable(namespaces)
        return list(namespaces)

    def footprint(self) -> list[Footprint]:
        """Return the kernel state that the balancer says it holds in each namespace."""
        return self._testbed.footprint()

    def tracked(self) -> Mapping[str, Sequence[str]]:
        """Return the connection entries that programs keep instead of the kernel, as lines, by host namespace."""
        return self._testbed.tracked()

    def _container(self, name: str) -> Container:
        self.demand(name)
        if name not in self._testbed.containers:
            raise NotApplicable(f"there is no container {name}")
        return self._testbed.containers[name]

    def _owner(self, client: str, destination: str, number: int) -> str:
        """Return the container with this address on the client's networks.

        With direct routing the address is the VIP, and the server's number decides.
        """
        networks = {each.network for each in self._container(client).endpoints}
        for name, each in self._testbed.containers.items():
            for endpoint in each.endpoints:
                numbered = endpoint.vip == destination and each.task.number == number
                if endpoint.network in networks and (endpoint.address == destination or numbered):
                    return name
        return destination

    def at_rest(self) -> AbstractContextManager[object]:
        """Return a block in which nothing changes, so that what keeps the testbed in order may stand still."""
        return self._testbed.at_rest()

    # -- changes -----------------------------------------------------------------------------------------------

    def create(self, spec: ServiceSpec) -> None:
        """Create a service with its tasks."""
        self.demand(*(task.node for task in spec.tasks))
        self._testbed.create_service(spec)
        self._testbed.settled()

    def remove(self, service: str) -> None:
        """Remove a service with its tasks."""
        self._testbed.remove_service(service)
        self._testbed.settled()

    def scale(self, service: str, replicas: int) -> None:
        """Change a service's number of tasks."""
        self._testbed.scale(service, replicas)
        self._testbed.settled()

    def drain(self, task: str) -> None:
        """Give a task no new connections. Established ones go on."""
        self._testbed.drain(task)
        self._testbed.settled()

    def remove_task(self, task: str) -> None:
        """Remove a task in order: first from the balancer, then its container."""
        self._testbed.remove_task(task)
        self._testbed.settled()

    def crash(self, task: str) -> None:
        """Remove a container at once. Its service still lists it."""
        self._testbed.crash(task)
        self._testbed.settled()

    def stop_server(self, task: str) -> None:
        """End only the task's processes."""
        self._testbed.stop_server(task)
        self._testbed.settled()

    def apply(self, services: Sequence[Service]) -> None:
        """Have the balancer serve these, with exactly these backends. The containers stay as they are."""
        self._testbed.apply(services)
        self._testbed.settled()

    def withdraw(self, services: Sequence[Service]) -> None:
        """Have the balancer serve these no more. The containers stay as they are."""
        self._testbed.withdraw(services)
        self._testbed.settled()

    def resync(self) -> None:
        """Have the balancer restore what others have changed of its rules."""
        self._testbed.resync()
        self._testbed.settled()

    def reinstall(self) -> None:
        """Remove the balancer and install it again."""
        self._testbed.reinstall()
        self._testbed.settled()

    @contextmanager
    def late(self, node: str) -> Iterator[None]:
        """Keep changes of services from a node, which hears of them at the end of the block."""
        with self._testbed.late(node):
            yield
        self._testbed.settled()

    def deaf(self, node: str) -> AbstractContextManager[None]:
        """Keep changes of services in the block from a node for good."""
        return self._testbed.deaf(node)

    @contextmanager
    def unaware(self, node: str) -> Iterator[None]:
        """Keep from a node where containers of other nodes are, until the end of the block."""
        with self._testbed.unaware(node):
            yield
        self._testbed.settled()

    def mend(self) -> None:
        """Install the balancer again where that is possible, because the check has damaged it."""
        with suppress(NotApplicable):
            self.reinstall()

    def flush(self) -> dict[str, int]:
        """Flush rules and tables in every namespace. Return in how many of them what was flushed."""
        return flush.flush_all(self._testbed)

    def _declare(self, container: str, port: Port) -> None:
        """Declare a port that a task serves, where a service has declared ports only."""
        if service := self._container(container).task.service:
            self._testbed.declare(service, port)
            self._testbed.settled()

    def _behind(self, container: str) -> AbstractContextManager[str]:
        return self._testbed.behind(container)
