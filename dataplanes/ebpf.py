"""eBPF: one set of maps per network and node, and programs that look there, at a container's sockets or at its veth.

What a service costs is map elements, once per node however many containers there are; a container costs its programs'
attachment. A change of backends writes the new turns under a new epoch, then the service's element (which the kernel
replaces as a whole), then deletes the old turns: a connection sees the old state or the new.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.ebpf_object import PROGRAMS, Loaded
from dataplanes.errors import BenchError, KernelRefused, Unsupported
from dataplanes.kernel import bpf
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Service, turns
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
            self._tables[key] = _Table(site, self._knobs)
        return _EbpfDirector(self._tables[key], site)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
        self._tables.clear()


class _Table:
    """The maps of one network on one node, and what is in them."""

    def __init__(self, site: Site, knobs: Knobs) -> None:
        self.node = site.node
        self.users: list[Director] = []
        capacities = {name: int(getattr(knobs, knob)) for name, knob in _KNOB_OF.items()} | {"bridge": 1}
        self.loaded = Loaded(site.hook, capacities)
        self._maps = self.loaded.maps
        self._flows = _FLOWS[site.hook]
        self._services: dict[str, Service] = {}
        self._epochs: dict[str, int] = {}  # service -> the epoch its turns are in
        self._epoch = 0

    def close(self) -> None:
        self.loaded.close()

    def set_bridge(self, index: int) -> None:
        self._maps["bridge"].update([(struct.pack("=I", 0), struct.pack("=I", index))])

    def apply(self, services: Sequence[Service]) -> None:
        """Idempotent: the containers of a node share it, and each asks for the same."""
        changed = [service for service in services if self._services.get(service.name) != service]
        if not changed:
            return
        old = [self._services[service.name] for service in changed if service.name in self._services]
        before, self._epoch = self._epoch, self._epoch + 1
        known, wanted = _pairs(old), _pairs(changed)
        new_turns = _turns(changed, self._epoch)
        try:
            self._maps["counts"].update([(pair, _COUNT.pack(0)) for pair in wanted - known])
            self._maps["turns"].update(new_turns)
            self._maps["services"].update([_entry(service, self._epoch) for service in changed])
        except KernelRefused as refused:
            self._maps["services"].delete({_vip(s) for s in changed} - {_vip(s) for s in old})
            self._maps["services"].update([_entry(service, self._epochs[service.name]) for service in old])
            self._maps["turns"].delete(key for key, _ in new_turns)
            self._maps["counts"].delete(wanted - known)
            self._epoch = before
            if refused.where in _KNOB_OF and not refused.fix:
                refused.fix = f"select the plane with more room: @{_KNOB_OF[refused.where]}=N"
            raise
        self._maps["services"].delete({_vip(s) for s in old} - {_vip(s) for s in changed})
        self._forget(old, keep=changed)
        self._services.update((service.name, service) for service in changed)
        self._epochs.update((service.name, self._epoch) for service in changed)

    def remove(self, services: Sequence[Service]) -> None:
        gone = [self._services.pop(service.name) for service in services if service.name in self._services]
        self._maps["services"].delete(_vip(service) for service in gone)
        self._forget(gone, keep=())
        for service in gone:
            del self._epochs[service.name]

    def _forget(self, old: Sequence[Service], keep: Sequence[Service]) -> None:
        """Turns of the last epoch, counts of backends that are gone, and the connections to those."""
        if not old:
            return
        lost = _pairs(old) - _pairs(keep)
        self._maps["turns"].delete(key for s in old for key, _ in _turns([s], self._epochs[s.name]))
        self._maps["counts"].delete(lost)
        if lost:
            for name, pair_of in self._flows.items():
                stale = [key for key, value in self._maps[name].items() if pair_of(key, value) in lost]
                self._maps[name].delete(stale)

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
    def __init__(self, table: _Table, site: Site) -> None:
        self._table = table
        self._detach: list[Callable[[], None]] = []
        self._links: list[int] = []
        self._site = site
        table.users.append(self)
        try:
            _ATTACH[site.hook](self, site)
        except BenchError:
            self.close()
            raise

    def attach_socket(self, site: Site) -> None:
        assert site.endpoint
        cgroup = site.endpoint.cgroup
        if cgroup is None:
            raise KernelRefused("no cgroup to attach to", where=site.netns, why="the container has none of its own")
        for name, program in self._table.loaded.programs.items():
            self._links.append(bpf.link_cgroup(program, cgroup, PROGRAMS["socket"][name][1]))

    def attach_tc(self, site: Site) -> None:
        endpoint = site.endpoint
        assert endpoint
        programs = self._table.loaded.programs
        with Rtnl(endpoint.overlay_netns) as rtnl:
            port = endpoint.bridge_port
            self._table.set_bridge(rtnl.master(port))
            rtnl.send([rtnl.clsact_add(port)])
            self._detach.append(lambda: _remove_clsact(endpoint.overlay_netns, port))
            rtnl.send(
                [
                    rtnl.classifier_add(port, "ingress", programs["from_container"], "from_container"),
                    rtnl.classifier_add(port, "egress", programs["to_container"], "to_container"),
                ]
            )

    def apply(self, services: Sequence[Service]) -> None:
        self._table.apply(services)

    def remove(self, services: Sequence[Service]) -> None:
        self._table.remove(services)

    def counters(self) -> list[Counter]:
        return self._table.counters() if self._table.users[0] is self else []

    def footprint(self) -> list[Footprint]:
        shared = self._table.footprint() if self._table.users[0] is self else []
        return [Footprint(self._site.netns, "bpf attachments", len(self._links) or 2 * len(self._detach)), *shared]

    def close(self) -> None:
        if self not in self._table.users:
            return
        while self._detach:
            self._detach.pop()()
        self.release()

    def release(self) -> None:
        for fd in self._links:
            os.close(fd)
        self._links.clear()
        if self in self._table.users:
            self._table.users.remove(self)


def _remove_clsact(name: str, port: str) -> None:
    with Rtnl(name) as rtnl:
        rtnl.send([rtnl.clsact_del(port)], ignore=(2, 19, 22))  # ENOENT, ENODEV, EINVAL: the port or the qdisc is gone


_ATTACH: dict[str, Callable[[_EbpfDirector, Site], None]] = {
    "socket": _EbpfDirector.attach_socket,
    "tc": _EbpfDirector.attach_tc,
}

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
