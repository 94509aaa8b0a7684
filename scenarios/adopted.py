"""A testbed of containers that exist already. Nothing is changed: what checks and this module have there are sockets.

A container's server is a program of ours in its network namespace. It is in no other namespace of the container and not
in its cgroup, so it is judged what the network does, and not what a container's limits do.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar, Literal

from msgspec import Struct

from dataplanes.errors import KernelRefused, NotApplicable, Usage
from dataplanes.kernel import netns
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Backend, Endpoint, Protocol, Service
from dataplanes.selection import Selection
from scenarios import ports
from scenarios.container import Container
from scenarios.homes import EnginePlace, Home, open_home
from scenarios.roles import Roles
from scenarios.testbed import Testbed
from scenarios.topology import Task
from scenarios.world_file import PORTS, CommandVerb

_NOBODY_SERVES = (4711, 4712)
"""The ports that checks take for closed."""
_READ_ONLY = "nothing is changed in a world of others"


class Adoption(Struct, frozen=True):
    """A world that was read, in the checks' names, with every namespace that was found."""

    roles: Roles
    homes: dict[str, Home]  # by container
    hosts: dict[str, Home]  # by node
    uplinks: dict[str, str]  # by node
    engines: dict[str, EnginePlace]  # by node
    first_port: int
    servers: Literal["ours", "theirs"] = "ours"
    scheduler: Literal["rr", "random"] = "rr"
    protocols: tuple[Protocol, ...] = ()
    imitates: Selection | None = None
    resolver: str = ""
    commands: dict[CommandVerb, tuple[str, ...]] = {}
    directory: str = "/"  # where commands run: that of the world file


class Adopted(Testbed):
    """Containers that exist already. Enter it to start the servers, and leave it to end them."""

    reasons: ClassVar[Mapping[str, str]] = {
        "create_service": f"it needs a service of its own, and {_READ_ONLY}",
        "demand_alterable": f"it changes rules or settings, and {_READ_ONLY}",
        "declare": "it needs a port that the service does not declare",
        "apply": f"it changes the backends of a service, and {_READ_ONLY}",
        "withdraw": f"it removes a service, and {_READ_ONLY}",
        "reinstall": f"it removes the balancer, and {_READ_ONLY}",
        "behind": f"it needs a machine behind a container, and {_READ_ONLY}",
        "alias": f"it gives a container further addresses, and {_READ_ONLY}",
        "resync": f"it removes rules, and {_READ_ONLY}",
        **dict.fromkeys(("late", "deaf", "unaware"), f"it keeps a node from hearing of a change, and {_READ_ONLY}"),
    }

    def __init__(self, adoption: Adoption, server: Callable[[Task], Sequence[str]]) -> None:
        """`server` returns the program that answers for a task, which prints a line when it serves."""
        self.scenario, self.first_port = adoption.roles.scenario, adoption.first_port
        self.in_turn, self.resolver = adoption.scheduler == "rr", adoption.resolver
        self._adoption, self._server = adoption, server
        self.containers: dict[str, Container] = {}
        self._hosts: dict[str, str] = {}
        self._stack = ExitStack()
        self._stacks: dict[str, ExitStack] = {}  # what is held of each container

    def __enter__(self) -> Adopted:
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            for node, home in self._adoption.hosts.items():
                self._hosts[node] = self._held(home, self._stack)
            for task in (*self.scenario.tasks(), *self.scenario.idlers):
                self._adopt(task, self._adoption.homes[task.name])
            for name, container in self.containers.items():
                self._demand_free(container, self._adoption.homes[name].field)
            if self._adoption.servers == "ours":
                for task in self.scenario.tasks():
                    self._start(self.containers[task.name])
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _held(self, home: Home, stack: ExitStack) -> str:
        """Open a namespace, so that its path leads to it even if others end. Return the path of the open file."""
        try:
            handle = open_home(home)
        except ValueError as error:
            raise Usage(str(error), where=home.field) from error
        stack.callback(os.close, handle)
        return f"/proc/self/fd/{handle}"

    def _adopt(self, task: Task, home: Home) -> Container:
        """Take in a container, whose addresses must be as they are said to be."""
        stack = self._stacks[task.name] = self._stack.enter_context(ExitStack())
        container = Container(task, self._held(home, stack))
        with Rtnl(container.netns) as rtnl:
            links = {each.index: each for each in rtnl.links()}
            there = {each.get_attr("IFA_LOCAL"): links[each["index"]] for each in rtnl.addresses()}
        vip = self.service(task.service).vip if task.service else None
        for network, address in {task.network: task.address, **task.joins}.items():
            if address not in there:
                told = ", ".join(sorted(each for each in there if each)) or "none"
                raise Usage(f"{task.name} does not have the address {address}", where=home.field, why=f"it has {told}")
            link, own = there[address], vip if network == task.network else None
            endpoint = Endpoint(
                task.name, network, task.node, container.netns, link.name, address, link.mac, "", "", own
            )
            container.endpoints.append(endpoint)
        self.containers[task.name] = container
        return container

    def _leave(self, name: str) -> None:
        """End the server of a container, and let go of its namespace."""
        self._stacks.pop(name).close()
        self.containers.pop(name, None)

    def _demand_free(self, container: Container, where: str) -> None:
        """Demand that nobody serves at the ports of the checks. Raises Usage."""
        wanted = {*_NOBODY_SERVES, *range(self.first_port, self.first_port + PORTS)}
        if self._adoption.servers == "ours" and container.task.service:
            wanted.add(self.scenario.traffic.port)
        if taken := sorted(wanted & _bound(container.netns)):
            why, fix = f"something has port {taken[0]} there", "choose other ports with `port` and `first_port`"
            raise Usage(f"{container.task.name} has no room for the checks' servers", where=where, why=why, fix=fix)

    def _start(self, container: Container) -> None:
        process = self.spawn(container.task.name, self._server(container.task), stdout=subprocess.PIPE)
        container.processes.append(process)
        self._stacks[container.task.name].callback(container.stop)
        assert process.stdout
        if not process.stdout.readline():
            why = f"exit code {process.wait()}"
            raise KernelRefused("the server did not start", where=container.task.name, why=why)

    def service(self, name: str) -> Service:
        found = next((each for each in self.scenario.services if each.name == name), None)
        if found is None:
            raise NotApplicable(f"nothing in this world stands for the service {name}")
        backends = tuple(Backend(task.address) for task in found.tasks)
        return Service(name, found.network, found.vip, backends, ports.parse(found.ports))

    def services(self) -> list[Service]:
        return [self.service(each.name) for each in self.scenario.services if each.tasks]

    def namespaces(self) -> list[tuple[str, str, str]]:
        found = [("host", node, name) for node, name in self._hosts.items()]
        return found + [("container", each.task.node, each.netns) for each in self.containers.values()]

    def uplink(self, node: str) -> str:
        return self._adoption.uplinks[node]


def _bound(name: str) -> set[int]:
    """Return the ports that servers of a namespace have, by TCP and UDP (proc_net_tcp.rst)."""
    found: set[int] = set()
    with netns.inside(name):
        for table, states in (("tcp", {"0A"}), ("tcp6", {"0A"}), ("udp", {"07"}), ("udp6", {"07"})):
            try:
                with open(f"/proc/thread-self/net/{table}", encoding="ascii") as file:
                    rows = [line.split() for line in file.readlines()[1:]]
            except FileNotFoundError:  # the kernel has no IPv6
                continue
            found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] in states}
    return found
