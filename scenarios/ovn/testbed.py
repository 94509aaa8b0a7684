"""OVN as a testbed: a lab with another fabric, whose daemons are told of services as a plane is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from dataplanes.errors import NotApplicable
from dataplanes.model import Service
from dataplanes.platforms import Version
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.ovn.balancers import NO_WEIGHTS, Balancers
from scenarios.ovn.fabric import OvnFabric
from scenarios.testbed import Testbed
from scenarios.topology import Scenario, Task


class Ovn(Lab):
    """A network of OVN's daemons. Enter it, use it, leave it. The first node has the databases."""

    fabric: OvnFabric
    reasons: ClassVar[Mapping[str, str]] = {
        "resync": "a controller keeps its bridge's flows itself, and no tool of packet filters touches them",
        **dict.fromkeys(
            ("deaf", "unaware"), "a controller that hears again has the whole database, and nothing is lost"
        ),
    }

    def __init__(
        self,
        scenario: Scenario,
        made_of: Version,
        version: str,
        *,
        journal: Journal,
        server: Callable[[Task], Sequence[str]],
    ) -> None:
        """Create a network of programs of a version. Raises NotApplicable for a scenario that it cannot be."""
        if any(task.weight > 1 for task in scenario.tasks()):
            raise NotApplicable(NO_WEIGHTS, where=f"scenario {scenario.name}")
        super().__init__(scenario, self._balancers, journal=journal, server=server, in_turn=False)
        self.fabric = OvnFabric(scenario, journal, made_of, version)

    def _balancers(self, _: Lab) -> Balancers:
        return Balancers(self.fabric, "ovn")

    deaf, unaware, resync = Testbed.deaf, Testbed.unaware, Testbed.resync

    def _changed(self, name: str, empty: Service | None = None) -> None:
        """Tell of a service, also of one that has no backend any more: its VIP has a load balancer as long as it is."""
        self._plane().apply([self.service(name)])
        self._publish()

    def settled(self) -> None:
        self.fabric.await_links()
        self.fabric.synchronize()

    def tracked(self) -> dict[str, list[str]]:
        nodes = self.fabric.nodes.items() if self.fabric.in_userspace else ()
        return {self.fabric.host_netns(name): node.tracked() for name, node in nodes}

    def at_rest(self) -> AbstractContextManager[None]:
        return self.fabric.at_rest()

    def reinstall(self) -> None:
        """Start the controllers anew, which read everything again."""
        for node in self.fabric.nodes.values():
            node.restart()

    def namespaces(self) -> list[tuple[str, str, str]]:
        """Networks have no namespaces of their own: a node's bridge is in the node's."""
        return [each for each in super().namespaces() if each[0] != "overlay"]
