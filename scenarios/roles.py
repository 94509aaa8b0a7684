"""Who stands for whom: the containers of a world file in the roles of the scenario `matrix`, whose names checks use.

A role that nobody plays is missing, and checks that need it are not applicable. A role that is played by the wrong one
would make a check say something false, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from msgspec import Struct

from dataplanes.errors import NotApplicable, Usage
from scenarios.casting import CREATED
from scenarios.topology import Network, Scenario, ServiceSpec, Task, Traffic
from scenarios.world_file import WorldContainer, WorldFile, WorldService

_WEB, _LONE, _SIDE = "my-web", "lone", "side-web"
_CLIENT, _VISITOR, _BOTH = "my-busybox.1", "visitor.1", "both.1"
_NODES = {_CLIENT: "worker2", f"{_LONE}.1": "worker1", _VISITOR: "manager1"}
"""The node of the scenario `matrix` on which each of these is."""


class Roles(Struct, frozen=True):
    """A world in the checks' names."""

    scenario: Scenario
    """Containers without a service are its idlers."""
    names: dict[str, dict[str, str]]
    """For nodes, networks, services and containers: the name in the world file -> the checks' name."""

    def of(self, kind: str, name: str) -> str:
        """Return the checks' name of what a world file names, or its own if it has no role."""
        return self.names[kind].get(name, name)

    def actor(self, kind: str, role: str) -> str:
        """Return the name in the world file of what plays a role. Raises NotApplicable if nothing does."""
        found = next((name for name, known in self.names[kind].items() if known == role), None)
        if found is None:
            raise NotApplicable(f"nothing in this world stands for {role}")
        return found

    @property
    def played_by(self) -> dict[str, str]:
        """The checks' names, each with the name in the world file."""
        return {role: name for roles in self.names.values() for name, role in roles.items()}


def give_roles(found: WorldFile, fault: Callable[[str, str], Usage]) -> Roles:
    """Return the world in the checks' names. `fault` makes the error about a field. Raises Usage."""
    return _RoleGiver(found, fault).give()


class _RoleGiver:
    def __init__(self, found: WorldFile, fault: Callable[[str, str], Usage]) -> None:
        self._found, self._fault = found, fault
        self._services: dict[str, WorldService] = {each.stands_for: each for each in found.services if each.stands_for}
        self._containers: dict[str, WorldContainer] = {
            each.stands_for: each for each in found.containers if each.stands_for
        }

    def give(self) -> Roles:
        if not {_WEB, _LONE} & self._services.keys() or _CLIENT not in self._containers:
            self._fail("services[0]", f"nothing stands for {_CLIENT}, or for one of {_WEB} and {_LONE}")
        for role, service in self._services.items():
            for number, each in enumerate(self._tasks(role, service), 1):
                if each.stands_for:
                    self._fail(self._at(each), f"it stands for {role}.{number}, and not for {each.stands_for}, too")
                self._containers[f"{role}.{number}"] = each
        self._review()
        self._name()
        return Roles(self._scenario(), self._roles)

    def _fail(self, field: str, why: str) -> NoReturn:
        raise self._fault(field, why)

    def _at(self, container: WorldContainer) -> str:
        return f"containers[{self._found.containers.index(container)}].stands_for"

    def _of(self, service: WorldService) -> list[WorldContainer]:
        return [each for each in self._found.containers if each.service == service.name]

    def _tasks(self, role: str, service: WorldService) -> list[WorldContainer]:
        """Return a service's containers in the order of the checks' names."""
        field, there = f"services[{self._found.services.index(service)}].stands_for", self._of(service)
        if role != _WEB:
            if len(there) != 1:
                self._fail(field, f"{role} has one container, and {service.name} has {len(there)}")
            return there
        if len(there) != 3:
            self._fail(field, f"{role} has three containers, and {service.name} has {len(there)}")
        client = self._containers[_CLIENT].node
        near = next((each for each in there if each.node == client), None)
        lone = self._services.get(_LONE)
        beside = self._of(lone)[0].node if lone and self._of(lone) else None
        last = next((each for each in there if each is not near and beside in (None, each.node)), None)
        if near is None:
            self._fail(field, f"a container of {role} is on the node of {_CLIENT}, {client}; none of these is")
        if last is None:
            self._fail(field, f"another container of {role} is on the node of {_LONE}, {beside}; none of these is")
        return [near, *(each for each in there if each not in (near, last)), last]

    def _review(self) -> None:
        """Demand of each role what checks take for granted."""
        web = [self._containers[f"{_WEB}.{number}"] for number in (1, 2, 3)] if _WEB in self._services else []
        client, visitor, both = (self._containers.get(role) for role in (_CLIENT, _VISITOR, _BOTH))
        lone, side = (self._containers.get(f"{role}.1") for role in (_LONE, _SIDE))
        assert client
        if client.service in [self._services[role].name for role in (_WEB, _LONE) if role in self._services]:
            self._fail(self._at(client), f"{_CLIENT} calls {_WEB} and {_LONE}, and is no container of either")
        networks = {self._services[role].network for role in (_WEB, _LONE) if role in self._services}
        if len(networks) > 1:
            self._fail("services[0].network", f"{_WEB} and {_LONE} are on one network")
        (network,) = networks
        if lone and lone.node == client.node:
            self._fail(self._at(client), f"{_CLIENT} and {_LONE} are on two nodes")
        if visitor and visitor.node in [each.node for each in (*web, client, *filter(None, [lone]))]:
            self._fail(self._at(visitor), f"{_VISITOR} is on a node without {_CLIENT}, {_WEB} and {_LONE}")
        if side and network in side.addresses:
            self._fail(self._at(side), f"{_SIDE}.1 is not on {network}")
        if both and not (side and {network, self._services[_SIDE].network} <= both.addresses.keys()):
            self._fail(self._at(both), f"{_BOTH} is on {network} and on the network of {_SIDE}")
        for each in filter(None, (client, visitor)):
            if network not in each.addresses:
                self._fail(self._at(each), f"{each.stands_for} is on {network}")

    def _name(self) -> None:
        """Give everything that has a role the role's name. Nothing else may have that name."""
        first = self._services.get(_WEB) or self._services[_LONE]
        networks = {first.network: "my-network"}
        if _SIDE in self._services:
            networks[self._services[_SIDE].network] = "side"
        self._roles = {
            "nodes": {self._containers[role].node: node for role, node in _NODES.items() if role in self._containers},
            "networks": networks,
            "services": {each.name: role for role, each in self._services.items()},
            "containers": {each.name: role for role, each in self._containers.items()},
        }
        for field, roles in self._roles.items():
            for number, each in enumerate(getattr(self._found, field)):
                if each.name in roles.values() and roles.get(each.name) != each.name:
                    self._fail(f"{field}[{number}].name", f"{each.name} is the checks' name of another one")
                if CREATED.match(each.name.partition(".")[0]):
                    self._fail(f"{field}[{number}].name", f"services that checks create are called {each.name}, too")

    def _scenario(self) -> Scenario:
        """Return the world as a scenario. What has no role keeps its own name."""
        found = self._found

        def role(kind: str, of: str) -> str:
            return self._roles[kind].get(of, of)

        def task(each: WorldContainer, number: int, network: str) -> Task:
            joins = {role("networks", other): address for other, address in each.addresses.items() if other != network}
            own = role("services", each.service) if each.service else ""
            return Task(
                role("containers", each.name),
                role("nodes", each.node),
                each.addresses[network],
                own,
                role("networks", network),
                number,
                joins=joins,
            )

        def tasks(service: WorldService) -> list[Task]:
            there = self._ordered(service)
            return [task(each, number, service.network) for number, each in enumerate(there, 1)]

        return Scenario(
            nodes=[role("nodes", each.name) for each in found.nodes],
            networks=[Network(role("networks", each.name), each.subnet, each.mtu) for each in found.networks],
            services=[
                ServiceSpec(
                    role("services", each.name), role("networks", each.network), each.vip, tasks(each), ports=each.ports
                )
                for each in found.services
            ],
            traffic=Traffic(_CLIENT, role("services", next(iter(self._services.values())).name), found.port),
            name=found.name,
            idlers=[task(each, 0, self._first(each)) for each in found.containers if not each.service],
        )

    def _ordered(self, service: WorldService) -> Sequence[WorldContainer]:
        return self._tasks(service.stands_for, service) if service.stands_for else self._of(service)

    def _first(self, container: WorldContainer) -> str:
        """Return the network that a check means if it names none."""
        own = (self._services.get(_WEB) or self._services[_LONE]).network
        return own if own in container.addresses else next(iter(container.addresses))
