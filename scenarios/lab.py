"""The lab: a scenario built in namespaces, with running services, a data plane, and methods that change them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Literal

from msgspec.structs import replace

from dataplanes.base import DataPlane, Footprint
from dataplanes.errors import BenchError, Usage
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Port, Protocol, Service
from scenarios import cgroup
from scenarios.container import Container
from scenarios.dns import Resolver, resolv_conf
from scenarios.fabric import Fabric
from scenarios.journal import ETC, Journal
from scenarios.pool import Pool
from scenarios.roster import Roster, next_name
from scenarios.stopwatch import Taken, timed
from scenarios.testbed import Testbed
from scenarios.topology import Filler, Scenario, ServiceSpec, Task


class Lab(Testbed):
    """A running lab. Enter it, use it, leave it. On leaving, the journal removes everything that it created."""

    def __init__(
        self,
        scenario: Scenario,
        plane: Callable[[Lab], DataPlane],
        *,
        journal: Journal,
        server: Callable[[Task], Sequence[str]],
        cgroups: bool = False,
        declared: Sequence[Protocol] = (),
        in_turn: bool = True,
    ) -> None:
        """Create a lab for a plane that serves any port or only declared ones, in turn or at random.

        `server` returns the program that a task runs, which prints a line when it serves. `declared` are the transports
        by which a service that declares no port has the one of the traffic; without, it has every port.
        """
        self.scenario, self.in_turn = scenario, in_turn
        self.plane: DataPlane | None = None
        self._make_plane = plane
        self._journal, self._server = journal, server
        self._cgroups = cgroups
        self.fabric = Fabric(scenario, journal)
        self._pools = {network.name: Pool(network.subnet) for network in scenario.networks}
        self._filled = 0
        self._attached: dict[str, tuple[str, str]] = {}  # attachment -> its address and its interface's name
        self._resolver: Resolver | None = None
        self._roster = Roster(tuple(Port(each, scenario.traffic.port) for each in ("tcp", "udp") if each in declared))
        self.containers: dict[str, Container] = {}
        self.applied = Taken()  # the time the plane took to program all services at once
        self.joined = Taken()  # the time the plane took to add the last container

    def __enter__(self) -> Lab:
        try:
            self._build()
            self.install(self._make_plane)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as steps:  # the last one first, and each even if others fail
            steps.callback(self.fabric.close)
            if self._resolver:
                steps.callback(self._resolver.close)
            for container in self.containers.values():
                steps.callback(container.stop)
            if self.plane:
                steps.callback(self.plane.release)
            self.plane = self._resolver = None

    # -- building ------------------------------------------------------------------------------------------

    def _build(self) -> None:
        for service in self.scenario.services:
            self._pools[service.network].claim(service.vip)
            for task in service.tasks:
                for network, address in {task.network: task.address, **task.joins}.items():
                    self._pools[network].claim(address)
        for idler in self.scenario.idlers:
            self._pools[idler.network].claim(idler.address)
        self.fabric.build()
        self._resolver = Resolver()
        self._journal.process(self._resolver.pid)
        for service in self.scenario.services:
            self._roster.specs[service.name] = service
            for task in service.tasks:
                self._start(task)
        for container in self.containers.values():
            self._await_server(container)
        for idler in self.scenario.idlers:
            self._start(idler)

    def install(self, make: Callable[[Lab], DataPlane]) -> None:
        """Put a data plane on the running lab. Names resolve when it is ready."""
        plane = self.plane = make(self)
        for segment in list(self.fabric.segments.values()):
            plane.add_segment(segment)
        for container in self.containers.values():
            for endpoint in container.endpoints if not container.crashed else ():
                plane.add_endpoint(endpoint)
        services = [*self.services(), *self.fillers()]
        self.applied = timed(lambda: plane.apply(services))
        self._publish()

    def reinstall(self) -> None:
        """Remove the plane and put it on again, as a daemon's restart does."""
        self._plane().close()
        self.install(self._make_plane)

    def _start(self, task: Task) -> Container:
        container = Container(task, self.fabric.namespace(task.name, remapped=task.remapped))
        self.containers[task.name] = container
        if self._cgroups:
            container.cgroup = cgroup.make(self._journal, task.name)
        group, networks = container.cgroup, {task.network: task.address, **task.joins}
        for number, (network, address) in enumerate(networks.items()):
            vip = self._roster.specs[task.service].vip if task.service and network == task.network else None
            interface = "eth0" if number == 0 else f"eth{number + 1}"  # eth1 is the gateway's
            made = self.fabric.plug(
                task.name, network, task.node, address, into=container.netns, interface=interface, vip=vip, cgroup=group
            )
            container.endpoints.append(made)
        if task.service:  # other containers exist only to be programmed
            self.fabric.gateway(task.node, container.netns)
            resolv_conf(self._journal, container.netns)
            assert self._resolver
            self._resolver.add(container.netns, list(networks))
            container.processes.append(self.spawn(task.name, self._server(task), stdout=subprocess.PIPE))
        return container

    def _await_server(self, container: Container) -> None:
        process = container.processes[0]
        assert process.stdout
        if not process.stdout.readline():
            raise BenchError("the server did not start", where=container.task.name, why=f"exit code {process.wait()}")
        self.fabric.await_links()

    # -- the interface for placements (dataplanes.base.Attachments) --------------------------------------------

    def attach(self, network: str, node: str, role: Literal["lb", "host"]) -> Endpoint:
        """Create an attachment with an address of the network's pool, in a new namespace (lb) or in the node's (host).

        A recreated attachment has the same address, as in swarm, because neighbours know its MAC.
        """
        name = f"{role}.{node}.{network}"
        if name not in self._attached:
            taken = sum(known.startswith("host.") for known in self._attached)
            self._attached[name] = self._address(network), "eth0" if role == "lb" else f"ov{taken + 1}"
        address, interface = self._attached[name]
        with Undo() as undo:
            into = self.fabric.host_netns(node)
            if role == "lb":
                undo(partial(self.fabric.drop_namespace, f"{self._journal.run}-{name}"))
                into = self.fabric.namespace(name)
            made = self.fabric.plug(name, network, node, address, into=into, interface=interface)
            undo(partial(self.fabric.unplug, made))
            self.fabric.await_links()
            return made

    def detach(self, endpoint: Endpoint) -> None:
        """Undo `attach`."""
        self.fabric.unplug(endpoint)
        if endpoint.name.startswith("lb."):
            self.fabric.drop_namespace(endpoint.netns)

    # -- services ------------------------------------------------------------------------------------------

    def service(self, name: str) -> Service:
        return self._roster.service(name)

    def declare(self, name: str, port: Port) -> None:
        self._roster.declare(name, port, lambda service: self._plane().apply([service]))

    def services(self) -> list[Service]:
        return [self.service(name) for name, spec in self._roster.specs.items() if spec.tasks]

    def fillers(self, count: int | None = None, backends: int = 3) -> list[Service]:
        """Return the scenario's filler services, or `count` of them, with backends of the called service."""
        filler = (self.scenario.filler or Filler(0)) if count is None else Filler(count, backends)
        model = self.service(self.scenario.traffic.service)
        made = []
        for _ in range(filler.count):
            vip = self._pools[model.network].take()
            if vip is None:
                raise Usage("the subnet is too small", where=model.network, why=f"for {filler.count} services")
            self._filled += 1
            first = model.backends[: filler.backends]
            made.append(replace(model, name=f"filler-{self._filled}", vip=vip, backends=first))
        return made

    def add_node(self, name: str, like: str) -> Taken:
        """Have a node join with as many containers as another node has, on the same networks and of no service.

        Return the time that the plane takes to start there, where it has nothing yet and all services exist.
        """
        if name in self.scenario.nodes:
            raise Usage("a node with this name exists already", where=name)
        models = [container.task for container in self.containers.values() if container.task.node == like]
        known = set(self.fabric.segments)
        self.fabric.add_node(name)
        self.scenario.nodes.append(name)
        endpoints: list[Endpoint] = []
        for number, model in enumerate(models, 1):
            address, joins = self._address(model.network), {network: self._address(network) for network in model.joins}
            task = Task(f"{name}.{number}", name, address, network=model.network, joins=joins)
            endpoints += self._start(task).endpoints
        self.fabric.await_links()
        return timed(lambda: self._take_in(endpoints, known))

    def create_service(self, spec: ServiceSpec) -> None:
        """Add a service while the lab runs: first its tasks, then the plane, then its name."""
        if spec.name in self._roster.specs:
            raise Usage("a service with this name exists already", where=spec.name)
        spec.vip = self._address(spec.network, spec.vip)
        tasks, spec.tasks = spec.tasks, []
        self._roster.specs[spec.name] = spec
        try:
            for task in tasks:
                self._join(spec, task)
            self._changed(spec.name)
        except BenchError:
            self.remove_service(spec.name)
            raise

    def remove_service(self, name: str) -> None:
        """Remove a service: first from the plane, then its name, then its tasks."""
        service, spec = self.service(name), self._roster.forget(name)
        self._plane().remove([service])
        self._publish()
        for task in list(spec.tasks):
            self._leave(task)
        self._pools[service.network].release(service.vip)

    def scale(self, name: str, replicas: int) -> None:
        spec = self._roster.specs[name]
        before, nodes, gone = spec.tasks, spec.nodes or self.scenario.nodes, list[Task]()
        spec.tasks = before[:replicas]
        try:
            for number in range(len(before), replicas):
                self._join(spec, Task(next_name(name, self.containers), nodes[number % len(nodes)]))
            self._changed(name, Service(name, spec.network, spec.vip))
            gone = before[replicas:]
        except BenchError:
            gone, spec.tasks = spec.tasks[len(before) :], before
            raise
        finally:
            for task in gone:
                self._leave(task)

    def drain(self, task: str) -> None:
        """Give a task weight 0: it gets no new connections, and established ones go on."""
        self._roster.drained.add(task)
        self._changed(self.containers[task].task.service)

    def remove_task(self, task: str) -> None:
        found = self.containers[task].task
        spec = self._roster.specs[found.service]
        spec.tasks = [each for each in spec.tasks if each.name != task]
        self._changed(spec.name, Service(spec.name, spec.network, spec.vip))
        self._leave(found)

    def crash(self, task: str) -> None:
        """Remove a container with its processes and namespace. Its node knows, but its service still lists it."""
        container = self.containers[task]
        container.crashed = True
        for endpoint in container.endpoints:
            self._plane().remove_endpoint(endpoint)
            self.fabric.cut(endpoint)
        self._end(container)

    def stop_server(self, task: str) -> None:
        self.containers[task].stop()

    def late(self, node: str) -> AbstractContextManager[None]:
        return self._plane().late(node)

    def deaf(self, node: str) -> AbstractContextManager[None]:
        return self._plane().deaf(node)

    def unaware(self, node: str) -> AbstractContextManager[None]:
        return self.fabric.unaware(node)

    def _join(self, spec: ServiceSpec, task: Task) -> None:
        task.service, task.network = spec.name, spec.network
        task.address = self._address(spec.network, task.address)
        spec.tasks.append(task)
        known = set(self.fabric.segments)
        container = self._start(task)
        self._await_server(container)
        self._take_in([], known)
        self.joined = timed(lambda: self._take_in(container.endpoints, set(self.fabric.segments)))

    def _take_in(self, endpoints: Sequence[Endpoint], known: set[tuple[str, str]]) -> None:
        """Add the segments to the plane that are not known yet, and then some of their endpoints."""
        for key, segment in self.fabric.segments.items():
            if key not in known:
                self._plane().add_segment(segment)
        for endpoint in endpoints:
            self._plane().add_endpoint(endpoint)

    def _leave(self, task: Task) -> None:
        container = self.containers.pop(task.name, None)
        if container is None:  # it was not created
            return
        for endpoint in container.endpoints:
            self._plane().remove_endpoint(endpoint)
            self.fabric.unplug(endpoint)
            self._pools[endpoint.network].release(endpoint.address)
        self._end(container)
        self._journal.discharge("etc", f"{ETC}/{container.netns}")
        self._roster.drained.discard(task.name)

    def _end(self, container: Container) -> None:
        """End a container's processes, and remove its namespace and what keeps it alive. Idempotent."""
        container.stop()
        assert self._resolver
        self._resolver.remove(container.netns)
        self.fabric.drop_namespace(container.netns)

    def _changed(self, name: str, empty: Service | None = None) -> None:
        """Tell the plane first, then the resolver. A name resolves only while the balancer is ready."""
        service = self.service(name)
        if service.backends:
            self._plane().apply([service])
        else:
            self._plane().remove([empty or service])
        self._publish()

    def _publish(self) -> None:
        assert self._resolver
        self._resolver.publish(self._roster.records())

    def _plane(self) -> DataPlane:
        assert self.plane
        return self.plane

    def _address(self, network: str, wanted: str = "") -> str:
        """Take a free address of a network, or the wanted one."""
        if wanted and (wrong := self._pools[network].claim(wanted)):
            raise Usage(wrong, where=network)
        if address := wanted or self._pools[network].take():
            return address
        raise BenchError("the network has no free address", where=network)

    # -- the plane and the fabric as a testbed's -------------------------------------------------------------------

    def apply(self, services: Sequence[Service]) -> None:
        self._plane().apply(services)

    def withdraw(self, services: Sequence[Service]) -> None:
        self._plane().remove(services)

    def resync(self) -> None:
        self._plane().resync()

    def footprint(self) -> list[Footprint]:
        return self.plane.footprint() if self.plane else []

    def demand_alterable(self, namespaces: Sequence[str]) -> None:
        """Permit every change: all namespaces are the lab's own."""

    def behind(self, container: str) -> AbstractContextManager[str]:
        return self.fabric.behind(self.containers[container].endpoints[0])

    def alias(self, container: str, count: int) -> None:
        found = self.containers[container]
        found.aliases = [self._address(found.endpoints[0].network) for _ in range(count)]
        self.fabric.alias(found.endpoints[0], found.aliases)

    def attachments(self) -> list[Endpoint]:
        """Return the attachments that placements have created."""
        return [e for e in self.fabric.endpoints.values() if e.name not in self.containers]

    def namespaces(self) -> list[tuple[str, str, str]]:
        """Return (kind, node, name) of every namespace, in the order of a walk. Kinds: host, overlay, container, lb."""
        found = [("host", node, self.fabric.host_netns(node)) for node in self.scenario.nodes]
        found += [("overlay", node, s.overlay_netns) for (_, node), s in self.fabric.segments.items()]
        found += [("container", c.task.node, c.netns) for c in self.containers.values() if not c.crashed]
        known = {name for _, _, name in found}
        return found + [("lb", e.node, e.netns) for e in self.attachments() if e.netns not in known]

    def overlays(self, network: str) -> dict[str, str]:
        """As on any testbed; a namespace stays when its last container has gone."""
        return {each.node: each.overlay_netns for each in self.fabric.segments.values() if each.network == network}

    def specs(self) -> list[ServiceSpec]:
        return list(self._roster.specs.values())
