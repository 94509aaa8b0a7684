"""The planes' tables of nftables that damage concerns, in every namespace where they stand."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing

from dataplanes.kernel import nft
from tests.lab.mutants.bed import Bed


class Place:
    """The planes' tables in one namespace."""

    def __init__(self, name: str) -> None:
        self.nft = nft.Nftables(name)
        self.close = self.nft.close
        listed = self.nft._handle.cmd("list tables")[1]
        found = re.findall(rf"table (\w+) ({nft.OURS}\S*)", listed)
        self.tables: list[tuple[str, str]] = found  # family and name

    def run_in_each(self, family: str, command: str) -> int:
        """Run a command in each table of a family, whose name takes the place of {}. Return how many there are."""
        tables = [f"{each} {table}" for each, table in self.tables if each == family]
        for table in tables:
            self.nft.run(command.format(table))
        return len(tables)


def places(bed: Bed, undo: ExitStack) -> list[Place]:
    """Return the places of a lab where planes have tables."""
    names = [name for _, _, name in bed.lab.namespaces() if any(map(_ours, nft.tables(name)))]
    return [undo.enter_context(closing(Place(name))) for name in names]


def _ours(table: str) -> bool:
    return table.startswith(nft.OURS)
