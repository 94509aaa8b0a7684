"""Tables whose entries are also chains, as kube-proxy programs them: a service comes with chains of its own.

An entry that is a chain is ("chain NAME", its rules, one a line). A chain whose rules change is flushed and filled
again in the same transaction, so no packet finds it empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from dataplanes.base import Footprint
from dataplanes.filters import Entry, Filter, NftTable
from dataplanes.kernel import iptables

_CHAIN = "chain "


def chain(name: str, *rules: str) -> Entry:
    """Return the entry of a chain."""
    return f"{_CHAIN}{name}", "\n".join(rules)


class NftChains(NftTable):
    """An nft table of our own, whose entries are elements and chains."""

    def footprint(self) -> list[Footprint]:
        chains = _chains(self._users)
        rules = [rule for each in chains.values() for rule in each]
        anonymous = [found[1] for rule in rules if (found := re.search(r" v?map \{(.*)\}", rule))]
        counts = {
            "chains": self._kinds["chain"] + len(chains),
            "rules": self._kinds["rule"] + len(rules),
            "sets": len(self._sets) + len(anonymous),
            "elements": self._kinds["element"] + len(self._users) - len(chains) + sum(m.count(":") for m in anonymous),
        }
        return [Footprint(self.netns, f"nft {kind}", count) for kind, count in counts.items()]

    def _has(self, entry: Entry) -> bool:
        return entry[0].startswith(_CHAIN) or super()._has(entry)

    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        old, new = _chains(gone), _chains(come)
        keys = [(name, element.partition(" : ")[0]) for name, element in gone if name in self._sets]
        lines = [
            *(f"add chain ip {self._table} {name}" for name in new if name not in old),
            *(f"flush chain ip {self._table} {name}" for name in new if name in old),
            *self._rules(new),
            *self._elements("delete", keys),
            *self._elements("add", [entry for entry in come if entry[0] in self._sets]),
            *(f"flush chain ip {self._table} {name}" for name in old if name not in new),
            *(f"delete chain ip {self._table} {name}" for name in old if name not in new),
        ]
        if lines:
            self._nft.run("\n".join(lines))

    def _restoring(self) -> Iterator[str]:
        chains = _chains(self._users)
        yield from (f"add chain ip {self._table} {name}" for name in chains)
        yield from self._rules(chains)
        yield from self._elements("add", [entry for entry in self._users if entry[0] in self._sets])

    def _rules(self, chains: dict[str, list[str]]) -> Iterator[str]:
        for name, rules in chains.items():
            yield from (f"add rule ip {self._table} {name} {rule}" for rule in rules)


class Layout(Struct, frozen=True):
    """What one table of iptables has whatever the services are.

    `chains` are our chains with their rules. Rules of services come to the front of the chain `services`. `jumps` are
    rules of the kernel's own chains that lead to ours; the first one is to be the first.
    """

    table: str
    chains: dict[str, tuple[str, ...]]
    jumps: tuple[str, ...]
    services: str


class IptablesChains(Filter):
    """Chains of ours in one table of iptables, which several sites of a namespace share.

    An entry is (TABLE, a rule of the services' chain) or ("TABLE chain NAME", the rules of a chain). With each change
    the chain of the services is written anew, as kube-proxy does.
    """

    def __init__(self, netns: str, layout: Layout) -> None:
        super().__init__(netns)
        self._layout = layout
        self._chain = f"{layout.table} {_CHAIN}"
        self._opened = 0  # how many sites use it
        self._tables: iptables.Tables | None = None

    def open(self) -> None:
        if not self._opened:
            jumps = [f"-I {jump}" for jump in reversed(self._layout.jumps)]
            self._program([*_filled(self._layout.chains), *jumps])
        self._opened += 1

    def clear(self) -> None:
        if self._opened == 1:
            there = iptables.rules(self.netns, self._layout.table)
            jumps = [f"-D {jump}" for jump in self._layout.jumps if f"-A {jump}" in there]
            ours = [*self._layout.chains, *self._own(self._users)]
            self._program([*(f":{name} - [0:0]" for name in ours), *jumps, *(f"-X {name}" for name in ours)])
        self._opened -= 1

    def restore(self) -> None:
        there = iptables.rules(self.netns, self._layout.table)
        jumps = [f"-I {jump}" for jump in reversed(self._layout.jumps) if f"-A {jump}" not in there]
        chains = self._layout.chains | self._with(self._users) | self._own(self._users)
        self._program([*_filled(chains), *jumps])

    def look(self) -> dict[str, object]:
        if not self._opened:  # reading a table creates it
            return {}
        self._tables = self._tables or iptables.Tables(self.netns)
        return {self._layout.table: self._tables.info(self._layout.table)}

    def footprint(self) -> list[Footprint]:
        chains = self._layout.chains | self._with(self._users) | self._own(self._users)
        rules = sum(map(len, chains.values())) + len(self._layout.jumps)
        table = self._layout.table
        return [Footprint(self.netns, f"{table} chains", len(chains)), Footprint(self.netns, f"{table} rules", rules)]

    def close(self) -> None:
        if self._tables:
            self._tables.close()
        self._tables = None  # another site may still use it, and then opens it again

    def _has(self, entry: Entry) -> bool:
        return entry[0] == self._layout.table or entry[0].startswith(self._chain)

    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        if not gone and not come:
            return
        going = set(gone)
        left = dict.fromkeys(each for each in self._users if each not in going)
        new = self._own(come)
        vanished = [name for name in self._own(gone) if name not in new]
        emptied = [f":{name} - [0:0]" for name in vanished]
        filled = _filled(self._with([*left, *(each for each in come if each not in left)]) | new)
        self._program([*emptied, *filled, *(f"-X {name}" for name in vanished)])

    def _own(self, entries: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
        """Return the chains among some entries, and their rules."""
        there = [(where.removeprefix(self._chain), what) for where, what in entries if where.startswith(self._chain)]
        return {name: tuple(what.splitlines()) for name, what in there}

    def _with(self, entries: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
        """Return the chain of the services with its rules."""
        rules = [rule for where, rule in entries if where == self._layout.table]
        return {self._layout.services: (*rules, *self._layout.chains[self._layout.services])}

    def _program(self, lines: Sequence[str]) -> None:
        iptables.program(self.netns, self._layout.table, lines)


def _filled(chains: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the lines that create or empty chains, and fill them."""
    return [
        *(f":{name} - [0:0]" for name in chains),
        *(f"-A {name} {rule}" for name, rules in chains.items() for rule in rules),
    ]


def _chains(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return the chains among some entries, and their rules."""
    return {where.removeprefix(_CHAIN): what.splitlines() for where, what in entries if where.startswith(_CHAIN)}
