"""What a data plane is told about the world: segments, endpoints, services. Plain data, no behaviour."""

from __future__ import annotations

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
    """A namespace's attachment to a network: a container's, or one a placement asked the fabric for."""

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
