"""A placement and a mechanism that write down what they would do, and hold the order of steps that a plane promises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from dataplanes.base import Attachments, Counter, Director, Footprint, Mechanism, Placement, Site
from dataplanes.errors import KernelRefused
from dataplanes.model import Endpoint, Segment, Service
from dataplanes.requirements import Requirement

SUBNETS = {"a": "10.0.0", "b": "10.0.1"}
NODES = ("n1", "n2")


class World:
    """What was done in the namespaces. One step is refused: at once, or when half of it was done."""

    def __init__(self) -> None:
        self.segments: set[tuple[str, str]] = set()
        self.attached: dict[str, Endpoint] = {}
        self.joined: set[str] = set()  # containers
        self.ready: set[str] = set()  # namespaces
        self.programmed: dict[str, dict[str, Service]] = {}  # namespace -> name -> service
        self.published: dict[str, set[str]] = {}  # namespace -> VIPs
        self.damaged: set[str] = set()
        self.refused_at = 0  # the step from now on; 0: none is
        self.half = False
        self.refused = False  # a step was: those that follow undo the others

    def step(self, act: Callable[[], object], *, atomic: bool = False) -> None:
        self.refused_at -= 1
        if self.refused_at == 0:
            if self.half and not atomic:
                act()
            self.refused = True
            raise KernelRefused("refused", where="here")
        act()

    def state(self) -> tuple[object, ...]:
        """What there is, but for namespaces where somebody else was."""
        spaces = (self.programmed, self.published)
        kept = [{name: held for name, held in each.items() if held and name not in self.damaged} for each in spaces]
        return copy.deepcopy((self.segments, self.attached, self.joined, self.ready - self.damaged, *kept))


class Anywhere(Placement):
    """A site for each segment, which is an attachment of its own, and one for each container."""

    name = "anywhere"

    def __init__(self, world: World) -> None:
        self._world = world

    @classmethod
    def requires(cls, *arguments: object, **options: object) -> tuple[Requirement, ...]:
        return ()

    def open_segment(self, segment: Segment, attachments: Attachments) -> list[Site]:
        made: list[Site] = []

        def act() -> None:
            self._world.segments.add((segment.network, segment.node))
            endpoint = attachments.attach(segment.network, segment.node, "lb")
            made.append(site_of(endpoint, segment.subnet))

        self._world.step(act, atomic=True)
        return made

    def close_segment(self, segment: Segment, sites: Sequence[Site], attachments: Attachments) -> None:
        def act() -> None:
            (site,) = sites
            assert site.endpoint
            assert (site.endpoint.network, site.endpoint.node) == (segment.network, segment.node)
            attachments.detach(site.endpoint)
            self._world.segments.remove((segment.network, segment.node))

        self._world.step(act, atomic=True)

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        assert (segment.network, segment.node) == (endpoint.network, endpoint.node)
        self._world.step(lambda: self._world.joined.add(endpoint.netns))
        return [site_of(endpoint, segment.subnet)]

    def close_endpoint(self, endpoint: Endpoint, sites: Sequence[Site]) -> None:
        assert [site.endpoint for site in sites] in ([], [endpoint])
        assert endpoint.netns not in self._world.ready
        self._world.step(lambda: self._world.joined.discard(endpoint.netns))

    def set_up(self, site: Site) -> None:
        self._world.step(lambda: self._world.ready.add(site.netns))

    def clear(self, site: Site) -> None:
        assert site.netns not in self._world.programmed
        self._world.step(lambda: self._world.ready.discard(site.netns))

    def intact(self, site: Site) -> bool:
        return site.netns in self._world.ready

    def publish(self, site: Site, services: Sequence[Service]) -> None:
        def act() -> None:
            for service in services:
                assert self._world.programmed[site.netns][service.name] == service
                self._world.published.setdefault(site.netns, set()).add(service.vip)

        assert site.netns in self._world.ready
        self._world.step(act)

    def withdraw(self, site: Site, services: Sequence[Service]) -> None:
        def act() -> None:
            for service in services:
                self._world.published.get(site.netns, set()).discard(service.vip)

        self._world.step(act)


class Written(Mechanism):
    """A mechanism that programs nothing, and writes down what it would program."""

    name = "written"

    def __init__(self, world: World) -> None:
        self._world = world
        self.closed = False

    @classmethod
    def requires(cls, *arguments: object, **options: object) -> tuple[Requirement, ...]:
        return ()

    def open(self, site: Site) -> Director:
        def act() -> None:
            assert site.netns not in self._world.programmed
            self._world.programmed[site.netns] = {}

        assert site.netns in self._world.ready
        self._world.step(act, atomic=True)
        return Desk(self._world, site.netns)

    def close(self) -> None:
        self.closed = True


class Desk(Director):
    """The director of one site, which remembers what it was told."""

    def __init__(self, world: World, netns: str) -> None:
        self._world, self._netns = world, netns
        self._told: dict[str, Service] = {}

    def apply(self, services: Sequence[Service]) -> None:
        def act() -> None:
            self._told |= {service.name: service for service in services}
            self._world.programmed[self._netns] = dict(self._told)

        self._world.step(act, atomic=True)

    def remove(self, services: Sequence[Service]) -> None:
        def act() -> None:
            for service in services:
                # On the way back a VIP that was to change hands is given to nobody first, and then to its old service.
                assert self._world.refused or service.vip not in self._world.published.get(self._netns, set())
                del self._told[service.name]
            self._world.programmed[self._netns] = dict(self._told)

        self._world.step(act, atomic=True)

    def resync(self) -> None:
        self._world.step(lambda: self._world.programmed.update({self._netns: dict(self._told)}), atomic=True)

    def intact(self) -> bool:
        return self._world.programmed[self._netns] == self._told

    def counters(self) -> list[Counter]:
        return [Counter(self._netns, name, "10.0.0.3", 1) for name in self._told]

    def footprint(self) -> list[Footprint]:
        return [Footprint(self._netns, "services", len(self._told))]

    def close(self) -> None:
        assert not self._world.published.get(self._netns)
        self._world.step(lambda: self._world.programmed.pop(self._netns, None), atomic=True)


class Lab:
    """The attachments that a placement asks for."""

    def __init__(self, world: World) -> None:
        self._world = world

    def attach(self, network: str, node: str, role: str) -> Endpoint:
        address = f"{SUBNETS[network]}.{100 + NODES.index(node)}"
        made = Endpoint(f"lb-{node}", network, node, f"lb.{node}.{network}", "eth0", address, "", "", "")
        self._world.attached[made.netns] = made
        return made

    def detach(self, endpoint: Endpoint) -> None:
        del self._world.attached[endpoint.netns]


def site_of(endpoint: Endpoint, subnet: str) -> Site:
    return Site(
        endpoint.netns, endpoint.network, endpoint.node, subnet, "output", "snat", "eth0", endpoint.address, endpoint
    )
