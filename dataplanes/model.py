"""What a data plane is told about the world: segments, endpoints, services. Plain data, no behaviour."""

from __future__ import annotations

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
