"""A swarm as a testbed. A change of it is in effect when the balancers of all nodes have it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from ipaddress import IPv4Network
from itertools import combinations
from typing import ClassVar

from dataplanes.base import Footprint
from dataplanes.errors import BenchError, NotApplicable, Prerequisite, TimedOut
from dataplanes.kernel import pids
from dataplanes.model import Backend, Endpoint, Service
from dataplanes.platforms import Version
from scenarios import cgroup
from scenarios.container import Container
from scenarios.dns import Resolver
from scenarios.engine import Refused
from scenarios.fabric import Fabric
from scenarios.journal import Journal
from scenarios.swarm import image, look
from scenarios.swarm.image import TaskServer
from scenarios.swarm.look import Balancer
from scenarios.swarm.node import NAME_SERVER, SwarmNode, inheriting
from scenarios.swarm.tasks import Orchestrator, Running
from scenarios.testbed import Testbed
from scenarios.topology import Scenario, ServiceSpec, Task

_SETTLES, _LOOK = 120.0, 0.2
"""Seconds until a change must be in effect everywhere, and between looks."""
_CONTRADICTS = 5.0
"""Seconds in which a node hears that it is suspected, and contradicts: more than it is suspected for before it is dead.

Those are four intervals of a second (memberlist, config.go, DefaultLANConfig, and suspicion.go).
"""
_IDS = 10
"""The characters of a network's id in the name of its namespace (libnetwork, overlay and sandbox)."""


class Swarm(Testbed):
    """A swarm of real daemons. Enter it, use it, leave it. The first node is its manager."""

    reasons: ClassVar[Mapping[str, str]] = {
        "declare": "a service of a swarm has every port",
        "apply": "a swarm's balancer has the running tasks and no others, and each has weight 1 until it is shut down",
        "withdraw": "a swarm's balancer serves a service as long as there is the service",
        "resync": "an engine does not put back what others have removed",
        "reinstall": "an engine's restart ends the containers",
        **dict.fromkeys(("late", "deaf", "unaware"), "a node that hears nothing is taken for dead within seconds"),
    }

    def __init__(
        self, scenario: Scenario, made_of: Version, version: str, *, journal: Journal, server: TaskServer
    ) -> None:
        """Create a swarm of engines of a version. Raises NotApplicable for a scenario that it cannot be."""
        _demand_expressible(scenario)
        self.scenario = scenario
        self.version = ""  # what the engines tell of theirs
        self.containers: dict[str, Container] = {}
        self._made_of, self._wanted_version = made_of, version.partition("-")[0]
        self._journal, self._server = journal, server
        self._fabric = Fabric(scenario, journal, gateways=False)
        self._nodes: dict[str, SwarmNode] = {}
        self._specs: dict[str, ServiceSpec] = {}
        self._running: dict[str, Running] = {}  # by the tasks' names
        self._drained: set[str] = set()
        self._silent: dict[str, int] = {}  # the process that would tell the engine of a container that has crashed
        self._gone: list[tuple[str, str]] = []  # the network and the VIP of services that were removed
        self._thawed = -_CONTRADICTS  # when the daemons have last begun to run again
        self._held = ExitStack()
        self._resolver: Resolver | None = None
        self._orchestrator: Orchestrator

    def __enter__(self) -> Swarm:
        try:
            self._held.enter_context(inheriting())
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as steps:
            steps.callback(self._held.close)
            steps.callback(self._fabric.close)
            for container in self.containers.values():
                steps.callback(container.stop)
            for node in self._nodes.values():
                steps.callback(node.stop)
            if self._resolver:
                steps.callback(self._resolver.close)

    # -- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._fabric.build()
        self._resolver = Resolver()
        self._journal.process(self._resolver.pid)
        for name in self.scenario.nodes:
            host = self._fabric.host_netns(name)
            self._nodes[name] = SwarmNode(name, host, self._fabric.address(name), self._journal)
            self._resolver.add_node(host, NAME_SERVER)
            self._nodes[name].start(self._made_of)
        for node in self._nodes.values():
            self.version = node.await_up()["Version"]
        if not self.version.startswith(f"{self._wanted_version}."):
            why = f"{self._made_of.packages[0]} is {self.version} now"
            raise Prerequisite(f"no Docker {self._wanted_version} to be had", why=why, fix="use another version")
        content = image.archive(self._server.binary)
        for node in self._nodes.values():
            node.engine.send(f"/images/create?fromSrc=-&repo={image.NAME}&tag=latest", content)
        manager, *workers = self._nodes.values()
        self._orchestrator = Orchestrator(manager.engine)
        self._orchestrator.initialize(
            manager.address, {each.name: each.engine for each in workers}, {each.name: each.address for each in workers}
        )
        for network in self.scenario.networks:
            self._orchestrator.network(network.name, network.subnet, network.mtu)
        for spec in self.scenario.services:
            self._create(spec)
        self.settled()

    def _create(self, spec: ServiceSpec) -> None:
        """Create a service, and its tasks one by one, each on its node. Swarm chooses every address."""
        tasks, spec.tasks = spec.tasks, []
        self._specs[spec.name] = spec
        networks = (spec.network, *dict.fromkeys(other for task in tasks for other in task.joins))
        command = image.command(self.scenario.traffic.port, self._server)
        self._orchestrator.create(spec.name, networks, command)
        for task in tasks:
            self._place(spec, task)

    def _place(self, spec: ServiceSpec, task: Task) -> None:
        known = [each.id for each in self._running.values()]
        running = self._orchestrator.place(spec.name, task.node, known)
        spec.vip = self._orchestrator.vip(spec.name, spec.network)
        task.service, task.network, task.number = spec.name, spec.network, running.slot
        task.address = running.addresses[self._orchestrator.network_id(spec.network)]
        task.joins = {other: running.addresses[self._orchestrator.network_id(other)] for other in task.joins}
        self._running[task.name] = running
        spec.tasks.append(task)
        container = self.containers[task.name] = self._adopted(spec, task, running)
        if self._server.runs != "container":
            self._serve(container, running)
        _await(
            lambda: "" if look.listens(container.netns, self.scenario.traffic.port) else "it does not listen", task.name
        )

    def _serve(self, container: Container, running: Running) -> None:
        """Start a task's server outside of its container, in the network namespace and perhaps the cgroup of that."""
        argv = self._server.argv(container.task.number)
        if self._server.runs == "cgroup":
            first, *_ = self._nodes[container.task.node].processes(running.pid)
            argv = list(cgroup.enter_argv(cgroup.of(first), argv))
        container.processes.append(self.spawn(container.task.name, argv, stdout=subprocess.DEVNULL))

    def _adopted(self, spec: ServiceSpec, task: Task, running: Running) -> Container:
        node = self._nodes[task.node]
        name = f"{self._journal.run}-{task.name}"
        told = node.engine.get(f"/containers/{running.container}/json")
        node.adopt(os.path.basename(told["NetworkSettings"]["SandboxKey"]), name)
        container = Container(task, name)
        interfaces = look.addresses(name)
        for network, address in {task.network: task.address, **task.joins}.items():
            vip = spec.vip if network == spec.network else None
            overlay, interface = self._sandbox("1-", network, task.node), interfaces[address]
            own = look.mac(name, interface)
            container.endpoints.append(
                Endpoint(task.name, network, task.node, name, interface, address, own, overlay, "", vip)
            )
        return container

    def _sandbox(self, kind: str, network: str, node: str) -> str:
        """Return our name of a network's namespace on a node, "" if there is none: "1-" of the overlay, "lb_"."""
        wanted = self._orchestrator.network_id(network)[: _IDS if kind == "1-" else _IDS - 1]
        for each in self._nodes[node].sandboxes():
            if each.startswith(kind) and each[len(kind) :].startswith(wanted):
                role = f"lb.{node}.{network}" if kind == "lb_" else f"{node}.{network}"
                name = f"{self._journal.run}-{role}"
                self._nodes[node].adopt(each, name)
                return name
        return ""

    # -- what runs -----------------------------------------------------------------------------------------------

    def service(self, name: str) -> Service:
        spec = self._specs[name]
        backends = tuple(Backend(task.address, 0 if task.name in self._drained else 1) for task in spec.tasks)
        return Service(name, spec.network, spec.vip, backends)

    def specs(self) -> list[ServiceSpec]:
        return list(self._specs.values())

    def services(self) -> list[Service]:
        return [self.service(name) for name, spec in self._specs.items() if spec.tasks]

    def namespaces(self) -> list[tuple[str, str, str]]:
        found = [("host", node, self._fabric.host_netns(node)) for node in self._nodes]
        segments = self._segments()
        found += [("overlay", node, self._sandbox("1-", network, node)) for network, node in segments]
        found += [("container", c.task.node, c.netns) for c in self.containers.values() if not c.crashed]
        return found + [("lb", node, self._sandbox("lb_", network, node)) for network, node in segments]

    def _segments(self) -> list[tuple[str, str]]:
        """Return every network with each of its nodes: those that have a task on it."""
        alive = [each for each in self.containers.values() if not each.crashed]
        return sorted({(end.network, each.task.node) for each in alive for end in each.endpoints})

    def footprint(self) -> list[Footprint]:
        found = []
        for network, node in self._segments():
            balancer = look.balancer(self._sandbox("lb_", network, node))
            found.append(Footprint(balancer.name, "ipvs services", len(balancer.services)))
        return found

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Stop the daemons for the block. Their timers would be measured, and by the skipped clock run for hours.

        After a block each node suspects the others, whose answers are late. One that stands still again before it has
        contradicted is taken for dead, and its backends are removed (memberlist's suspicion; seen on 20.10.24 when each
        of several waits was a block). So a block waits until the one before it is some seconds ago.
        """
        running = [each for each in self._nodes.values() if not each.frozen]
        if running:
            time.sleep(max(self._thawed + _CONTRADICTS - time.monotonic(), 0))
        for node in running:
            node.freeze()
        try:
            yield
        finally:
            for node in running:
                node.thaw()
            if running:
                self._thawed = time.monotonic()

    # -- changes -------------------------------------------------------------------------------------------------

    def settled(self) -> None:
        """Wait until the balancers of all nodes whose engines run have every service, and each node all addresses."""
        _await(lambda: next(filter(None, self._differences()), ""), "swarm")
        self._gone.clear()

    def _differences(self) -> Iterator[str]:
        balancers: dict[tuple[str, str], Balancer] = {}
        for network, node in self._segments():
            if self._nodes[node].frozen:
                continue
            name = self._sandbox("lb_", network, node)
            if not name or not self._sandbox("1-", network, node):
                yield f"{node} has no namespace of {network}"
                continue
            found = balancers[network, node] = look.balancer(name)
            for vip, weights in self._wanted(network):
                yield found.lacks(vip, weights)
        for network, node in balancers:
            remote = [one.own for (other, where), one in balancers.items() if other == network and where != node]
            remote += self._remote(network, node)
            yield look.unknown(self._sandbox("1-", network, node), remote)

    def _wanted(self, network: str) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield the VIPs on a network with the backends that each must have: none if its service was removed."""
        for name, spec in self._specs.items():
            if spec.network == network and spec.vip:
                yield spec.vip, {each.address: each.weight for each in self.service(name).backends}
        yield from ((vip, {}) for other, vip in self._gone if other == network)

    def _remote(self, network: str, node: str) -> Iterator[str]:
        """Yield the addresses on a network of containers that run on other nodes."""
        for each in self.containers.values():
            if each.task.node != node and not each.crashed and each.task.name not in self._drained:
                yield from (end.address for end in each.endpoints if end.network == network)

    def create_service(self, spec: ServiceSpec) -> None:
        if any(task.remapped for task in spec.tasks):
            raise NotApplicable("a user namespace of its own is the daemon's option, and not a task's")
        if spec.vip or any(task.address for task in spec.tasks):
            self.demand_addresses()
        try:
            self._create(spec)
        except BenchError:
            self.remove_service(spec.name)
            raise

    def remove_service(self, name: str) -> None:
        spec = self._specs.pop(name)
        self._orchestrator.remove(name)
        for task in spec.tasks:
            self._end(task)
        if spec.vip:
            self._gone.append((spec.network, spec.vip))

    def scale(self, name: str, replicas: int) -> None:
        spec = self._specs[name]
        if 0 < replicas < len(spec.tasks):
            raise NotApplicable("a swarm chooses itself which tasks it removes")
        if not replicas:
            self._orchestrator.hold(name, 0)
            tasks, spec.tasks = spec.tasks, []
            for task in tasks:
                self._end(task)
            self._orchestrator.await_none(name)
        nodes = spec.nodes or self.scenario.nodes
        for number in range(len(spec.tasks), replicas):
            self._place(spec, Task(f"{name}.{number + 1}", nodes[number % len(nodes)]))

    def drain(self, task: str) -> None:
        """Let no task of the service be on the node. Swarm sets the weight to 0, and ends the task after its grace."""
        found = self.containers[task].task
        others = [each for each in self._specs[found.service].tasks if each.node == found.node]
        if len(others) > 1:
            raise NotApplicable("a swarm chooses the node of a task, and not the task, that it shuts down")
        self._drained.add(task)
        self._orchestrator.banish(found.service, found.node)

    def remove_task(self, task: str) -> None:
        """Have swarm shut a task down, and then end it as its grace period would."""
        found = self.containers[task].task
        self.drain(task)
        self.settled()
        self._specs[found.service].tasks.remove(found)
        self._end(found)

    def crash(self, task: str) -> None:
        """Kill the container, and keep its end from the engine, as on a node that is gone before it can tell."""
        container = self.containers[task]
        first, *_ = self._nodes[container.task.node].processes(self._running[task].pid)
        self._silent[task] = pids.parent(first)  # containerd's shim, which waits for its container's end
        os.kill(self._silent[task], signal.SIGSTOP)
        container.crashed = True
        container.stop()
        os.kill(first, signal.SIGKILL)
        self._journal.discharge("netns", container.netns)

    def stop_server(self, task: str) -> None:
        container = self.containers[task]
        container.stop()
        _, *others = self._nodes[container.task.node].processes(self._running[task].pid)
        for each in others:
            with suppress(OSError), open(f"/proc/{each}/cmdline", "rb") as file:
                if image.SERVER.encode() in file.read():
                    os.kill(each, signal.SIGKILL)

    def behind(self, container: str) -> AbstractContextManager[str]:
        return self._fabric.behind(self.containers[container].endpoints[0])

    def demand_addresses(self) -> None:
        raise NotApplicable("a swarm chooses addresses itself")

    def demand_alterable(self, namespaces: Sequence[str]) -> None:
        """Permit changes where a test of one's own would make them: in containers and on nodes."""
        kept = {name for kind, _, name in self.namespaces() if kind in ("overlay", "lb")}
        if kept & set(namespaces):
            raise NotApplicable("the engine has programmed this namespace, and does not put back what others change")

    def _end(self, task: Task) -> None:
        """End a task's container now, and not after its grace period."""
        container, running = self.containers.pop(task.name), self._running.pop(task.name)
        container.stop()
        if shim := self._silent.pop(task.name, 0):
            os.kill(shim, signal.SIGCONT)
        with suppress(Refused):  # it has ended already
            self._nodes[task.node].engine.post(f"/containers/{running.container}/kill")
        if not container.crashed:
            self._journal.discharge("netns", container.netns)
        self._drained.discard(task.name)


def _demand_expressible(scenario: Scenario) -> None:
    """Demand that a swarm has words for the whole scenario. Raises NotApplicable."""
    subnets = [IPv4Network(each.subnet) for each in scenario.networks]
    lacking = {
        "networks whose subnets overlap": any(one.overlaps(other) for one, other in combinations(subnets, 2)),
        "filler services, whose backends are those of another service": scenario.filler and scenario.filler.count,
        "containers without a service": scenario.idlers,
        "weights": any(task.weight != 1 for task in scenario.tasks()),
        "tasks with a user namespace of their own": any(task.remapped for task in scenario.tasks()),
    }
    if found := [what for what, there in lacking.items() if there]:
        raise NotApplicable(f"a swarm has no {found[0]}", where=f"scenario {scenario.name}")


def _await(lacking: Callable[[], str], where: str) -> None:
    """Wait until nothing is lacking. Raises TimedOut with what is."""
    deadline = time.monotonic() + _SETTLES
    while why := lacking():
        if time.monotonic() > deadline:
            raise TimedOut("the swarm does not settle", where=where, why=why)
        time.sleep(_LOOK)
