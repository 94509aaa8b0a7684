"""World files: containers that exist already, described in TOML (docs/adopt.md), on which the checks are to run.

Checks know the containers of the scenario `matrix` by name. A world file says what stands for them. Everything is
checked when it is read, before anything is done.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal, NoReturn, get_args

from msgspec import Meta, Struct

from dataplanes import files, plane_file, toml
from dataplanes.errors import Usage
from dataplanes.model import Protocol
from dataplanes.texts import clean
from scenarios import ports

VERSION = 1
"""The version of the form of world files."""
_MOST = 256 << 10
MOST_CONTAINERS = 256
CommandVerb = Literal["create", "scale", "drain", "remove"]
"""A change that a command of the world file makes."""
WorldName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$")]
ServiceRole = Literal["my-web", "lone", "side-web"]
"""The services that checks know."""
ClientRole = Literal["my-busybox.1", "visitor.1", "both.1"]
"""The containers that checks know beside those of the services."""


class WorldNode(Struct, frozen=True, forbid_unknown_fields=True):
    """A node on which containers are."""

    name: WorldName
    netns: Annotated[
        str, Meta(description="Its own namespace: a name of `ip netns`, or a path. Checks look into it.")
    ] = ""
    uplink: Annotated[
        str, Meta(min_length=1, max_length=15, description="The interface by which it reaches the other nodes.")
    ] = "eth0"
    engine: Annotated[str, Meta(description="The socket of the engine that knows its containers by id.")] = (
        "/var/run/docker.sock"
    )


class WorldNetwork(Struct, frozen=True, forbid_unknown_fields=True):
    """A network that containers are on."""

    name: WorldName
    subnet: str
    mtu: Annotated[int, Meta(ge=576, le=9000)] = 1450


class WorldService(Struct, frozen=True, forbid_unknown_fields=True):
    """A service that is balanced already. Its containers name it."""

    name: WorldName
    network: WorldName
    vip: str
    ports: Annotated[list[str], Meta(description="The ports that it declares: 80, 53/udp. None: every port.")] = []
    stands_for: Annotated[ServiceRole | Literal[""], Meta(description="The service of the checks that it is.")] = ""


class WorldContainer(Struct, frozen=True, forbid_unknown_fields=True):
    """A container that runs. One of `netns`, `pid` and `docker` says where its network namespace is."""

    name: WorldName
    node: WorldName
    addresses: Annotated[dict[str, str], Meta(min_length=1, description="A network -> its address there.")]
    service: Annotated[str, Meta(description="The service whose VIP leads to it.")] = ""
    netns: Annotated[str, Meta(description="Its namespace: a name of `ip netns`, or a path.")] = ""
    pid: Annotated[int, Meta(ge=0, le=2**22, description="A process in it.")] = 0
    docker: Annotated[str, Meta(description="Its id or name, as its node's engine knows it.")] = ""
    stands_for: Annotated[ClientRole | Literal[""], Meta(description="The container of the checks that it is.")] = ""


class WorldFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A world file as it is written."""

    name: Annotated[str, Meta(description="The name of the column in the matrix.")]
    nodes: Annotated[list[WorldNode], Meta(min_length=1, max_length=64)]
    networks: Annotated[list[WorldNetwork], Meta(min_length=1, max_length=64)]
    services: Annotated[list[WorldService], Meta(min_length=1, max_length=64)]
    containers: Annotated[list[WorldContainer], Meta(min_length=1, max_length=MOST_CONTAINERS)]
    port: Annotated[
        int, Meta(ge=1, le=65535, description="Where the servers answer, in every container of a service.")
    ] = 27080
    servers: Annotated[
        Literal["ours", "theirs"],
        Meta(description="ours: `vipload serve` is started beside each container. theirs: it runs there already."),
    ] = "ours"
    first_port: Annotated[
        int, Meta(ge=1024, le=65000, description="Checks start servers of their own at this port and the 500 after it.")
    ] = 27100
    resolver: Annotated[
        str, Meta(description="The address at which containers ask for the services' names; none: they cannot.")
    ] = ""
    scheduler: Annotated[Literal["rr", "random"], Meta(description="How backends are chosen.")] = "rr"
    protocols: Annotated[tuple[Protocol, ...], Meta(min_length=1, description="The transports that are balanced.")] = (
        get_args(Protocol)
    )
    imitates: Annotated[
        str, Meta(description="A plane of the catalog or a peer, whose expected outcomes are this world's.")
    ] = ""

    commands: Annotated[
        dict[CommandVerb, str | list[str]],
        Meta(description="Programs that make and change services of the checks. Without them, nothing is changed."),
    ] = {}


PORTS = 500
"""The number of ports that the checks' own servers may use, from `first_port` on."""


def load(path: str) -> tuple[WorldFile, Callable[[str, str], Usage]]:
    """Return a world file that is right in itself, and a function that makes the error about one of its fields.

    Raises Usage with the line and the field.
    """
    text = files.text(path, _MOST)
    found = toml.decode(text, WorldFile, path, "a world file")

    def fault(field: str, why: str) -> Usage:
        return Usage(why, where=f"{path}:{toml.line(text, field)}: {field}")

    _Reviewer(found, fault).review()
    return found, fault


def argv(command: str | list[str]) -> tuple[str, ...]:
    """Return the words of a command. Raises ValueError if it has none, or cannot be read."""
    words = shlex.split(command) if isinstance(command, str) else command
    if not words or not words[0] or any("\0" in word for word in words):
        raise ValueError("it names no program")
    return tuple(words)


class _Reviewer:
    """Reviews what the types of a world file do not tell."""

    def __init__(self, found: WorldFile, fault: Callable[[str, str], Usage]) -> None:
        self._found, self._fault = found, fault
        self._subnets: dict[str, IPv4Network] = {}
        self._addresses: dict[tuple[str, str], str] = {}

    def review(self) -> None:
        found = self._found
        if why := plane_file.not_a_name(found.name):
            self._fail("name", why)
        if len(set(found.protocols)) < len(found.protocols):
            self._fail("protocols", "a protocol is named twice")
        if found.resolver:
            self._address("resolver", found.resolver)
        if found.first_port <= found.port < found.first_port + PORTS:
            self._fail("port", f"{found.port} is among the ports of the checks' own servers")
        for field in ("nodes", "networks", "services", "containers"):
            self._unique(field, [each.name for each in getattr(found, field)])
        for number, network in enumerate(found.networks):
            self._network(f"networks[{number}].subnet", network)
        for number, service in enumerate(found.services):
            self._service(f"services[{number}]", service)
        for number, container in enumerate(found.containers):
            self._container(f"containers[{number}]", container)
        for field, named in (("services", found.services), ("containers", found.containers)):
            self._unique(field, [each.stands_for for each in named], "stands_for")
        self._paths()
        self._commands()

    def _commands(self) -> None:
        found = self._found
        if found.commands and not {"create", "remove"} <= found.commands.keys():
            self._fail("commands", "create and remove are needed: checks scale and drain services of their own only")
        for verb, command in found.commands.items():
            try:
                argv(command)
            except ValueError as error:
                self._fail(f"commands.{verb}", str(error))

    def _fail(self, field: str, why: str) -> NoReturn:
        raise self._fault(field, why)

    def _unique(self, field: str, names: Sequence[str], key: str = "name") -> None:
        for number, name in enumerate(names):
            if name and name in names[:number]:
                self._fail(f"{field}[{number}].{key}", f"there are two {name!r}")

    def _known(self, field: str, name: str, what: str, names: Sequence[str]) -> None:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            self._fail(field, f"there is no {what} {clean(name)!r}" + (f", but {near[0]}" if near else ""))

    def _network(self, field: str, network: WorldNetwork) -> None:
        try:
            self._subnets[network.name] = IPv4Network(network.subnet)
        except ValueError as error:
            self._fail(field, clean(str(error)))

    def _service(self, field: str, service: WorldService) -> None:
        self._known(f"{field}.network", service.network, "network", list(self._subnets))
        self._claim(f"{field}.vip", service.network, service.vip, inside=False)
        try:
            declared = {each.number for each in ports.parse(service.ports)}
        except ValueError as error:
            self._fail(f"{field}.ports", str(error))
        if declared and self._found.port not in declared:
            self._fail(f"{field}.ports", f"{self._found.port}, where the servers answer, is not among them")

    def _container(self, field: str, container: WorldContainer) -> None:
        self._known(f"{field}.node", container.node, "node", [each.name for each in self._found.nodes])
        for network, address in container.addresses.items():
            self._known(f"{field}.addresses", network, "network", list(self._subnets))
            self._claim(f"{field}.addresses", network, address)
        if container.service:
            services = {each.name: each for each in self._found.services}
            self._known(f"{field}.service", container.service, "service", list(services))
            if (network := services[container.service].network) not in container.addresses:
                self._fail(f"{field}.addresses", f"it has none on {network}, where {container.service} is")
        given = [key for key in ("netns", "pid", "docker") if getattr(container, key)]
        if len(given) != 1:
            told = " and ".join(given) or "none of them"
            self._fail(f"{field}.{given[-1] if given else 'name'}", f"give one of netns, pid and docker, not {told}")

    def _address(self, field: str, address: str) -> IPv4Address:
        try:
            return IPv4Address(address)
        except ValueError:
            self._fail(field, f"{clean(address)!r} is not an IPv4 address")

    def _claim(self, field: str, network: str, address: str, *, inside: bool = True) -> None:
        wanted = self._address(field, address)
        if inside and wanted not in self._subnets[network]:
            self._fail(field, f"{wanted} is outside {self._subnets[network]}")
        if (network, address) in self._addresses:
            self._fail(field, f"{address} is {self._addresses[network, address]} already")
        self._addresses[network, address] = field

    def _paths(self) -> None:
        named = [(f"nodes[{n}].netns", each.netns) for n, each in enumerate(self._found.nodes)]
        named += [(f"nodes[{n}].engine", each.engine) for n, each in enumerate(self._found.nodes)]
        named += [(f"containers[{n}].netns", each.netns) for n, each in enumerate(self._found.containers)]
        for field, path in named:
            if clean(path) != path or "\n" in path or ".." in path.split("/"):
                self._fail(field, f"{clean(path)!r} is no name of a namespace and no path")
