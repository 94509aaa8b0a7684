"""The interface of a data plane, and of the two halves it is made of: a mechanism at a placement.

The lab talks to a `DataPlane` only. A `Placement` knows in which namespaces (sites) a network is load-balanced, at
which hook, and how replies return; a `Mechanism` knows how to program VIP -> backends at one site. `PlacedPlane`
(placed.py) joins the two, so that adding a mechanism or a placement touches neither the others nor the lab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from dataplanes.model import Endpoint, Segment, Service
from dataplanes.requirements import Requirement

Hook = Literal["output", "input", "bridge", "socket", "tc"]
"""Where a site sees a VIP packet first: locally generated, locally delivered, delivered to the bridge itself,
in the connect()/sendmsg() of the container's cgroup, on the node's end of the container's veth."""

Reply = Literal["own-source", "snat", "hairpin-snat", "direct"]
"""How the reply finds its way back through the site: the client is the site itself; every connection is SNATed to the
site's address; only a backend's connection to itself is, the rest pass bridge netfilter; the backend answers (DSR)."""


class Site(Struct, frozen=True):
    """One place where a mechanism is programmed for one network."""

    netns: str
    network: str
    node: str
    subnet: str
    hook: Hook
    reply: Reply
    interface: str  # the overlay-facing interface in netns: eth0, br0, ...
    address: str  # the site's own address in the subnet: what "snat" and "own-source" use
    endpoint: Endpoint | None = None  # the container or attachment this site belongs to, if any


class Footprint(Struct, frozen=True):
    """Kernel state one mechanism holds in one namespace: count of objects, and bytes where the kernel tells them."""

    netns: str
    kind: str  # "ipvs services", "mangle rules", "nft elements", "bpf map entries", ...
    objects: int
    bytes: int | None = None


class Counter(Struct, frozen=True):
    """What one site has sent to one backend since it was programmed."""

    netns: str
    service: str
    backend: str  # address
    connections: int
    packets: int | None = None
    bytes: int | None = None


class Attachments(Protocol):
    """What a placement may ask of the lab: attachments to a network beyond the containers'."""

    def attach(self, network: str, node: str, role: Literal["lb", "host"]) -> Endpoint:
        """An overlay attachment with its own address: in a namespace of its own (lb) or in the node's host one.

        It is an ordinary peer: the other nodes get its neighbour and fdb entries.
        """
        ...

    def detach(self, endpoint: Endpoint) -> None:
        """Undo `attach`."""
        ...


class DataPlane(ABC):
    """Service VIPs for a set of networks. All methods raise only `BenchError`s.

    A change that is refused, at whatever step, leaves everything as it was. A VIP or an address that is taken is
    refused before anything is programmed (Usage).
    """

    name: str

    @abstractmethod
    def requires(self) -> tuple[Requirement, ...]:
        """Everything it needs of kernel and machine."""

    @abstractmethod
    def add_segment(self, segment: Segment) -> None:
        """A network appears on a node. Comes before its endpoints there."""

    @abstractmethod
    def add_endpoint(self, endpoint: Endpoint) -> None:
        """A container joins a network; it gets every service the network has."""

    @abstractmethod
    def remove_endpoint(self, endpoint: Endpoint) -> None:
        """A container leaves; what the plane added for it goes, its namespace still exists."""

    @abstractmethod
    def apply(self, services: Sequence[Service]) -> None:
        """Add or update services in bulk. Afterwards each has exactly these backends, or, on an error, its old ones."""

    @abstractmethod
    def remove(self, services: Sequence[Service]) -> None:
        """Remove services; every namespace is then as it was before they came."""

    @abstractmethod
    def resync(self) -> None:
        """Bring every namespace to what is wanted, whatever others have done to it; established connections go on.

        A change does the same first, at the sites it comes to where the balancer's rules were touched.
        """

    @abstractmethod
    def counters(self) -> list[Counter]:
        """Per site, service and backend."""

    @abstractmethod
    def footprint(self) -> list[Footprint]:
        """Kernel state held per namespace."""

    @abstractmethod
    def close(self) -> None:
        """Remove everything the plane added anywhere. Idempotent."""

    def release(self) -> None:
        """Let go of what outlives the namespaces: they are about to go, and what was programmed in them with them."""
        self.close()

    def __enter__(self) -> DataPlane:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Director(ABC):
    """The load balancer of one site (LVS calls the machine that runs it the director)."""

    @abstractmethod
    def apply(self, services: Sequence[Service]) -> None:
        """Add or update in bulk, all of them or, on an error, none; a client never sees a half-programmed one."""

    @abstractmethod
    def remove(self, services: Sequence[Service]) -> None:
        """Remove services and the connection state that points at their backends; all of them or none."""

    @abstractmethod
    def resync(self) -> None:
        """Bring the kernel to what was applied, whatever others have done to it."""

    def intact(self) -> bool:
        """False if others may have touched what is programmed. Asked before every change, so it must cost next to
        nothing; what it does not notice `resync` still restores."""
        return True

    @property
    def programmed(self) -> object:
        """What a change programs. Where it is the same for several directors, a change comes to one of them, and that
        one stands for all; their sites own no VIPs."""
        return self

    @abstractmethod
    def counters(self) -> list[Counter]:
        """Per service and backend."""

    @abstractmethod
    def footprint(self) -> list[Footprint]:
        """Kernel state held at this site."""

    @abstractmethod
    def close(self) -> None:
        """Remove what is left at this site, all or nothing. Idempotent."""

    def release(self) -> None:
        """The site's namespace is about to go: let go of what would outlive it."""
        self.close()


class Mechanism(ABC):
    """How VIP -> backends is programmed. Stateless: all state is in the directors it opens."""

    name: str

    @abstractmethod
    def requires(self) -> tuple[Requirement, ...]:
        """What the mechanism itself needs."""

    @abstractmethod
    def open(self, site: Site) -> Director:
        """Prepare a site; the director has no services yet."""

    def close(self) -> None:  # noqa: B027 - most mechanisms hold nothing between sites
        """Release what is shared between sites (compiled programs, maps)."""


class Placement(ABC):
    """In which namespaces, at which hook, with which way back.

    Of `open_segment` and `close_segment` all is done or, refused, nothing. Whatever else is refused half-way the caller
    undoes, so undoing what was not done is fine, and so is doing what is done.
    """

    name: str

    @abstractmethod
    def requires(self) -> tuple[Requirement, ...]:
        """What the placement itself needs."""

    def open_segment(self, segment: Segment, attachments: Attachments) -> list[Site]:
        """Sites a network needs on a node, whatever containers come; `set_up` makes them ready."""
        return []

    def close_segment(self, segment: Segment, sites: Sequence[Site], attachments: Attachments) -> None:  # noqa: B027
        """Undo `open_segment`."""

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        """Sites a container needs, and what the container's attachment does; done again, it restores what was lost."""
        return []

    def close_endpoint(self, endpoint: Endpoint, sites: Sequence[Site]) -> None:  # noqa: B027
        """Undo `open_endpoint`."""

    def release(self) -> None:  # noqa: B027
        """The namespaces are about to go: let go of what would outlive them."""

    def set_up(self, site: Site) -> None:  # noqa: B027
        """What a site's namespace must have besides its director; done again, it restores what was lost."""

    def clear(self, site: Site) -> None:  # noqa: B027
        """Undo `set_up`."""

    def intact(self, site: Site) -> bool:
        """False if others may have touched what `set_up` did. As cheap as `Director.intact`."""
        return True

    def publish(self, site: Site, services: Sequence[Service]) -> None:  # noqa: B027
        """Make the VIPs reachable at a site that must own or announce them. Called after the director is ready."""

    def withdraw(self, site: Site, services: Sequence[Service]) -> None:  # noqa: B027
        """Undo `publish`. Called before the director forgets the services."""
