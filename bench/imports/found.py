"""The nodes, networks and services that are found in files, before they are a scenario."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import msgspec
from msgspec import Struct


class Note(Struct, frozen=True):
    """A thing that is not carried over as it is: its file and line, the thing, and the reason."""

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.why}"


class FoundNetwork(Struct):
    """A network. What the file does not tell is empty."""

    name: str
    where: str
    subnet: str = ""
    mtu: int = 0


class FoundBackend(Struct):
    """A backend of a service. Its address and its node may be unknown."""

    where: str
    address: str = ""
    node: str = ""
    weight: int = 1


class FoundService(Struct):
    """A service: its backends, or a number of replicas that are spread over nodes."""

    name: str
    where: str
    network: str
    vip: str = ""
    ports: list[str] = []
    backends: list[FoundBackend] = []
    replicas: int = 0
    everywhere: bool = False  # a replica on each node instead of a number
    may_run: list[
        Callable[[str, str], bool]
    ] = []  # each tells of a node's name and role whether replicas may run there
    joins: list[str] = []  # further networks of its containers


class Discovery(Struct):
    """What the files tell so far."""

    files: str  # their names, for what no single line tells
    nodes: list[str] = []
    networks: dict[str, FoundNetwork] = {}
    services: list[FoundService] = []
    notes: list[Note] = []

    def note(self, where: str, what: str, why: str) -> None:
        """Note a thing that is not carried over as it is."""
        self.notes.append(Note(where, what, why))

    def node(self, name: str) -> None:
        """Add a node, unless it is known."""
        if name and name not in self.nodes:
            self.nodes.append(name)

    def network(self, name: str, where: str) -> FoundNetwork:
        """Return a network, which is added if it is new."""
        return self.networks.setdefault(name, FoundNetwork(name, where))


class Virtual(Struct):
    """An address, protocol and port that are balanced, as IPVS and nftables know it. Port 0 means every port."""

    where: str
    vip: str
    protocol: str
    port: int
    backends: list[FoundBackend]
    name: str = ""

    def shape(self) -> bytes:
        """Return the backends with their weights in a form that can be compared."""
        return msgspec.json.encode([(each.address, each.weight) for each in self.backends])


def take_virtuals(found: Discovery, virtuals: list[Virtual], network: str) -> None:
    """Make services of virtual addresses. The ports of one address with the same backends are one service."""
    found.network(network, virtuals[0].where if virtuals else "")
    made: dict[tuple[str, bytes], FoundService] = {}
    taken: set[str] = set()
    for each in virtuals:
        key = each.vip, each.shape()
        if each.vip and key in made and each.port:
            service = made[key]
        else:
            again = each.vip in taken
            if again:
                why = "its backends differ from the address's other ports', and a scenario's VIP is of one service"
                found.note(each.where, f"{each.vip}:{each.port}/{each.protocol}", f"{why}; it gets a VIP of its own")
            if each.vip:
                taken.add(each.vip)
            name = each.name or f"vip-{each.vip.replace('.', '-')}{f'-{each.port}' if again else ''}"
            vip = "" if again else each.vip
            service = made[key] = FoundService(name, each.where, network, vip, backends=each.backends)
            found.services.append(service)
        port = f"{each.port}/{each.protocol}"
        if each.port and port not in service.ports:
            service.ports.append(port)


def is_address(text: str) -> bool:
    """Report whether a text is an IPv4 address."""
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
