"""A scenario made of what was found.

It has names, addresses and nodes that a lab can have, and a client that calls a service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from itertools import chain, count, islice

from bench.imports.found import Discovery, FoundNetwork, FoundService, is_address
from dataplanes.errors import Usage
from scenarios.pool import Pool
from scenarios.topology import GATEWAY, Filler, Network, Scenario, ServiceSpec, Task, Traffic

NODES = 3
_MOST_NODES, _MOST_SERVICES, _MOST_TASKS = 100, 1000, 2000
_LONGEST = 24
"""The longest name of a service, a node or a network. A task's name has the service's, and all have at most 32."""
_WIDEST = 8
"""The shortest prefix of a network that is made wide enough for addresses which the files tell."""
_TRAFFIC = 80


def scenario(found: Discovery, nodes: int) -> Scenario:
    """Return the scenario, and add a note for all that had to be changed. Raises Usage if nothing can be called."""
    return _Maker(found, nodes).make()


class _Maker:
    """A scenario that grows service by service."""

    def __init__(self, found: Discovery, nodes: int) -> None:
        self._found = found
        self._names = {"underlay"}
        self._nodes = self._named_nodes(nodes)
        self._networks: dict[str, Network] = {}  # by the name in the file
        self._pools: dict[str, Pool] = {}  # by the name in the file
        self._turn = 0

    def make(self) -> Scenario:
        services, fillers = self._chosen()
        if not any(_size(each, self._nodes) for each in services):
            why = "; ".join(f"{note.what}: {note.why}" for note in self._found.notes[:2])
            fix = "of Kubernetes, give `kubectl get services,endpointslices,nodes -A -o yaml`"
            raise Usage("no service with a VIP has a backend", where=self._found.files, why=why, fix=fix)
        for each in self._found.networks.values():
            if any(each.name in (one.network, *one.joins) for one in services):
                self._network(each, services, fillers)
        made = [self._service(each) for each in services]
        traffic = self._traffic(made)
        found = Scenario(list(self._nodes.values()), list(self._networks.values()), made, traffic)
        found.filler = Filler(fillers) if fillers else None
        return found

    # -- names ---------------------------------------------------------------------------------------------

    def _name(self, wanted: str, where: str, kind: str) -> str:
        """Return a name that a scenario can have and that nothing else has."""
        short = wanted.partition(".")[0] if kind == "node" else wanted
        text = re.sub(r"[^a-z0-9-]+", "-", short.lower()).strip("-")[:_LONGEST].strip("-") or kind
        name, number = text, 1
        while name in self._names:
            number += 1
            name = f"{text[: _LONGEST - 5]}-{number}"
        self._names.add(name)
        if name != wanted:
            why = f"names have at most {_LONGEST} lower-case letters, digits and -, and differ"
            self._found.note(where, f"{kind} {wanted}", f"it is named {name}: {why}")
        return name

    def _named_nodes(self, least: int) -> dict[str, str]:
        """Return the nodes' names by those of the files. So many as asked for are made if the files tell fewer."""
        known = self._found.nodes
        for lost in known[_MOST_NODES:]:
            self._found.note(self._found.files, f"node {lost}", f"a scenario has at most {_MOST_NODES} nodes")
        known = known[:_MOST_NODES]
        free = (each for each in chain(["manager1"], map("worker{}".format, count(1))) if each not in known)
        names = [*islice(free, max(least - len(known), 0)), *known]
        names.sort(key=lambda each: each != "manager1")  # the first node is the manager
        return {each: self._name(each, self._found.files, "node") for each in names}

    # -- which services ------------------------------------------------------------------------------------

    def _chosen(self) -> tuple[list[FoundService], int]:
        """Return the services that become services of the scenario, and how many are carried over as fillers."""
        chosen: list[FoundService] = []
        left: list[FoundService] = []
        tasks = 1  # a client, if none of the services is one
        for each in self._found.services:
            size = _size(each, self._nodes)
            if len(chosen) < _MOST_SERVICES - 1 and tasks + size <= _MOST_TASKS:
                chosen.append(each)
                tasks += size
            else:
                left.append(each)
        if left:
            why = (
                f"a lab has at most {_MOST_SERVICES:,} services and {_MOST_TASKS:,} containers; fillers stand for these"
            )
            self._found.note(left[0].where, f"{len(left):,} services from {left[0].name} on", why)
        return chosen, min(len(left), 50_000)

    # -- networks ------------------------------------------------------------------------------------------

    def _network(self, each: FoundNetwork, services: Sequence[FoundService], fillers: int) -> None:
        need = 16 + fillers
        told: list[str] = []
        for one in services:
            size = _size(one, self._nodes)
            need += (1 + size if one.network == each.name else 0) + (size if each.name in one.joins else 0)
            if one.network == each.name:
                told += [one.vip, *(backend.address for backend in one.backends)]
        subnet = self._subnet(each, need, [IPv4Address(address) for address in told if is_address(address)])
        name = self._name(each.name, each.where, "network")
        made = self._networks[each.name] = Network(name, str(subnet))
        made.mtu = each.mtu or made.mtu
        self._pools[each.name] = Pool(made.subnet)

    def _subnet(self, each: FoundNetwork, need: int, told: Sequence[IPv4Address]) -> IPv4Network:
        """Return the network's subnet: its own, one around the addresses that the files tell, or a free one."""
        if each.subnet:
            try:
                subnet = IPv4Network(each.subnet, strict=False)
                why = _unusable(subnet, need)
            except ValueError:
                why = "it is no subnet of IPv4"
            if not why:
                return subnet
            self._found.note(each.where, f"subnet {each.subnet} of {each.name}", f"{why}; the network gets another")
        elif told:
            around = _around(told, need)
            if around and not _unusable(around, need):
                return around
        length = min(24, 32 - (need + 3).bit_length())
        taken = [IPv4Network(one.subnet) for one in self._networks.values()]
        for number in range(256):
            free = IPv4Network(f"10.{number}.0.0/{length}", strict=False)
            if not any(free.overlaps(one) for one in taken):
                return free
        return IPv4Network("10.0.0.0/8")  # networks may overlap; those of the files fill all of it

    # -- services ------------------------------------------------------------------------------------------

    def _service(self, each: FoundService) -> ServiceSpec:
        network = self._networks[each.network]
        spec = ServiceSpec(self._name(each.name, each.where, "service"), network.name, ports=each.ports[:64])
        spec.vip = self._address(each.network, each.vip, each.where, f"VIP {each.vip} of {each.name}")
        joins = {self._networks[name].name: "" for name in each.joins}
        allowed = self._allowed(each)
        if each.backends:
            for backend in each.backends:
                what = f"address {backend.address} of a backend of {each.name}"
                address = self._address(each.network, backend.address, backend.where, what)
                node = self._nodes.get(backend.node) or self._next(allowed)
                spec.tasks.append(Task(node=node, address=address, weight=backend.weight))
        else:
            nodes = allowed if each.everywhere else [self._next(allowed) for _ in range(each.replicas)]
            spec.tasks = [Task(node=node, joins=dict(joins)) for node in nodes]
        for number, task in enumerate(spec.tasks):
            task.name = f"{spec.name}.{number + 1}"
        return spec

    def _allowed(self, each: FoundService) -> list[str]:
        """Return the nodes on which a service's replicas may run: all of them if the constraints leave none."""
        roles = {name: "manager" if number == 0 else "worker" for number, name in enumerate(self._nodes)}
        found = [made for name, made in self._nodes.items() if all(may(name, roles[name]) for may in each.may_run)]
        if not found:
            self._found.note(
                each.where, f"placement of {each.name}", "no node fits; its replicas may run on every node"
            )
        return found or list(self._nodes.values())

    def _next(self, nodes: Sequence[str]) -> str:
        self._turn += 1
        return nodes[(self._turn - 1) % len(nodes)]

    def _address(self, network: str, address: str, where: str, what: str) -> str:
        """Claim an address that a file tells. Return "" if the network cannot have it; it gets another."""
        wrong = self._pools[network].claim(address) if address else None
        if wrong:
            self._found.note(where, what, f"{wrong}; it gets another address")
        return "" if wrong else address

    # -- traffic -------------------------------------------------------------------------------------------

    def _traffic(self, services: list[ServiceSpec]) -> Traffic:
        """Choose the service that is called, and a client: a task of another service, or a container of its own."""
        able = [each for each in services if any(task.weight for task in each.tasks)] or [
            each for each in services if each.tasks
        ]
        called = max(able, key=lambda each: (_tcp(each) > 0, len(each.tasks)))
        if not (port := _tcp(called)):
            self._found.note(
                self._found.files, f"service {called.name}", "the traffic is TCP; it declares 80/tcp as well"
            )
            called.ports, port = [f"{_TRAFFIC}/tcp", *called.ports[:63]], _TRAFFIC
        for each in services:
            for task in each.tasks:
                if each is not called and called.network in (each.network, *task.joins):
                    return Traffic(task.name, called.name, port)
        nodes = list(self._nodes.values())
        name = self._name("client", self._found.files, "service")
        away = [node for node in nodes if node not in {task.node for task in called.tasks}]
        client = Task(f"{name}.1", (away or nodes[-1:])[0])
        services.append(ServiceSpec(name, called.network, tasks=[client]))
        self._found.note(
            self._found.files, f"client {client.name}", f"it was added, because nothing else can call {called.name}"
        )
        return Traffic(client.name, called.name, port)


def _size(service: FoundService, nodes: dict[str, str]) -> int:
    return len(service.backends) or (len(nodes) if service.everywhere else service.replicas)


def _tcp(service: ServiceSpec) -> int:
    """Return the TCP port by which a service is called: 80 if it has it, or else its first; 0 if it has none."""
    numbers = [int(port.partition("/")[0]) for port in service.ports if port.endswith("/tcp")]
    return _TRAFFIC if not service.ports or _TRAFFIC in numbers else (numbers or [0])[0]


def _unusable(subnet: IPv4Network, need: int) -> str:
    """Return why a network cannot have a subnet, or ""."""
    if subnet.prefixlen > 29 or subnet.num_addresses < need:
        return f"it has {subnet.num_addresses:,} addresses, and {max(need, 8):,} are needed"
    if subnet.is_multicast or subnet.is_loopback or subnet.is_reserved or subnet.network_address.is_unspecified:
        return "it has no addresses for hosts"
    return f"it overlaps {GATEWAY}, which each container's gateway has" if subnet.overlaps(GATEWAY) else ""


def _around(told: Sequence[IPv4Address], need: int) -> IPv4Network | None:
    """Return the smallest subnet with all of some addresses and room for more, or None if it would be too wide."""
    for length in range(24, _WIDEST - 1, -1):
        subnet = IPv4Network((told[0], length), strict=False)
        if all(address in subnet for address in told) and subnet.num_addresses >= need + len(told):
            return subnet
    return None
