"""Sets of iptables (ipset) that several sites of a namespace share. An entry is (SET, a member)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dataplanes.base import Footprint
from dataplanes.errors import BenchError
from dataplanes.filters import Entry, Filter
from dataplanes.kernel import ipset
from dataplanes.kernel.ipset import Sets
from dataplanes.kernel.netlink import Request


class Ipsets(Filter):
    """The sets of kube-proxy in one namespace."""

    def __init__(self, netns: str, kinds: Mapping[str, str]) -> None:
        """`kinds`: the kind of each set, such as hash:ip."""
        super().__init__(netns)
        self._kinds = dict(kinds)
        self._opened = 0  # how many sites use them
        self._sets: Sets | None = None

    def open(self) -> None:
        if not self._opened:
            created = [ipset.create(name, kind) for name, kind in self._kinds.items()]
            self._send(created, [ipset.destroy(name) for name in self._kinds])
        self._opened += 1

    def clear(self) -> None:
        if self._opened == 1:
            destroyed = [ipset.destroy(name) for name in self._kinds]
            self._send(destroyed, [ipset.create(name, kind) for name, kind in self._kinds.items()])
        self._opened -= 1

    def restore(self) -> None:
        for name, kind in self._kinds.items():
            self._socket().replace(name, kind, [member for of, member in self._users if of == name])

    def look(self) -> dict[str, object]:
        return {}  # the kernel tells only of all members at once

    def footprint(self) -> list[Footprint]:
        counts = {"ipset sets": len(self._kinds), "ipset members": len(self._users)}
        return [Footprint(self.netns, kind, count) for kind, count in counts.items()]

    def close(self) -> None:
        if self._sets:
            self._sets.close()
        self._sets = None  # another site may still use them, and then opens it again

    def _has(self, entry: Entry) -> bool:
        return entry[0] in self._kinds

    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        there = [*(ipset.delete(*entry) for entry in gone), *(ipset.add(*entry) for entry in come)]
        self._send(there, [*(ipset.delete(*entry) for entry in come), *(ipset.add(*entry) for entry in gone)])

    def _send(self, requests: Iterable[Request], back: Iterable[Request]) -> None:
        """Carry out requests. If one is refused, carry out those that undo all of them."""
        try:
            self._socket().send(requests)
        except BenchError:
            self._socket().send(back)
            raise

    def _socket(self) -> Sets:
        self._sets = self._sets or Sets(self.netns)
        return self._sets
