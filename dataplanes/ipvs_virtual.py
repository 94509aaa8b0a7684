"""The virtual services of one site: what IPVS is asked for when services change, and what undoes it."""

from __future__ import annotations

import errno
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Sequence

from dataplanes.base import Counter
from dataplanes.errors import Unsupported
from dataplanes.kernel.ipvs import Ipvs, ServiceKey
from dataplanes.kernel.netlink import NetlinkError, Request
from dataplanes.kernel.undo import Undo
from dataplanes.model import Backend, Service

_Undoable = tuple[Request, list[Request]]
"""A request to IPVS, and the requests that undo it."""
_Destinations = dict[str, Backend]
_ALREADY = (errno.ENOENT, errno.EEXIST, errno.ESRCH)


class VirtualServices:
    """The virtual services by which IPVS serves the services of one site."""

    def __init__(
        self, ipvs: Ipvs, keys: Callable[[Service], Sequence[ServiceKey]], forward: int, scheduler: str, drains: bool
    ) -> None:
        """`keys`: the virtual services of a service. `drains`: weight 0 stays a destination."""
        self._ipvs = ipvs
        self._keys = keys
        self._forward = forward
        self._scheduler = scheduler
        self._drains = drains

    def change(self, old: Sequence[Service], new: Sequence[Service], undo: Undo) -> None:
        """Serve the new services instead of the old ones."""
        self._send(list(self._steps(self._wanted(old), self._wanted(new))), undo)

    def restore(self, services: Iterable[Service]) -> None:
        """Bring the virtual services of these to what they were, whatever others have done to them."""
        wanted = self._wanted(services)
        there = {
            each.key: {d.address: Backend(d.address, d.weight) for d in each.destinations}
            for each in self._ipvs.services()
            if each.key in wanted
        }
        self._ipvs.send((request for request, _ in self._steps(there, wanted)), ignore=_ALREADY)

    def counters(self, netns: str, services: Iterable[Service]) -> list[Counter]:
        """Return what IPVS has sent to the backends of these services."""
        names = {key: service.name for service in services for key in self._keys(service)}
        sent: dict[tuple[str, str], Count[str]] = {}
        for each in self._ipvs.services():
            for d in each.destinations if each.key in names else ():
                found = sent.setdefault((names[each.key], d.address), Count())
                found.update({"connections": d.connections, "packets": d.packets, "bytes": d.bytes})
        kinds = ("connections", "packets", "bytes")
        return [Counter(netns, *where, *(counts[kind] for kind in kinds)) for where, counts in sent.items()]

    def size(self, services: Iterable[Service]) -> tuple[int, int]:
        """Return the number of virtual services and of destinations."""
        wanted = self._wanted(services)
        return len(wanted), sum(map(len, wanted.values()))

    def _wanted(self, services: Iterable[Service]) -> dict[ServiceKey, _Destinations]:
        found: dict[ServiceKey, _Destinations] = {}
        for service in services:
            backends = {each.address: each for each in service.backends if each.weight or self._drains}
            found.update(dict.fromkeys(self._keys(service), backends))
        return found

    def _steps(self, old: dict[ServiceKey, _Destinations], new: dict[ServiceKey, _Destinations]) -> Iterator[_Undoable]:
        """Yield the steps from one to the other. Destinations are added before any is removed."""
        ipvs, forward = self._ipvs, self._forward
        for key, wanted in new.items():
            had = old.get(key, {})
            if key not in old:
                yield ipvs.add_service(key, self._scheduler), [ipvs.del_service(key)]
            for address, backend in wanted.items():
                if address not in had:
                    way = [ipvs.del_destination(key, address)]
                    yield ipvs.add_destination(key, address, forward, backend.weight), way
                elif had[address] != backend:
                    way = [ipvs.set_destination(key, address, forward, had[address].weight)]
                    yield ipvs.set_destination(key, address, forward, backend.weight), way
            for address, backend in had.items():
                if address not in wanted:
                    way = [ipvs.add_destination(key, address, forward, backend.weight)]
                    yield ipvs.del_destination(key, address), way
        for key, had in old.items():
            if key not in new:
                yield ipvs.del_service(key), list(self._whole(key, had))

    def _whole(self, key: ServiceKey, destinations: _Destinations) -> Iterator[Request]:
        yield self._ipvs.add_service(key, self._scheduler)
        for address, backend in destinations.items():
            yield self._ipvs.add_destination(key, address, self._forward, backend.weight)

    def _send(self, steps: Sequence[_Undoable], undo: Undo) -> None:
        """Carry out the steps. A step that IPVS refused is not undone, because its object is not ours."""
        refused: frozenset[int] = frozenset()

        def back() -> None:
            done = [way for number, (_, way) in enumerate(steps) if number not in refused]
            self._ipvs.send((each for way in reversed(done) for each in way), ignore=_ALREADY)

        undo(back)
        try:
            self._ipvs.send(request for request, _ in steps)
        except NetlinkError as error:
            refused = error.refused | frozenset(range(error.sent, len(steps)))
            if error.errno != errno.EEXIST:
                raise
            raise Unsupported(
                "a virtual service is there already",
                where=error.where,
                why="a namespace has one for each mark, and one for each port of an address",
                fix="choose=map tells networks with the same addresses apart",
            ) from error
