"""The interface of what checks, trials and explorations run on: nodes, containers and services that run.

`Lab` is one testbed: it builds namespaces of its own and puts a data plane on them. A fabric that somebody else has
built is another one. A testbed has sockets in its containers, and says what its services are. Everything else is
optional: a change that it does not have raises NotApplicable with the reason, before anything is changed.
"""

from __future__ import annotations

import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from dataplanes.base import Footprint
from dataplanes.errors import NotApplicable
from dataplanes.kernel import netns
from dataplanes.model import Port, Service
from scenarios import cgroup
from scenarios.container import Container
from scenarios.topology import Scenario, ServiceSpec


class Testbed(ABC):
    """Nodes, containers and services that run, and the changes of them that can be made.

    A change may return before it is in effect: `settled` waits for that.
    """

    scenario: Scenario
    """The world as data. Its names are those of the nodes, networks, services and tasks that run."""
    containers: Mapping[str, Container]
    """The containers by the names of their tasks."""
    in_turn: bool = True
    """False if backends are chosen at random, and not in turn."""
    absent: Mapping[str, str] = {}
    """Names that checks know and that no part of the world has, and why (scenarios.casting)."""
    first_port: int = 9000
    """From this port on, checks start servers of their own."""
    resolver: str = "127.0.0.11"
    """The address at which every container's resolver knows the services' names; "" if there is none."""
    reasons: ClassVar[Mapping[str, str]] = {}
    """Why a method is not applicable, by the method's name."""

    # -- what runs ---------------------------------------------------------------------------------------------

    @abstractmethod
    def service(self, name: str) -> Service:
        """Return a service as its balancer is told it: VIP, ports, and backends with their weights."""

    def specs(self) -> list[ServiceSpec]:
        """Return every service in its present state, with its tasks."""
        return self.scenario.services

    @abstractmethod
    def services(self) -> list[Service]:
        """Return every service that has tasks."""

    def overlays(self, network: str) -> dict[str, str]:
        """Return the overlay namespace of a network on each node that is on it: where a container of the network is."""
        ends = [each for container in self.containers.values() for each in container.endpoints]
        return {each.node: each.overlay_netns for each in ends if each.network == network}

    @abstractmethod
    def namespaces(self) -> list[tuple[str, str, str]]:
        """Return (kind, node, name) of every namespace that can be looked into. Kinds: host, overlay, container, lb.

        A name is one of `ip netns`, or the path of a namespace.
        """

    def uplink(self, node: str) -> str:
        """Return the interface of a node's own namespace by which it reaches the other nodes."""
        return "eth0"

    def footprint(self) -> list[Footprint]:
        """Return the kernel state that the balancer says it holds in each namespace."""
        return []

    def tracked(self) -> Mapping[str, Sequence[str]]:
        """Return the connection entries that programs keep instead of the kernel, as lines, by host namespace."""
        return {}

    def socket(self, container: str, kind: int, protocol: int = 0, *, family: int = socket.AF_INET) -> socket.socket:
        """Return a socket of a container: of its network namespace and, if it has one, its cgroup.

        The kernel remembers the cgroup of the process that creates a socket (kernel/cgroup/cgroup.c, cgroup_sk_alloc).
        """
        found = self.containers[container]
        with netns.inside(found.netns), cgroup.within(found.cgroup):
            return socket.socket(family, kind, protocol)

    def spawn(self, container: str, argv: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start a program in a container: in its network namespace and, if it has one, its cgroup."""
        found = self.containers[container]
        if found.cgroup:
            argv = cgroup.enter_argv(found.cgroup, argv)
        with netns.inside(found.netns):
            return subprocess.Popen(argv, **popen)

    def at_rest(self) -> AbstractContextManager[object]:
        """Return a block in which nothing changes, so that what keeps the testbed in order may stand still."""
        return nullcontext()

    # -- changes of services and containers --------------------------------------------------------------------

    def settled(self) -> None:  # noqa: B027 - a testbed whose changes are in effect at once has nothing to wait for
        """Wait until every change that was made is in effect on every node. Raises TimedOut."""

    def create_service(self, spec: ServiceSpec) -> None:
        """Create a service with its tasks. `spec` has the addresses of all afterwards."""
        raise self.not_applicable("create_service")

    def remove_service(self, name: str) -> None:
        """Remove a service with its tasks."""
        raise self.not_applicable("remove_service")

    def scale(self, name: str, replicas: int) -> None:
        """Change a service's number of tasks. New tasks go to the nodes in turn, and the newest are removed first."""
        raise self.not_applicable("scale")

    def drain(self, task: str) -> None:
        """Give a task no new connections. Established ones go on."""
        raise self.not_applicable("drain")

    def remove_task(self, task: str) -> None:
        """Remove a task in order: first from the balancer, then its container."""
        raise self.not_applicable("remove_task")

    def crash(self, task: str) -> None:
        """Remove a container with its processes and namespace. Its service still lists it."""
        raise self.not_applicable("crash")

    def stop_server(self, task: str) -> None:
        """End only the task's processes. Its container and its addresses stay."""
        raise self.not_applicable("stop_server")

    def alias(self, container: str, count: int) -> None:
        """Give a container further addresses on its first network, as long as the testbed runs."""
        raise self.not_applicable("alias")

    def behind(self, container: str) -> AbstractContextManager[str]:
        """Create a machine behind a container, which forwards and masquerades for it. Yield its namespace."""
        raise self.not_applicable("behind")

    def demand_alterable(self, namespaces: Sequence[str]) -> None:
        """Demand that rules, settings and servers in these namespaces may be changed. Raises NotApplicable if not."""
        raise self.not_applicable("demand_alterable")

    def demand_addresses(self) -> None:  # noqa: B027 - most testbeds take the addresses that they are given
        """Demand that the VIP and the addresses of a new service can be chosen. Raises NotApplicable if not."""

    # -- changes of the balancer alone -------------------------------------------------------------------------

    def declare(self, name: str, port: Port) -> None:
        """Have a service serve a port more, unless it has every port. A port that is refused is not declared."""
        declared = self.service(name).ports
        if declared and port not in declared:
            raise self.not_applicable("declare")

    def apply(self, services: Sequence[Service]) -> None:
        """Have the balancer serve these, with exactly these backends. The containers stay as they are."""
        raise self.not_applicable("apply")

    def withdraw(self, services: Sequence[Service]) -> None:
        """Have the balancer serve these no more. The containers stay as they are."""
        raise self.not_applicable("withdraw")

    def resync(self) -> None:
        """Have the balancer restore what others have changed of its rules. Established connections go on."""
        raise self.not_applicable("resync")

    def reinstall(self) -> None:
        """Remove the balancer and install it again, as a daemon's restart does."""
        raise self.not_applicable("reinstall")

    # -- nodes that hear of changes late, or never -------------------------------------------------------------

    def late(self, node: str) -> AbstractContextManager[None]:
        """Keep changes of services from a node, which hears of them at the end of the block."""
        raise self.not_applicable("late")

    def deaf(self, node: str) -> AbstractContextManager[None]:
        """Keep changes of services in the block from a node for good."""
        raise self.not_applicable("deaf")

    def unaware(self, node: str) -> AbstractContextManager[None]:
        """Keep from a node where containers of other nodes are, until the end of the block."""
        raise self.not_applicable("unaware")

    def has(self, method: str) -> bool:
        """Return True if this testbed has a change of its own, which may still refuse what it is asked for."""
        return getattr(type(self), method) is not getattr(Testbed, method)

    def not_applicable(self, method: str) -> NotApplicable:
        """Return the error of a change that this testbed does not have."""
        return NotApplicable(self.reasons.get(method, f"this testbed has no {method.replace('_', ' ')}"))
