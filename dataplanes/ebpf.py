"""The eBPF mechanism: a set of maps per network and node, and programs at a container's sockets or veth.

At the veth, a packet to a backend goes over the bridge (`tc`), or past it (`redirect`).

A service costs map elements, once per node, however many containers there are. A container costs the attachment of its
programs.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.ebpf_connections import capacities
from dataplanes.ebpf_object import Loaded
from dataplanes.ebpf_services import ServiceTable
from dataplanes.ebpf_table import Table
from dataplanes.elements import Decisive, Hooked
from dataplanes.errors import BenchError, KernelRefused, Unsupported
from dataplanes.hooks import Hooks, RedirectHooks, SocketHooks, TcHooks
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Service
from dataplanes.requirements import Compiled, Feature, Package, Requirement
from dataplanes.stations import Stations


class EbpfKnobs(Struct, frozen=True):
    """The capacity of the maps, per network and node.

    At the veth a new connection is refused while all connections are in use. At the sockets, which keep the entries
    that they use, the least recently used entries are forgotten.
    """

    services: Annotated[int, Meta(ge=1, le=1 << 24, description="the largest number of services")] = 16_384
    backends: Annotated[int, Meta(ge=1, le=1 << 24, description="the largest number of backends of all services")] = (
        65_536
    )
    connections: Annotated[int, Meta(ge=1, le=1 << 24, description="the largest number of connections")] = 65_536


_ENDPOINTS = Annotated[int, Meta(ge=1, le=1 << 24, description="the largest number of containers on a network")]


class ShortKnobs(Struct, frozen=True):
    """The capacity of the maps, per network and node."""

    endpoints: _ENDPOINTS = 65_536


class RedirectKnobs(EbpfKnobs, frozen=True):
    """The capacity of the maps, and which packets go past the bridge."""

    endpoints: _ENDPOINTS = 65_536
    every: Annotated[bool, Meta(description="packets that go to no VIP pass the bridge by, too")] = False


_KNOB_OF = {
    "services": "services",
    "turns": "backends",
    "counts": "backends",
    **dict.fromkeys(("vips", "flows", "fragments"), "connections"),
    "stations": "endpoints",
}
"""Map -> the knob that sets its capacity."""
_FIRST = struct.pack("=I", 0)


class Ebpf(Mechanism):
    """The mechanism whose programs run at a container's sockets or at its veth."""

    name = "ebpf"

    def __init__(self, source: str, knobs: EbpfKnobs | ShortKnobs | None = None) -> None:
        """Create the mechanism. `source` is the program: socket, tc, redirect or short."""
        self._source = source
        self._knobs = knobs or EbpfKnobs()
        self._tables: dict[tuple[str, str], Table] = {}
        self._stations: dict[str, Stations] = defaultdict(Stations)

    @classmethod
    def requires(cls, source: str, knobs: EbpfKnobs | ShortKnobs | None = None) -> tuple[Requirement, ...]:
        return (
            Feature("BPF_SYSCALL", "", "programs and maps"),
            Feature("BPF_JIT", "", "programs as machine code; interpreted ones would cost several times as much"),
            Package("bcc", "python3-bpfcc", "compiling the programs"),
            Compiled(source, f"{source}.c"),
        )

    def open(self, site: Site) -> Director:
        if site.hook != ("socket" if self._source == "socket" else "tc") or site.endpoint is None:
            raise Unsupported(f"eBPF is not programmed at {site.hook}", where=site.netns)
        key = site.node, site.network
        if key not in self._tables:
            self._tables[key] = self._load(site, site.endpoint.overlay_netns, partial(self._tables.pop, key))
        return _EbpfDirector(self._tables[key], site.endpoint)

    def _load(self, site: Site, overlay: str, forget: Callable[[], object]) -> Table:
        loaded = Loaded(self._source, self._room())
        with Undo() as undo:
            undo(loaded.close)
            hooks = self._hooks(loaded, overlay, site.network)
            undo(hooks.close)
            if isinstance(self._knobs, RedirectKnobs):
                loaded.maps["every"].update([(_FIRST, struct.pack("=I", self._knobs.every))])
            return (Table if self._source == "short" else ServiceTable)(site.node, loaded, hooks, forget)

    def _hooks(self, loaded: Loaded, overlay: str, network: str) -> Hooks:
        if self._source == "socket":
            return SocketHooks(loaded, overlay)
        if self._source == "tc":
            return TcHooks(loaded, overlay)
        return RedirectHooks(loaded, overlay, self._stations[network])

    def _room(self) -> dict[str, int]:
        """Return the capacity of each map."""
        knobs = self._knobs
        room = {name: int(getattr(knobs, knob)) for name, knob in _KNOB_OF.items() if hasattr(knobs, knob)}
        return room | capacities(room.get("flows", 1)) | {"bridge": 1, "every": 1}

    def close(self) -> None:
        for table in list(self._tables.values()):
            table.close()


class _EbpfDirector(Director):
    """The director of a container. It has the container's hooks, and shares the maps with the others."""

    def __init__(self, table: Table, endpoint: Endpoint) -> None:
        self._table = table
        self._endpoint = endpoint
        table.users.append(self)
        try:
            with _advised():
                table.hooks.attach(endpoint)
        except BenchError:
            self._leave()
            raise

    def apply(self, services: Sequence[Service]) -> None:
        with _advised():
            self._table.apply(services)

    def remove(self, services: Sequence[Service]) -> None:
        self._table.remove(services)

    @property
    def programmed(self) -> object:
        return self._table

    def resync(self) -> None:
        self._table.hooks.restore()
        self._table.resync()

    def intact(self) -> bool:
        return self._table.hooks.intact()

    def holds(self, service: Service) -> bool:
        return self._table.holds(service)

    def attached(self) -> Iterable[Hooked]:
        return self._table.hooks.attached()

    def elements(self, ends: Collection[str], since: int) -> Iterable[Decisive]:
        return self._table.elements(ends, since)

    def counters(self) -> list[Counter]:
        return self._table.counters() if self._table.users[0] is self else []

    def footprint(self) -> list[Footprint]:
        shared = self._table.footprint() if self._table.users[0] is self else []
        return [Footprint(self._endpoint.netns, "bpf attachments", self._table.hooks.count(self._endpoint)), *shared]

    def close(self) -> None:
        if self in self._table.users:
            self._table.hooks.detach(self._endpoint)
            self._leave()

    def release(self) -> None:
        if self in self._table.users:
            self._leave()

    def _leave(self) -> None:
        self._table.users.remove(self)
        if not self._table.users:
            self._table.close()


@contextmanager
def _advised() -> Iterator[None]:
    """Add to the refusal of an element, for which a map has no room, the knob that gives it more."""
    try:
        yield
    except KernelRefused as refused:
        if refused.where in _KNOB_OF and not refused.fix:
            refused.fix = f"select the plane with more room: @{_KNOB_OF[refused.where]}=N"
        raise
