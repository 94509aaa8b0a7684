"""Where the packet filter entries of one site are programmed: in a table of iptables, or in an nft table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from dataplanes.base import Footprint
from dataplanes.kernel import iptables
from dataplanes.kernel.nft import Nftables
from dataplanes.kernel.undo import Undo

Entry = tuple[str, str]
"""Where it is, and what: a table of iptables and a rule, or a set of the nft table and an element."""


class Filter(ABC):
    """A table of one site: a fixed part, and entries that services have. Several may have the same entry."""

    def __init__(self, netns: str) -> None:
        self.netns = netns
        self._users: Counter[Entry] = Counter()  # entry -> how many services have it

    @abstractmethod
    def open(self) -> None:
        """Program the fixed part, whole or not at all."""

    @abstractmethod
    def clear(self) -> None:
        """Undo `open`. There are no entries any more."""

    def change(self, old: Iterable[Entry], new: Iterable[Entry], undo: Undo) -> None:
        """Program the new entries instead of the old ones, as far as they are of this table."""
        change = Counter(each for each in new if self._has(each))
        change.subtract(each for each in old if self._has(each))
        gone = [each for each, by in change.items() if by < 0 and self._users[each] + by == 0]
        come = [each for each, by in change.items() if by > 0 and not self._users[each]]
        self._exchange(gone, come)
        undo(partial(self._exchange, come, gone))
        self._count(change)
        undo(partial(self._count, Counter({each: -by for each, by in change.items()})))

    def _count(self, change: Counter[Entry]) -> None:
        self._users.update(change)
        for each in change:
            if not self._users[each]:
                del self._users[each]

    @abstractmethod
    def restore(self) -> None:
        """Bring the table to what was programmed, whatever others have done to it."""

    @abstractmethod
    def look(self) -> dict[str, object]:
        """Return facts that are cheap to ask, and other ones once others have changed the table."""

    @abstractmethod
    def footprint(self) -> list[Footprint]:
        """Return what is programmed."""

    @abstractmethod
    def close(self) -> None:
        """Close the sockets. What is programmed stays. Idempotent."""

    @abstractmethod
    def _has(self, entry: Entry) -> bool:
        """Return True if the entry is one of this table."""

    @abstractmethod
    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        """Remove some entries and add others in one transaction."""


class IptablesTable(Filter):
    """Rules in one table of iptables, which others may use as well."""

    def __init__(self, netns: str, table: str, fixed: Sequence[str]) -> None:
        super().__init__(netns)
        self._table = table
        self._fixed = list(fixed)
        self._tables = iptables.Tables(netns)

    def open(self) -> None:
        iptables.exchange(self.netns, self._table, [], self._fixed)

    def clear(self) -> None:
        iptables.exchange(self.netns, self._table, self._fixed, [])

    def restore(self) -> None:
        if wanted := [*self._fixed, *(rule for _, rule in self._users)]:
            there = set(iptables.rules(self.netns, self._table))
            missing = [rule for rule in wanted if f"-A {rule}" not in there]
            iptables.exchange(self.netns, self._table, [], missing)

    def look(self) -> dict[str, object]:
        # Reading a table creates it, so a table without rules of ours is not read.
        return {self._table: self._tables.info(self._table)} if self._fixed or self._users else {}

    def footprint(self) -> list[Footprint]:
        return [Footprint(self.netns, f"{self._table} rules", len(self._fixed) + len(self._users))]

    def close(self) -> None:
        self._tables.close()

    def _has(self, entry: Entry) -> bool:
        return entry[0] == self._table

    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        iptables.exchange(self.netns, self._table, [rule for _, rule in gone], [rule for _, rule in come])


class NftTable(Filter):
    """An nft table of our own, whose entries are elements of its sets and maps."""

    def __init__(self, netns: str, table: str, base: Sequence[str], first: Mapping[str, Sequence[bytes]]) -> None:
        """Prepare the table.

        `table` is its name; its family is ip. `base` are the commands that create it, which the kernel refuses if it
        exists. `first` are rules that nft's language does not have, by the chain that they are put in front of.
        """
        super().__init__(netns)
        self._table = table
        self._base = list(base)
        self._first = dict(first)
        self._kinds = Counter(line.split(" ", 2)[1] for line in base)
        self._sets = {line.split(" ", 5)[4] for line in base if line.startswith(("add set ", "add map "))}
        self._nft = Nftables(netns)

    def open(self) -> None:
        with Undo() as undo:
            self._nft.run("\n".join(self._base))
            undo(self.clear)
            self._insert()

    def clear(self) -> None:
        self._nft.run("\n".join(self._gone()))

    def restore(self) -> None:
        # The table holds no state, so all of it comes anew, in one transaction.
        self._nft.run("\n".join((*self._gone(), *self._base, *self._restoring())))
        with Undo() as undo:
            undo(self._insert)  # the rule that was there went with the old table, so it is tried once more
            self._insert()

    def look(self) -> dict[str, object]:
        return {"generation": self._nft.generation()}

    def footprint(self) -> list[Footprint]:
        counts = {
            "chains": self._kinds["chain"],
            "rules": self._kinds["rule"] + len(self._first),
            "sets": len(self._sets),
            "elements": len(self._users),
        }
        return [Footprint(self.netns, f"nft {kind}", count) for kind, count in counts.items()]

    def close(self) -> None:
        self._nft.close()

    def _has(self, entry: Entry) -> bool:
        return entry[0] in self._sets

    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        keys = [(name, element.partition(" : ")[0]) for name, element in gone]
        if lines := [*self._elements("delete", keys), *self._elements("add", come)]:
            self._nft.run("\n".join(lines))

    def _insert(self) -> None:
        for chain, expressions in self._first.items():
            self._nft.insert(self._table, chain, expressions)

    def _restoring(self) -> Iterator[str]:
        """Yield the commands that add all entries to the new table."""
        yield from self._elements("add", list(self._users))

    def _gone(self) -> list[str]:
        """Return the commands that remove the table. They are fine if somebody has removed it already."""
        return [f"add table ip {self._table}", f"delete table ip {self._table}"]

    def _elements(self, verb: str, entries: Sequence[Entry]) -> list[str]:
        by_set: dict[str, list[str]] = {}
        for name, element in entries:
            by_set.setdefault(name, []).append(element)
        return [f"{verb} element ip {self._table} {name} {{ {', '.join(each)} }}" for name, each in by_set.items()]
