"""The connection table of the tc programs, as userspace sees it (dataplanes/bpf/connections.h).

The programs keep it while they run. Userspace sets how many connections it may hold, and gives up connections whose
backend is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Struct

from dataplanes.ebpf_object import Loaded
from dataplanes.kernel import bpf

_SETTINGS, _TALLY = struct.Struct("=I"), struct.Struct("=QQQ")
_ENTRY = struct.Struct("=4s4s2s2sIQ4sIBBHI")
_FIRST = struct.pack("=I", 0)
_ANSWERED = 1
_TICK = 28  # bits of the clock that are left out of the time at which a connection has begun
_BACKEND = 6  # the index of the backend in an entry
_PROGRAMS = ("from_container", "make_room")  # in the order of their numbers in connections.h
STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT"),
    *("CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
"""The names of the states, at the numbers that dataplanes/bpf/states.h has."""


class Connection(Struct, frozen=True):
    """An entry of the table. Addresses and ports are in network order."""

    client: bytes
    vip: bytes
    client_port: bytes
    port: bytes
    protocol: int
    state: str
    answered: bool
    until: int  # nanoseconds of the monotonic clock
    backend: bytes
    begun: int  # 16 bits of that clock, in units of a quarter of a second
    place: bytes

    def begun_since(self, time: int) -> bool:
        """Return True if it has begun after a time of the monotonic clock, or within a quarter of a second before."""
        return (self.begun - (time >> _TICK)) & 0xFFFF < 0x8000


def capacities(room: int) -> dict[str, int]:
    """Return the capacity of each of the table's maps, for `room` connections."""
    return {
        "ends": 2 * room,
        "flows": room,
        "vacant": room,
        "programs": len(_PROGRAMS),
        "settings": 1,
        "tally": 1,
    }


class Connections:
    """The table of one network on one node."""

    parts = ("ends", "flows", "vacant", "programs", "settings", "tally")
    """The maps of the table."""

    def __init__(self, loaded: Loaded) -> None:
        self._maps = loaded.maps
        self._maps["settings"].update([(_FIRST, _SETTINGS.pack(self._maps["flows"].capacity))])
        for number, name in enumerate(_PROGRAMS):
            self._maps["programs"].put(struct.pack("=I", number), struct.pack("=I", loaded.programs[name]))

    def give_up(self, pairs: Collection[bytes]) -> None:
        """Give up the connections of these (VIP, backend) pairs, which are bytes, and free their places."""
        vips = {pair[:4] for pair in pairs}
        ends = self._maps["ends"]
        for key, place in list(ends.items()) if pairs else ():
            if key[4:8] not in vips:
                continue
            backend = _entry(self._maps, place)[_BACKEND]
            if key[4:8] + backend in pairs and ends.remove(key):
                ends.delete([key[:4] + backend + key[8:]])
                self._maps["vacant"].put(None, place)

    def count(self) -> int:
        """Return the number of entries. A finished connection counts until a new one needs its place."""
        return len({place for _, place in self._maps["ends"].items()})

    def refused(self) -> int:
        """Return how many connections were refused because the table was full."""
        return int(_TALLY.unpack(self._maps["tally"].get([_FIRST])[0][1])[2])

    def __iter__(self) -> Iterator[Connection]:
        return self.entries(self._maps)

    @staticmethod
    def entries(maps: Mapping[str, bpf.Map]) -> Iterator[Connection]:
        """Yield the connections in the maps of a program."""
        for place in {place for _, place in maps["ends"].items()}:
            client, vip, client_port, port, protocol, until, backend, _, state, marks, begun, _ = _entry(maps, place)
            ends = client, vip, client_port, port, protocol
            yield Connection(*ends, STATES[state], bool(marks & _ANSWERED), until, backend, begun, place)


def _entry(maps: Mapping[str, bpf.Map], place: bytes) -> tuple[Any, ...]:
    return _ENTRY.unpack(maps["flows"].get([place])[0][1])
