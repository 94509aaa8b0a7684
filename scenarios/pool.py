"""The addresses of a network, handed out in turn."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network


class Pool:
    """The addresses of one network, handed out in turn.

    An address is used again only after all others. Its MAC, which is derived from it, would be known on the bridges of
    other nodes at its former place.
    """

    def __init__(self, subnet: str) -> None:
        self._network = IPv4Network(subnet)
        self._first, self._last = int(self._network[2]), int(self._network.broadcast_address) - 1
        self._next = self._first
        self._used = {self._network.network_address, self._network.broadcast_address, self._network[1]}

    def claim(self, address: str) -> str | None:
        """Take a given address. Return what is wrong with it, or None."""
        try:
            wanted = IPv4Address(address)
        except ValueError:
            return f"{address!r} is not an IPv4 address"
        if wanted not in self._network:
            return f"{address} is outside {self._network}"
        if wanted in self._used:
            return f"{address} is taken"
        self._used.add(wanted)
        return None

    def take(self) -> str | None:
        """Return the next free address, or None if the subnet is full."""
        for number in itertools.chain(range(self._next, self._last + 1), range(self._first, self._next)):
            candidate = IPv4Address(number)
            if candidate not in self._used:
                self._used.add(candidate)
                self._next = number + 1
                return str(candidate)
        return None

    def release(self, address: str) -> None:
        """Give an address back."""
        self._used.discard(IPv4Address(address))
