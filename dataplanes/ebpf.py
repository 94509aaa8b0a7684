"""eBPF: one set of maps per network and node, and programs that look there, at a container's sockets or at its veth.

What a service costs is map elements, once per node however many containers there are; a container costs its programs'
attachment. A change of backends writes the new turns under a new epoch, then the service's element (which the kernel
replaces as a whole), then deletes the old turns: a connection sees the old state or the new.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.ebpf_object import Loaded
from dataplanes.errors import BenchError, KernelRefused, Unsupported
from dataplanes.hooks import Hooks, SocketHooks, TcHooks
from dataplanes.kernel import bpf
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Service, turns
from dataplanes.requirements import Compiled, Feature, Package, Requirement

_SERVICE, _TURN, _PAIR = struct.Struct("=IIQ"), struct.Struct("=4sII"), struct.Struct("=4s4s")
_COUNT = struct.Struct("=Q")


class Knobs(Struct, frozen=True):
    """How much the maps hold per network and node. Connections that do not fit push out those idle longest."""

    services: Annotated[int, Meta(ge=1, le=1 << 24, description="so many services fit")] = 16_384
    backends: Annotated[int, Meta(ge=1, le=1 << 24, description="so many backends of all services fit")] = 65_536
    connections: Annotated[int, Meta(ge=1, le=1 << 24, description="so many connections fit")] = 65_536


_KNOB_OF = {
    "services": "services",
    "turns": "backends",
    "counts": "backends",
    **dict.fromkeys(("vips", "flows", "fragments"), "connections"),
}
"""Map -> the knob that says how much it holds."""


class Ebpf(Mechanism):
    """Programs at a container's sockets or veth."""

    name = "ebpf"

    def __init__(self, source: str, knobs: Knobs | None = None) -> None:
        """`source`: which of the programs, socket or tc."""
        self._source = source
        self._knobs = knobs or Knobs()
        self._tables: dict[tuple[str, str], _Table] = {}

    def requires(self) -> tuple[Requirement, ...]:
        return (
            Feature("BPF_SYSCALL", "", "programs and maps"),
            Feature("BPF_JIT", "", "programs as machine code; interpreted ones would cost several times as much"),
            Package("bcc", "python3-bpfcc", "compiling the programs"),
            Compiled(self._source, f"{self._source}.c"),
        )

    def open(self, site: Site) -> Director:
        if site.hook != self._source or site.endpoint is None:
            raise Unsupported(f"eBPF is not programmed at {site.hook}", where=site.netns)
        key = site.node, site.network
        if key not in self._tables:
            self._tables[key] = _Table(site, self._knobs, partial(self._tables.pop, key))
        return _EbpfDirector(self._tables[key], site.endpoint)

    def close(self) -> None:
        for table in list(self._tables.values()):
            table.close()


class _Table:
    """The maps of one network on one node, and what is in them; they go with the last container there."""

    def __init__(self, site: Site, knobs: Knobs, forget: Callable[[], object]) -> None:
        assert site.endpoint
        self.node = site.node
        self.users: list[Director] = []
        self._forget = forget
        capacities = {name: int(getattr(knobs, knob)) for name, knob in _KNOB_OF.items()} | {"bridge": 1}
        self.loaded = Loaded(site.hook, capacities)
        self._maps = self.loaded.maps
        try:
            self.hooks = _HOOKS[site.hook](self.loaded, site.endpoint.overlay_netns)
        except BenchError:
            self.loaded.close()
            raise
        self._flows = _FLOWS[site.hook]
        self._services: dict[str, Service] = {}
        self._epochs: dict[str, int] = {}  # service -> the epoch its turns are in
        self._epoch = 0

    def close(self) -> None:
        self._forget()
        self.hooks.close()
        self.loaded.close()

    def apply(self, services: Sequence[Service]) -> None:
        """Idempotent: the containers of a node share it, and each asks for the same."""
        changed = [service for service in services if self._services.get(service.name) != service]
        try:
            self._replace(self._known(changed), changed)
        except KernelRefused as refused:
            if refused.where in _KNOB_OF and not refused.fix:
                refused.fix = f"select the plane with more room: @{_KNOB_OF[refused.where]}=N"
            raise

    def remove(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), ())

    def resync(self) -> None:
        """Maps are nobody else's, but root can write them: what they should hold and do not is written again."""
        services = self._known(list(self._services.values()))
        wanted = {"services": self._entries(services), "turns": self._all_turns(services)}
        for name, elements in wanted.items():
            there, should = dict(self._maps[name].items()), dict(elements)
            self._maps[name].update([(key, value) for key, value in elements if there.get(key) != value])
            self._maps[name].delete(there.keys() - should.keys())

    def _known(self, services: Sequence[Service]) -> list[Service]:
        return [self._services[service.name] for service in services if service.name in self._services]

    def _replace(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        """The new turns, then the services, each in one step, then what is left of the old ones."""
        if not old and not new:
            return
        counts, turns_, services = (self._maps[name] for name in ("counts", "turns", "services"))
        epoch = self._epoch + 1
        had, have = {_vip(service) for service in old}, {_vip(service) for service in new}
        lost, fresh = _pairs(old) - _pairs(new), _pairs(new) - _pairs(old)
        old_turns, new_turns = self._all_turns(old), _turns(new, epoch)
        old_entries, counted = self._entries(old), counts.get(lost)
        with Undo() as undo:
            undo(lambda: counts.delete(fresh))
            counts.update([(pair, _COUNT.pack(0)) for pair in fresh])
            undo(lambda: turns_.delete(key for key, _ in new_turns))
            turns_.update(new_turns)
            undo(lambda: services.update(old_entries))
            undo(lambda: services.delete(have - had))
            services.update([_entry(service, epoch) for service in new])
            services.delete(had - have)
            undo(lambda: turns_.update(old_turns))
            turns_.delete(key for key, _ in old_turns)
            undo(lambda: counts.update(counted))
            counts.delete(lost)
            self._forget_flows(lost)
        self._epoch = epoch
        for service in old:
            del self._services[service.name], self._epochs[service.name]
        self._services.update((service.name, service) for service in new)
        self._epochs.update((service.name, epoch) for service in new)

    def _forget_flows(self, lost: Collection[bytes]) -> None:
        """The connections to backends that are gone."""
        if lost:
            for name, pair_of in self._flows.items():
                stale = [key for key, value in self._maps[name].items() if pair_of(key, value) in lost]
                self._maps[name].delete(stale)

    def _entries(self, services: Sequence[Service]) -> list[tuple[bytes, bytes]]:
        return [_entry(service, self._epochs[service.name]) for service in services]

    def _all_turns(self, services: Sequence[Service]) -> list[tuple[bytes, bytes]]:
        return [turn for service in services for turn in _turns([service], self._epochs[service.name])]

    def counters(self) -> list[Counter]:
        counts = {pair: _COUNT.unpack(value)[0] for pair, value in self._maps["counts"].items()}
        return [
            Counter(self.node, service.name, backend.address, counts.get(_pair(service, backend.address), 0))
            for service in self._services.values()
            for backend in service.backends
        ]

    def footprint(self) -> list[Footprint]:
        return [
            Footprint(self.node, f"bpf map {name}", sum(1 for _ in each.items()), _memory(each))
            for name, each in self._maps.items()
        ]


class _EbpfDirector(Director):
    """A container's hooks; the maps are shared with the others."""

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


_HOOKS: dict[str, Callable[[Loaded, str], Hooks]] = {"socket": SocketHooks, "tc": TcHooks}

_TO_BACKEND, _TO_SELF = 0, 1


def _tc_flow(key: bytes, value: bytes) -> bytes:
    destination, vip, kind = value[20:24], value[24:28], value[28]
    return vip + (destination if kind in (_TO_BACKEND, _TO_SELF) else key[0:4])


_FLOWS: dict[str, dict[str, Callable[[bytes, bytes], bytes]]] = {
    "socket": {"vips": lambda key, value: value + key[8:12], "flows": lambda key, value: key[8:12] + value},
    "tc": {"flows": _tc_flow},
}
"""Hook -> map of connections -> the (VIP, backend) an element belongs to."""


def _vip(service: Service) -> bytes:
    return socket.inet_aton(service.vip)


def _entry(service: Service, epoch: int) -> tuple[bytes, bytes]:
    return _vip(service), _SERVICE.pack(len(turns(service)), epoch, 0)


def _turns(services: Sequence[Service], epoch: int) -> list[tuple[bytes, bytes]]:
    return [
        (_TURN.pack(_vip(service), epoch, number), socket.inet_aton(address))
        for service in services
        for number, address in enumerate(turns(service))
    ]


def _pair(service: Service, address: str) -> bytes:
    return _PAIR.pack(_vip(service), socket.inet_aton(address))


def _pairs(services: Collection[Service]) -> set[bytes]:
    return {_pair(service, backend.address) for service in services for backend in service.backends}


def _memory(each: bpf.Map) -> int | None:
    """What the kernel says the map takes (since 6.4 what is in use, before what it may take)."""
    with open(f"/proc/self/fdinfo/{each.fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return None
