"""The interface of a data plane and of its two halves: a mechanism at a placement.

The lab talks to a `DataPlane` only. A `Placement` knows the namespaces (sites) in which a network is load-balanced, the
hook, and the way of the replies. A `Mechanism` knows how to program VIP -> backends at one site. `PlacedPlane`
(placed.py) joins the two, so a new mechanism or placement touches neither the others nor the lab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, get_args

from msgspec import Struct

from dataplanes.elements import Decisive, Hooked
from dataplanes.errors import Unsupported
from dataplanes.model import Endpoint, Segment, Service
from dataplanes.model import Protocol as TransportProtocol
from dataplanes.requirements import Requirement

Hook = Literal["output", "input", "bridge", "frame", "socket", "tc"]
"""The point at which a site first sees a VIP packet.

"output": the site generates it. "input": it is delivered locally. "bridge": it is delivered to the bridge itself.
"frame": its frame enters the bridge by any port.
"socket": in connect() or sendmsg() of the container's cgroup. "tc": on the node's end of the container's veth.
"""

Reply = Literal["own-source", "snat", "hairpin-snat", "direct"]
"""The way of the reply through the site.

"own-source": the client is the site itself. "snat": every connection is SNATed to the site's address. "hairpin-snat":
only a backend's connection to itself is SNATed, and the others pass bridge netfilter. "direct": the backend answers the
client (DSR).
"""


class Site(Struct, frozen=True):
    """One place at which a mechanism is programmed for one network."""

    netns: str
    network: str
    node: str
    subnet: str
    hook: Hook
    reply: Reply
    interface: str  # the interface in netns that leads to the overlay: eth0, br0, ...
    address: str  # the site's own address in the subnet, which "snat" and "own-source" use
    endpoint: Endpoint | None = None  # the container or attachment that this site belongs to, if any


class Footprint(Struct, frozen=True):
    """Kernel state of one mechanism in one namespace: the number of objects, and bytes if the kernel tells them."""

    netns: str
    kind: str  # "ipvs services", "mangle rules", "nft elements", "bpf map entries", ...
    objects: int
    bytes: int | None = None


class Counter(Struct, frozen=True):
    """The traffic that one site has sent to one backend since it was programmed."""

    netns: str
    service: str
    backend: str  # the backend's address
    connections: int
    packets: int | None = None
    bytes: int | None = None


class Attachments(Protocol):
    """The part of the lab that a placement may use: attachments to a network beyond those of the containers."""

    def attach(self, network: str, node: str, role: Literal["lb", "host"]) -> Endpoint:
        """Create an attachment to the overlay with an address of its own.

        It is in a new namespace (lb) or in the node's host namespace (host). It is an ordinary peer: the other nodes
        get its neighbour and fdb entries.
        """
        ...

    def detach(self, endpoint: Endpoint) -> None:
        """Undo `attach`."""
        ...


class Belongings(Protocol):
    """The part of the run that a mechanism may use.

    What is made here is recorded first, and is undone with the run, even after kill -9.
    """

    def scratch(self, name: str) -> str:
        """Return a path in a directory that is removed with the run. Nothing is there yet."""
        ...

    def process(self, pid: int) -> None:
        """Record a child that was just started. It ends with the run."""
        ...


class DataPlane(ABC):
    """Service VIPs for a set of networks. All methods raise only `BenchError`s.

    A change that is refused, at whatever step, leaves everything as it was. A VIP or an address that is in use is
    refused before anything is programmed (Usage).
    """

    name: str

    @abstractmethod
    def add_segment(self, segment: Segment) -> None:
        """Add a network on a node. This comes before its endpoints there."""

    @abstractmethod
    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Add a container to a network. It gets every service that the network has."""

    @abstractmethod
    def remove_endpoint(self, endpoint: Endpoint) -> None:
        """Remove a container and everything that the plane added for it. Its namespace still exists."""

    @abstractmethod
    def apply(self, services: Sequence[Service]) -> None:
        """Add or update services in bulk.

        Afterwards each has exactly these backends, or its old ones if an error is raised.
        """

    @abstractmethod
    def remove(self, services: Sequence[Service]) -> None:
        """Remove services. Every namespace is then as it was before they were added."""

    @abstractmethod
    def resync(self) -> None:
        """Restore the wanted state of every namespace, whatever others have changed. Established connections go on.

        A change does the same first, at each of its sites where somebody has touched the balancer's rules.
        """

    def lacking(self, service: Service) -> list[Site]:
        """Return the sites at which the kernel has lost a service, as far as their directors can tell."""
        return []

    def attached(self) -> Iterable[Hooked]:
        """Return the BPF programs that see packets or calls."""
        return ()

    def elements(self, ends: Collection[str], since: int) -> Iterable[Decisive]:
        """Return the elements of BPF maps that have decided about packets with these ends (ADDRESS:PORT).

        `since` is the time of the monotonic clock, in nanoseconds, at which the first of them was sent.
        """
        return ()

    def deafen(self, node: str) -> None:
        """Keep changes of services from a node, until `hear` or `catch_up`. It goes on with what it knows."""
        raise Unsupported("nodes learn changes together", where=self.name)

    def hear(self, node: str) -> None:
        """Let a node hear of changes again.

        It has lost the earlier ones. A service is right there again when it changes, and all are after `resync`.
        """
        raise Unsupported("nodes learn changes together", where=self.name)

    def catch_up(self, node: str) -> None:
        """Let a node hear of changes again, and of those that were kept from it."""
        raise Unsupported("nodes learn changes together", where=self.name)

    @contextmanager
    def late(self, node: str) -> Iterator[None]:
        """Keep changes of services from a node, which hears of them at the end of the block."""
        self.deafen(node)
        try:
            yield
        finally:
            self.catch_up(node)

    @contextmanager
    def deaf(self, node: str) -> Iterator[None]:
        """Keep changes of services in the block from a node for good."""
        self.deafen(node)
        try:
            yield
        finally:
            self.hear(node)

    @abstractmethod
    def counters(self) -> list[Counter]:
        """Return the counters of each site, service and backend."""

    @abstractmethod
    def footprint(self) -> list[Footprint]:
        """Return the kernel state that is held in each namespace."""

    @abstractmethod
    def close(self) -> None:
        """Remove everything that the plane has added anywhere. Idempotent."""

    def release(self) -> None:
        """Release the objects that outlive the namespaces.

        The caller is about to remove the namespaces with all their rules.
        """
        self.close()

    def __enter__(self) -> DataPlane:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Director(ABC):
    """The load balancer of one site (LVS calls the machine that runs it the director)."""

    @abstractmethod
    def apply(self, services: Sequence[Service]) -> None:
        """Add or update services in bulk: all of them, or none if an error is raised.

        No client sees a half-programmed service.
        """

    @abstractmethod
    def remove(self, services: Sequence[Service]) -> None:
        """Remove services, and the connection entries that point at their backends: all of them or none."""

    @abstractmethod
    def resync(self) -> None:
        """Restore the applied services in the kernel, whatever others have changed."""

    def intact(self) -> bool:
        """Return False if others may have touched the programmed state.

        It is called before every change, so it must cost almost nothing. `resync` also restores what this does not
        notice.
        """
        return True

    def holds(self, service: Service) -> bool:
        """Return False if the kernel has lost a service here. A director that cannot tell returns True."""
        return True

    def attached(self) -> Iterable[Hooked]:
        """Return the BPF programs that see packets or calls here (see `DataPlane.attached`)."""
        return ()

    def elements(self, ends: Collection[str], since: int) -> Iterable[Decisive]:
        """Return what has decided about packets with these ends (see `DataPlane.elements`)."""
        return ()

    def meet(self, endpoints: Sequence[Endpoint]) -> Callable[[], None]:
        """Get to know containers of the network, on whatever node: all, or none if an error is raised.

        Return what undoes it. Most directors send to addresses, and need not know MACs.
        """
        return lambda: None

    def part(self, endpoint: Endpoint) -> None:  # noqa: B027
        """Take note that a container is gone."""

    @property
    def programmed(self) -> object:
        """The object that a change programs.

        Several directors may share it. Then a change goes to one of them, which stands for all, and their sites own no
        VIPs.
        """
        return self

    @abstractmethod
    def counters(self) -> list[Counter]:
        """Return the counters of each service and backend."""

    @abstractmethod
    def footprint(self) -> list[Footprint]:
        """Return the kernel state held at this site."""

    @abstractmethod
    def close(self) -> None:
        """Remove everything that is left at this site, or nothing if an error is raised. Idempotent."""

    def release(self) -> None:
        """Release what would outlive the site's namespace, which is about to be removed."""
        self.close()


class Mechanism(ABC):
    """A way to program VIP -> backends. A mechanism has no state: its directors have it all."""

    name: str
    any_port = True
    """False if it serves only the ports that a service declares, and refuses a service that declares none."""
    protocols: tuple[TransportProtocol, ...] = get_args(TransportProtocol)
    """The transports that it serves."""
    in_turn = True
    """False if it chooses backends at random, and not in turn."""

    @classmethod
    @abstractmethod
    def requires(cls, *arguments: Any, **options: Any) -> tuple[Requirement, ...]:
        """Return what an instance with these arguments needs of the kernel and the machine. None is made for that."""

    @abstractmethod
    def open(self, site: Site) -> Director:
        """Prepare a site. The director that is returned has no services yet."""

    def settle_in(self, belongings: Belongings) -> None:  # noqa: B027
        """Get to know the run, before any site is opened. Most mechanisms need nothing of it."""

    def close(self) -> None:  # noqa: B027 - most mechanisms hold nothing between sites
        """Release what the sites share (compiled programs, maps)."""


class Placement(ABC):
    """The namespaces and the hook at which a network is load-balanced, and the way of the replies.

    `open_segment` and `close_segment` do everything or, if they are refused, nothing. Any other method may be refused
    half-way, and then the caller undoes it. So each undoing method accepts a step that was never done, and each doing
    method accepts a step that is done already.
    """

    name: str

    cgroups = False
    """True if it attaches programs to the containers' cgroups, which are created only for such placements."""

    @classmethod
    def requires(cls, *arguments: Any, **options: Any) -> tuple[Requirement, ...]:
        """Return what an instance with these arguments needs of the kernel and the machine. None is made for that."""
        return ()

    def open_segment(self, segment: Segment, attachments: Attachments) -> list[Site]:
        """Return the sites that a network needs on a node, independent of containers. `set_up` makes them ready."""
        return []

    def close_segment(self, segment: Segment, sites: Sequence[Site], attachments: Attachments) -> None:  # noqa: B027
        """Undo `open_segment`."""

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        """Set up the container's attachment and return the sites it needs. Repeated, it restores what was lost."""
        return []

    def close_endpoint(self, endpoint: Endpoint, sites: Sequence[Site]) -> None:  # noqa: B027
        """Undo `open_endpoint`."""

    def release(self) -> None:  # noqa: B027
        """Release what would outlive the namespaces, which are about to be removed."""

    def set_up(self, site: Site) -> None:  # noqa: B027
        """Set up what a site's namespace needs besides its director. Repeated, it restores what was lost."""

    def clear(self, site: Site) -> None:  # noqa: B027
        """Undo `set_up`."""

    def intact(self, site: Site) -> bool:
        """Return False if others may have touched the state that `set_up` made.

        It must be as cheap as `Director.intact`.
        """
        return True

    def publish(self, site: Site, services: Sequence[Service]) -> None:  # noqa: B027
        """Make the VIPs reachable at a site that must own or announce them.

        This is called after the director is ready.
        """

    def withdraw(self, site: Site, services: Sequence[Service]) -> None:  # noqa: B027
        """Undo `publish`. This is called before the director forgets the services."""
