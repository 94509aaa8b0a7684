"""The services and connections in the maps of one network on one node.

A change of backends writes the new turns under a new epoch, then the service's element (which the kernel replaces as a
whole), and then deletes the old turns. So a connection sees the old state or the new one.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from dataplanes import ebpf_elements
from dataplanes.base import Counter, Footprint
from dataplanes.ebpf_connections import Connections
from dataplanes.ebpf_object import Loaded
from dataplanes.ebpf_table import Table, memory
from dataplanes.elements import Decisive
from dataplanes.hooks import Hooks
from dataplanes.kernel.undo import Undo
from dataplanes.model import Service, succeed, turns

_SERVICE, _TURN, _PAIR = struct.Struct("=IIQ"), struct.Struct("=4sII"), struct.Struct("=4s4s")
_COUNT = struct.Struct("=Q")


class _Programmed(Struct, frozen=True):
    """A service as it is programmed: its turns in order, and the epoch under which they are stored."""

    service: Service
    turns: tuple[str, ...]
    epoch: int


class ServiceTable(Table):
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
        self._replace(self._known(changed), changed)

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

    def holds(self, service: Service) -> bool:
        return bool(self._maps["services"].get([socket.inet_aton(service.vip)]))

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
            self._forget_flows({pair for pair, count in counted if count != _COUNT.pack(0)}, had - have)
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

    def _forget_flows(self, lost: Collection[bytes], gone: Collection[bytes]) -> None:
        """Forget the connections to backends that are lost. A backend that never had a connection needs no search.

        A connected socket stays with such a backend, and knows it by the VIP until that is gone, too.
        """
        if self.connections:
            self.connections.give_up(lost)
        elif lost:
            for name, pair_of in _FLOWS.items():
                pairs = lost if name == "flows" else {pair for pair in lost if pair[:4] in gone}
                stale = [key for key, value in self._maps[name].items() if pair_of(key, value) in pairs]
                self._maps[name].delete(stale)

    def counters(self) -> list[Counter]:
        counts = {pair: _COUNT.unpack(value)[0] for pair, value in self._maps["counts"].items()}
        return [
            Counter(self.node, name, backend.address, counts.get(_pair(each.service, backend.address), 0))
            for name, each in self._programmed.items()
            for backend in each.service.backends
        ]

    def elements(self, ends: Collection[str], since: int) -> Iterable[Decisive]:
        return ebpf_elements.elements(self.node, self._maps, ends, since)

    def footprint(self) -> list[Footprint]:
        found = super().footprint()
        if self.connections:
            sizes = [memory(self._maps[name]) or 0 for name in self.parts]
            found += [
                Footprint(self.node, "bpf map flows", self.connections.count(), sum(sizes)),
                Footprint(self.node, "connections refused", self.connections.refused()),
            ]
        return found


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
