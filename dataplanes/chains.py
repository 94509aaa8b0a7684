"""Tables whose entries are also chains, as kube-proxy programs them: a service comes with chains of its own.

An entry that is a chain is ("chain NAME", its rules, one a line). A chain whose rules change is flushed and filled
again in the same transaction, so no packet finds it empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from dataplanes.base import Footprint
from dataplanes.filters import Entry, NftTable

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


def _chains(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return the chains among some entries, and their rules."""
    return {where.removeprefix(_CHAIN): what.splitlines() for where, what in entries if where.startswith(_CHAIN)}
