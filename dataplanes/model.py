"""The input of a data plane: segments, endpoints, services. This is plain data without behaviour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import gcd
from typing import Literal

from msgspec import Struct


class Backend(Struct, frozen=True):
    """One destination of a service. Weight 0 drains it: it gets no new connections, and established ones go on."""

    address: str
    weight: int = 1


Protocol = Literal["tcp", "udp", "sctp"]


class Port(Struct, frozen=True):
    """A port of one transport protocol."""

    protocol: Protocol
    number: int


class Service(Struct, frozen=True):
    """A VIP on a network and its backends. The port of a connection is preserved.

    Declared ports are the ones that a client may rely on. Without any, the service has every port of every transport,
    as in swarm; a mechanism that has declared ports only refuses such a service.
    """

    name: str
    network: str
    vip: str
    backends: tuple[Backend, ...] = ()
    ports: tuple[Port, ...] = ()


def turns(service: Service) -> tuple[str, ...]:
    """Return the backends' addresses in the order of their turns.

    A backend has as many turns as its weight, divided by the weights' common divisor. Weight 0 gives none.
    """
    weights = [backend.weight for backend in service.backends]
    unit = gcd(*weights) or 1
    rounds = range(max(weights, default=0) // unit)
    return tuple(backend.address for turn in rounds for backend in service.backends if backend.weight // unit > turn)


def succeed(old: Sequence[str], new: Sequence[str], taken: int) -> tuple[str, ...]:
    """Return the new turns in the order in which they continue after `taken` of the old turns.

    If the number of turns is the same, the counter goes on: a backend that stays keeps its place, and a new one takes a
    free place. Otherwise the counter begins anew: the backend whose turn it is comes first, and new ones come last.
    """
    stay, come = Counter(old) & Counter(new), Counter(new) - Counter(old)
    begin = 0 if len(old) == len(new) or not old else taken % len(old)
    newcomers = iter([address for address in new if _claim(come, address)])
    places = [address if _claim(stay, address) else "" for address in (*old[begin:], *old[:begin])]
    if len(old) == len(new):
        return tuple(address or next(newcomers) for address in places)
    return (*filter(None, places), *newcomers)


def remaining(old: Sequence[Service], new: Sequence[Service]) -> dict[str, set[str]]:
    """Return the backends to which connections to a VIP may go on, for each VIP of which some may not.

    These are VIPs that lose a backend, and VIPs that nobody had before. A drained backend is still one.
    """
    had, have = ({each.vip: {b.address for b in each.backends} for each in services} for services in (old, new))
    return {vip: have.get(vip, set()) for vip in had | have if vip not in had or had[vip] - have.get(vip, set())}


def _claim(left: Counter[str], address: str) -> bool:
    """Take one turn of an address if any is left. Return True if one was."""
    left[address] -= 1
    return left[address] >= 0


class Segment(Struct, frozen=True):
    """One overlay network on one node: its overlay namespace with the bridge, and the node's host namespace."""

    node: str
    network: str
    subnet: str  # CIDR
    host_netns: str
    overlay_netns: str
    bridge: str = "br0"
    mtu: int = 1450


class Endpoint(Struct, frozen=True):
    """A namespace's attachment to a network. It is a container's, or a placement has asked the lab for it."""

    name: str  # unique in its network: the name of the task or of the attachment
    network: str
    node: str
    netns: str
    interface: str  # the name of the interface in netns
    address: str
    mac: str
    overlay_netns: str
    bridge_port: str  # the other end of the veth, in the overlay namespace
    vip: str | None = None  # the VIP of the service that this endpoint is a task of
    cgroup: str | None = None  # the cgroup of the container's processes; None if it is not a container
