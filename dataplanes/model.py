"""What a data plane is told about the world: segments, endpoints, services. Plain data, no behaviour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import gcd

from msgspec import Struct


class Backend(Struct, frozen=True):
    """One destination of a service. Weight 0 drains it: no new connections, established ones go on."""

    address: str
    weight: int = 1


class Service(Struct, frozen=True):
    """A VIP on a network and everything behind it: any port, any transport, the port is preserved."""

    name: str
    network: str
    vip: str
    backends: tuple[Backend, ...] = ()


def turns(service: Service) -> tuple[str, ...]:
    """Whose turn comes when, by weight reduced by the common divisor; backends of weight 0 have none."""
    weights = [backend.weight for backend in service.backends]
    unit = gcd(*weights) or 1
    rounds = range(max(weights, default=0) // unit)
    return tuple(backend.address for turn in rounds for backend in service.backends if backend.weight // unit > turn)


def succeed(old: Sequence[str], new: Sequence[str], taken: int) -> tuple[str, ...]:
    """The new turns in the order in which the old ones go on after so many turns have been `taken`.

    With as many as before the counter goes on: who stays has the same place, who comes takes a free one. With
    more or fewer it begins anew: first comes whose turn it is, and newcomers come last.
    """
    stay, come = Counter(old) & Counter(new), Counter(new) - Counter(old)
    begin = 0 if len(old) == len(new) or not old else taken % len(old)
    newcomers = iter([address for address in new if _claim(come, address)])
    places = [address if _claim(stay, address) else "" for address in (*old[begin:], *old[:begin])]
    if len(old) == len(new):
        return tuple(address or next(newcomers) for address in places)
    return (*filter(None, places), *newcomers)


def _claim(left: Counter[str], address: str) -> bool:
    """Whether there is one left of this; if so it is taken."""
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
    """A namespace's attachment to a network: a container's, or one that a placement asked the lab for."""

    name: str  # unique in its network: the task's or the attachment's name
    network: str
    node: str
    netns: str
    interface: str  # inside netns
    address: str
    mac: str
    overlay_netns: str
    bridge_port: str  # the other end of the veth, in the overlay namespace
    vip: str | None = None  # of the service this endpoint is a task of
    cgroup: str | None = None  # of the container's processes; None for what is not a container
