"""A scenario of somebody's own in the place of the scenario `matrix`, whose parts the checks know by name.

A check speaks of `lone`, a service with one backend. Here it is found which service of another scenario is such a one,
best on another node than the client's, and that service gets this name in the lab. What no part of a scenario can be is
missing, and checks that ask for it are not applicable. An outcome is told with the scenario's own names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from scenarios.topology import Scenario, ServiceSpec, Task

STANDS_IN_FOR = "matrix"
"""The scenario in whose place another one can stand."""
_PORT = 80
_BACKENDS = 2
"""The least number of backends of the service that is called: with one, nothing is balanced."""
_ROLES = (
    "manager1", "worker1", "worker2", "my-network", "side",
    "my-web", "my-busybox", "lone", "visitor", "both", "side-web",
)  # fmt: skip
CREATED = re.compile(r"(?:probe\d+(?:-heir)?|alias|thief|twin)\Z")
"""The services that checks create."""


def is_for_checks(name: str) -> bool:
    """Return True if checks know or create something by this name, or a task of it."""
    head = name.partition(".")[0]
    return head in _ROLES or CREATED.match(head) is not None


class Cast(Struct, frozen=True):
    """A scenario with the names that checks know. `names` has its own ones by these."""

    scenario: Scenario
    names: dict[str, str] = {}
    missing: dict[str, str] = {}  # a name that no part has, and why

    def told(self, text: str) -> str:
        """Return a text with the scenario's own names."""
        changed = {role: own for role, own in self.names.items() if role != own}
        if not changed:
            return text
        words = "|".join(sorted(map(re.escape, changed), key=len, reverse=True))
        return re.sub(rf"(?<![\w.-])(?:{words})(?![\w-]|\.\w)", lambda found: changed[found[0]], text)


def cast(scenario: Scenario) -> Cast:
    """Give the parts of a scenario the names that checks know. The scenario itself is changed."""
    return _Casting(scenario).cast()


class _Casting:
    """The names that are given so far."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._web = scenario.service(scenario.traffic.service)
        self._network = self._web.network
        self._client = next(task for task in scenario.tasks() if task.name == scenario.traffic.client)
        self._given: dict[str, str] = {}  # a part's own name -> the one that checks know
        self._missing: dict[str, str] = {}

    def cast(self) -> Cast:
        self._given[self._network] = "my-network"
        self._cast_client()
        lone = self._cast_lone()
        visitor = self._cast_visitor(lone)
        self._cast_nodes(lone, visitor)
        self._cast_web(lone)
        self._cast_side()
        names = {role: own for own, role in self._given.items()}
        self._rename()
        return Cast(self._scenario, names, self._missing)

    # -- who is who ----------------------------------------------------------------------------------------

    def _cast_client(self) -> None:
        if self._client.service == self._web.name:
            self._lack(("my-busybox", "my-busybox.1"), f"the client {self._client.name} is a backend of what it calls")
        else:
            self._give(self._scenario.service(self._client.service), "my-busybox", self._client)

    def _cast_lone(self) -> Task | None:
        """Choose a service with one backend, best on another node than the client's, and on that of a called one."""
        able = [each.tasks[0] for each in self._free() if each.network == self._network and len(each.tasks) == 1]
        if not able:
            self._lack(("lone", "lone.1"), "no further service of the client's network has a single backend")
            return None
        near = {task.node for task in self._web.tasks}
        chosen = max(able, key=lambda task: (task.node != self._client.node, not task.joins, task.node in near))
        self._give(self._scenario.service(chosen.service), "lone", chosen)
        return chosen

    def _cast_visitor(self, lone: Task | None) -> Task | None:
        """Choose a container on a node that has neither the client nor `lone`, and no backend of the called service."""
        taken = {task.node for task in self._web.tasks} | {self._client.node} | ({lone.node} if lone else set())
        for service in self._free():
            for task in service.tasks:
                if service.network == self._network and task.node not in taken:
                    self._give(service, "visitor", task)
                    return task
        self._lack(
            ("visitor", "visitor.1"),
            "no container is on a node without a backend of the called service, apart from the client's",
        )
        return None

    def _cast_nodes(self, lone: Task | None, visitor: Task | None) -> None:
        chosen = {"worker2": self._client.node}
        rest = [node for node in self._scenario.nodes if node != self._client.node]
        for role, task in (("worker1", lone), ("manager1", visitor)):
            reserved = visitor.node if visitor and role == "worker1" else ""
            able = (
                [task.node] if task and task.node != self._client.node else [node for node in rest if node != reserved]
            )
            if able and able[0] in rest:
                chosen[role] = able[0]
                rest.remove(able[0])
            else:
                count = len(self._scenario.nodes)
                self._lack(
                    (role,), f"the scenario has {count} node{'s' if count > 1 else ''}, and the check needs more"
                )
        self._given |= {node: role for role, node in chosen.items()}

    def _cast_web(self, lone: Task | None) -> None:
        """Name the called service's backends: first those on the client's node, and as third one beside `lone`."""
        tasks = self._web.tasks
        if len(tasks) < _BACKENDS:
            why = f"{self._web.name} has {len(tasks)} backend, and the check needs {_BACKENDS}"
            self._lack(("my-web", *(f"my-web.{number}" for number in (1, 2, 3))), why)
            return
        near = next((task for task in tasks if lone and task.node == lone.node and task is not lone), None)
        order = sorted((task for task in tasks if task is not near), key=lambda task: task.node != self._client.node)
        if len(order) < _BACKENDS:  # there are two, and the checks need both more than a neighbour of `lone`
            order, near = [*order, *([near] if near else [])], None
        self._given[self._web.name] = "my-web"
        names = ["my-web.1", "my-web.2", *(f"my-web.{number}" for number in range(4, len(tasks) + 4))]
        self._given |= {task.name: name for task, name in zip(order, names, strict=False)}
        if near:
            self._given[near.name] = "my-web.3"
        else:
            self._lack(
                ("my-web.3",), f"no third backend of {self._web.name} is on the node of a service with one backend"
            )

    def _cast_side(self) -> None:
        """Choose a container on two networks, and a service with one backend on the second of them."""
        for service in self._free():
            for task in service.tasks if service.network == self._network else ():
                for other in self._free():
                    if other.network in task.joins and len(other.tasks) == 1:
                        self._given[other.network] = "side"
                        self._give(service, "both", task)
                        self._give(other, "side-web", other.tasks[0])
                        return
        why = "no container is on two networks of which the second has a service with one backend"
        self._lack(("side", "both", "both.1", "side-web", "side-web.1"), why)

    def _free(self) -> Iterable[ServiceSpec]:
        """Yield the services that have no role yet."""
        for each in self._scenario.services:
            if each is not self._web and each.name not in self._given and each.name != self._client.service:
                yield each

    def _give(self, service: ServiceSpec, role: str, first: Task) -> None:
        """Give a service a name, and its tasks names of which the first is that of a certain one."""
        self._given[service.name] = role
        order = [first, *(task for task in service.tasks if task is not first)]
        self._given |= {task.name: f"{role}.{number}" for number, task in enumerate(order, 1)}

    def _lack(self, roles: Sequence[str], why: str) -> None:
        self._missing |= dict.fromkeys(roles, why)

    # -- the new names ---------------------------------------------------------------------------------------

    def _rename(self) -> None:
        """Give every part its name. One that keeps its own must not have a name that checks know."""
        scenario, named = self._scenario, self._given
        parts = [*scenario.nodes, *(each.name for each in scenario.networks)]
        parts += [each.name for each in scenario.services] + [task.name for task in scenario.tasks()]
        for part in parts:
            if part not in named:
                named[part] = _kept(part, parts)
        scenario.nodes = [named[node] for node in scenario.nodes]
        for network in scenario.networks:
            network.name = named[network.name]
        for service in scenario.services:
            service.name, service.network = named[service.name], named[service.network]
            service.nodes = [named[node] for node in service.nodes]
            service.ports = _with_port(service.ports)
            for task in service.tasks:
                task.name, task.weight = named[task.name], 1
        for task in [*scenario.tasks(), *scenario.idlers]:
            task.node, task.network = named[task.node], named[task.network]
            task.service = named.get(task.service, "")
            task.joins = {named[network]: address for network, address in task.joins.items()}
        _in_order(self._web, named)
        traffic = scenario.traffic
        traffic.client, traffic.service, traffic.port = named[traffic.client], named[traffic.service], _PORT


def _kept(name: str, others: Collection[str]) -> str:
    """Return the name of a part without a role: its own, or a free one if checks would take it for another part."""
    made = name
    while is_for_checks(made) or (made != name and made in others):
        made = f"own-{made}"
    return made


def _in_order(web: ServiceSpec, named: Mapping[str, str]) -> None:
    """Put the called service's backends in the order of their numbers, in which servers are numbered."""
    if web.name == "my-web":
        web.tasks.sort(key=lambda task: int(task.name.rpartition(".")[2]))


def _with_port(ports: list[str]) -> list[str]:
    """Return declared ports with the one that checks ask, by TCP and UDP."""
    if not ports:
        return []
    asked = [f"{_PORT}/tcp", f"{_PORT}/udp"]
    kept = [each for each in ports if each not in (*asked, str(_PORT))]
    return [*asked, *kept[: 64 - len(asked)]]
