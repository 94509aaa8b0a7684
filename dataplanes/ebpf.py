"""The eBPF mechanism: a set of maps per network and node, and programs at a container's sockets or veth.

At the veth, a packet to a backend goes over the bridge (`tc`), or past it (`redirect`).

A service costs map elements, once per node, however many containers there are. A container costs the attachment of its
programs. A change of backends writes the new turns under a new epoch, then the service's element (which the kernel
replaces as a whole), and then deletes the old turns. So a connection sees the old state or the new one.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.ebpf_connections import Connections, capacities
from dataplanes.ebpf_object import Loaded
from dataplanes.errors import BenchError, KernelRefused, Unsupported
from dataplanes.hooks import Hooks, RedirectHooks, SocketHooks, TcHooks
from dataplanes.kernel import bpf
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Service, succeed, turns
from dataplanes.requirements import Compiled, Feature, Package, Requirement
from dataplanes.stations import Stations

_SERVICE, _TURN, _PAIR = struct.Struct("=IIQ"), struct.Struct("=4sII"), struct.Struct("=4s4s")
_COUNT = struct.Struct("=Q")


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
        self._tables: dict[tuple[str, str], _Table] = {}
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

    def _load(self, site: Site, overlay: str, forget: Callable[[], object]) -> _Table:
        loaded = Loaded(self._source, self._room())
        try:
            if self._source in ("redirect", "short"):
                hooks: Hooks = RedirectHooks(loaded, overlay, self._stations[site.network])
            else:
                hooks = (SocketHooks if self._source == "socket" else TcHooks)(loaded, overlay)
            if isinstance(self._knobs, RedirectKnobs):
                loaded.maps["every"].update([(_FIRST, struct.pack("=I", self._knobs.every))])
            return (_Table if self._source == "short" else _ServiceTable)(site.node, loaded, hooks, forget)
        except BenchError:
            loaded.close()
            raise

    def _room(self) -> dict[str, int]:
        """Return the capacity of each map."""
        knobs = self._knobs
        room = {name: int(getattr(knobs, knob)) for name, knob in _KNOB_OF.items() if hasattr(knobs, knob)}
        return room | capacities(room.get("flows", 1)) | {"bridge": 1, "every": 1}

    def close(self) -> None:
        for table in list(self._tables.values()):
            table.close()


class _Programmed(Struct, frozen=True):
    """A service as it is programmed: its turns in order, and the epoch under which they are stored."""

    service: Service
    turns: tuple[str, ...]
    epoch: int


class _Table:
    """The programs and maps of one network on one node. They are removed with the last container there."""

    parts: tuple[str, ...] = ()
    """The maps that `footprint` tells as one."""

    def __init__(self, node: str, loaded: Loaded, hooks: Hooks, forget: Callable[[], object]) -> None:
        self.node, self.loaded, self.hooks = node, loaded, hooks
        self.users: list[Director] = []
        self._maps = loaded.maps
        self._forget = forget

    def close(self) -> None:
        self._forget()
        self.hooks.close()
        self.loaded.close()

    def apply(self, services: Sequence[Service]) -> None:
        """Do nothing: these programs have no services."""

    def remove(self, services: Sequence[Service]) -> None:
        """Do nothing: these programs have no services."""

    def resync(self) -> None:
        """Do nothing: the hooks restore the other maps."""

    def counters(self) -> list[Counter]:
        return []

    def footprint(self) -> list[Footprint]:
        return [
            Footprint(self.node, f"bpf map {name}", sum(1 for _ in each.items()), _memory(each))
            for name, each in self._maps.items()
            if name not in self.parts
        ]


class _ServiceTable(_Table):
    """The programs and maps that balance, and what the maps hold: services, turns and connections."""

    def __init__(self, node: str, loaded: Loaded, hooks: Hooks, forget: Callable[[], object]) -> None:
        super().__init__(node, loaded, hooks, forget)
        self.connections = Connections(loaded) if "ends" in loaded.maps else None
        self.parts = Connections.parts if self.connections else ()
        self._programmed: dict[str, _Programmed] = {}
        self._epoch = 0

    def apply(self, services: Sequence[Service]) -> None:
        """Program services. It is idempotent: the containers of a node share the maps, and each asks for the same."""
        there = self._programmed
        changed = [each for each in services if each.name not in there or there[each.name].service != each]
        try:
            self._replace(self._known(changed), changed)
        except KernelRefused as refused:
            if refused.where in _KNOB_OF and not refused.fix:
                refused.fix = f"select the plane with more room: @{_KNOB_OF[refused.where]}=N"
            raise

    def remove(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), ())

    def resync(self) -> None:
        """Write the elements that are missing or wrong. Nobody else uses the maps, but root can write them."""
        known = list(self._programmed.values())
        wanted = {"services": self._entries(known, self._taken(known)), "turns": _turns(known)}
        for name, elements in wanted.items():
            there, should = dict(self._maps[name].items()), dict(elements)
            self._maps[name].update([(key, value) for key, value in elements if there.get(key) != value])
            self._maps[name].delete(there.keys() - should.keys())

    def _known(self, services: Sequence[Service]) -> list[_Programmed]:
        return [self._programmed[service.name] for service in services if service.name in self._programmed]

    def _replace(self, old: Sequence[_Programmed], wanted: Sequence[Service]) -> None:
        """Write the new turns, then the services, each in one step, and then remove what is left of the old ones."""
        if not old and not wanted:
            return
        counts, turns_, services = (self._maps[name] for name in ("counts", "turns", "services"))
        taken = self._taken(old)
        new = [self._next(service, taken.get(service.name, 0)) for service in wanted]
        had, have = {_vip(each) for each in old}, {_vip(each) for each in new}
        lost, fresh = _pairs(old) - _pairs(new), _pairs(new) - _pairs(old)
        old_turns, new_turns = _turns(old), _turns(new)
        old_entries, counted = self._entries(old, taken), counts.get(lost)
        with Undo() as undo:
            undo(lambda: counts.delete(fresh))
            counts.update([(pair, _COUNT.pack(0)) for pair in fresh])
            undo(lambda: turns_.delete(key for key, _ in new_turns))
            turns_.update(new_turns)
            undo(lambda: services.update(old_entries))
            undo(lambda: services.delete(have - had))
            services.update(self._entries(new, taken))
            services.delete(had - have)
            undo(lambda: turns_.update(old_turns))
            turns_.delete(key for key, _ in old_turns)
            undo(lambda: counts.update(counted))
            counts.delete(lost)
            self._forget_flows({pair for pair, count in counted if count != _COUNT.pack(0)})
        self._epoch += 1
        for each in old:
            del self._programmed[each.service.name]
        self._programmed.update((each.service.name, each) for each in new)

    def _next(self, service: Service, taken: int) -> _Programmed:
        """Return the new state of a service, with its turns in the order in which they continue."""
        before = self._programmed.get(service.name)
        return _Programmed(service, succeed(before.turns if before else (), turns(service), taken), self._epoch + 1)

    def _taken(self, known: Sequence[_Programmed]) -> dict[str, int]:
        """Return how many turns each service has taken."""
        elements = dict(self._maps["services"].get([_vip(each) for each in known]))
        found = {each.service.name: elements.get(_vip(each)) for each in known}
        return {name: _SERVICE.unpack(element)[2] for name, element in found.items() if element}

    def _entries(self, known: Sequence[_Programmed], taken: Mapping[str, int]) -> list[tuple[bytes, bytes]]:
        """Return the elements of the services.

        A service with another number of turns than before counts from 0 (see `succeed`).
        """
        return [(_vip(each), _SERVICE.pack(len(each.turns), each.epoch, self._goes_on(each, taken))) for each in known]

    def _goes_on(self, each: _Programmed, taken: Mapping[str, int]) -> int:
        before = self._programmed.get(each.service.name)
        return taken.get(each.service.name, 0) if before and len(before.turns) == len(each.turns) else 0

    def _forget_flows(self, lost: Collection[bytes]) -> None:
        """Forget the connections to backends that are gone. A backend that never had a connection needs no search."""
        if self.connections:
            self.connections.give_up(lost)
        elif lost:
            for name, pair_of in _FLOWS.items():
                stale = [key for key, value in self._maps[name].items() if pair_of(key, value) in lost]
                self._maps[name].delete(stale)

    def counters(self) -> list[Counter]:
        counts = {pair: _COUNT.unpack(value)[0] for pair, value in self._maps["counts"].items()}
        return [
            Counter(self.node, name, backend.address, counts.get(_pair(each.service, backend.address), 0))
            for name, each in self._programmed.items()
            for backend in each.service.backends
        ]

    def footprint(self) -> list[Footprint]:
        found = super().footprint()
        if self.connections:
            sizes = [_memory(self._maps[name]) or 0 for name in self.parts]
            found += [
                Footprint(self.node, "bpf map flows", self.connections.count(), sum(sizes)),
                Footprint(self.node, "connections refused", self.connections.refused()),
            ]
        return found


class _EbpfDirector(Director):
    """The director of a container. It has the container's hooks, and shares the maps with the others."""

    def __init__(self, table: _Table, endpoint: Endpoint) -> None:
        self._table = table
        self._endpoint = endpoint
        table.users.append(self)
        try:
            table.hooks.attach(endpoint)
        except BenchError:
            self._leave()
            raise

    def apply(self, services: Sequence[Service]) -> None:
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


_FLOWS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "vips": lambda key, value: value + key[8:12],
    "flows": lambda key, value: key[8:12] + value,
}
"""Map of the sockets -> the (VIP, backend) that an element belongs to."""


def _vip(each: _Programmed) -> bytes:
    return socket.inet_aton(each.service.vip)


def _turns(programmed: Sequence[_Programmed]) -> list[tuple[bytes, bytes]]:
    return [
        (_TURN.pack(_vip(each), each.epoch, number), socket.inet_aton(address))
        for each in programmed
        for number, address in enumerate(each.turns)
    ]


def _pair(service: Service, address: str) -> bytes:
    return _PAIR.pack(socket.inet_aton(service.vip), socket.inet_aton(address))


def _pairs(programmed: Collection[_Programmed]) -> set[bytes]:
    return {_pair(each.service, backend.address) for each in programmed for backend in each.service.backends}


def _memory(each: bpf.Map) -> int | None:
    """Return the memory of the map in bytes, as the kernel tells it.

    Since Linux 6.4 it is the memory in use, and before that the most the map may use.
    """
    with open(f"/proc/self/fdinfo/{each.fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return None
