"""The connection table of a bridge (bridge_rules.py), as userspace sees it. The rules keep it while packets pass."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dataplanes.bridge_rules import BACK, CLIENTS, FORTH, YEAR
from dataplanes.errors import KernelRefused
from dataplanes.kernel.netlink import NetlinkError
from dataplanes.kernel.nft import Nftables, Remembered

_KEY = struct.Struct("!4s4sH2xH2x")  # destination, source, and their ports
_VALUE = struct.Struct("!6s2x4s4sH2xH2x")  # the MAC of the receiver, and the key of the other direction
_ATTEMPTS = 20


class BridgeConnections:
    """The table of one bridge."""

    def __init__(self, nft: Nftables, family: str, table: str, ours: Callable[[], None]) -> None:
        """Look at a table. `ours` is called after each transaction."""
        self._nft = nft
        self._family = family
        self._table = table
        self._ours = ours

    def close(self) -> None:
        """Close nothing: the handle is the director's."""

    def flush(self, keep: Mapping[str, Collection[str]]) -> int:
        """Delete connections to these VIPs whose backends are others than these: {VIP: backends}.

        Return how many there were.
        """
        kept = {socket.inet_aton(vip): set(map(socket.inet_aton, backends)) for vip, backends in keep.items()}
        return self._delete(lambda: {name: list(self._stale(name, kept)) for name in (*FORTH, *BACK)})

    def misled(self, macs: Mapping[str, str]) -> int:
        """Delete connections to these backends that send to another MAC, or to none: {backend: MAC}.

        Their next packet begins anew. Return how many there were.
        """
        known = {socket.inet_aton(address): bytes.fromhex(mac.replace(":", "")) for address, mac in macs.items()}

        def found(name: str) -> Iterator[bytes]:
            for each in self._elements(name):
                mac, _, backend, *_ = _VALUE.unpack(each.value)
                if known.get(backend, mac) != mac:
                    yield each.key

        return self._delete(lambda: {name: list(found(name)) for name in FORTH})

    def _delete(self, stale: Callable[[], dict[str, list[bytes]]]) -> int:
        for _ in range(_ATTEMPTS):
            elements = stale()
            if not any(elements.values()):
                return 0
            try:
                self._nft.delete(self._family, self._table, elements)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # one of them has expired meanwhile
                    raise
            else:
                self._ours()
                return sum(len(elements.get(name, ())) for name in FORTH)
        raise KernelRefused(
            "connections cannot be deleted", where=self._nft.netns, why=f"some expired, {_ATTEMPTS} times in a row"
        )

    def _stale(self, name: str, kept: Mapping[bytes, Collection[bytes]]) -> Iterator[bytes]:
        for each in self._elements(name):
            destination, source, *_ = _KEY.unpack(each.key)
            _, as_source, as_destination, *_ = _VALUE.unpack(each.value)
            vip, backend = (as_source, source) if name in BACK else (destination, as_destination)
            if backend not in kept.get(vip, (backend,)):
                yield each.key

    def count(self) -> int:
        """Return the number of connections."""
        return sum(len(self._elements(name)) for name in FORTH)

    def commands(self) -> Iterator[str]:
        """Yield the nft commands that add the present connections to another table of this name."""
        for name in (*FORTH, *BACK):
            elements = self._elements(name)
            clients = {socket.inet_ntoa(_KEY.unpack(each.key)[0]) for each in elements} if name in BACK else ()
            yield from self._add(name, map(written, elements))
            yield from self._add(CLIENTS, (f"{client} timeout {_time(YEAR * 1000)}" for client in sorted(clients)))

    def _add(self, name: str, elements: Iterable[str]) -> Iterator[str]:
        listed = ", ".join(elements)
        if listed:
            yield f"add element {self._family} {self._table} {name} {{ {listed} }}"

    def _elements(self, name: str) -> list[Remembered]:
        try:
            return self._nft.elements(self._family, self._table, name)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # somebody has flushed the ruleset
                raise
            return []


def written(element: Remembered) -> str:
    """Write an element as nft's language does."""
    mac, *other = _VALUE.unpack(element.value)
    timeout = max(element.timeout, element.left)  # renewed by packets, what is left may be more than it began with
    times = f"timeout {_time(timeout)} expires {_time(element.left)}"
    return f"{_key(_KEY.unpack(element.key))} {times} : {mac.hex(':')} . {_key(other)}"


def _time(milliseconds: int) -> str:
    """Write a time as nft does. It takes no number of more than eight digits."""
    seconds, rest = divmod(milliseconds, 1000)
    days, seconds = divmod(seconds, 86_400)
    return f"{days}d{seconds}s{rest}ms"


def _key(fields: Sequence[Any]) -> str:
    addresses, ports = map(socket.inet_ntoa, fields[:2]), map(str, fields[2:])
    return " . ".join((*addresses, *ports))
