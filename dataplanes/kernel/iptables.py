"""iptables, spoken only where the seed speaks it: the legacy back end, programmed in bulk by iptables-restore."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from dataplanes.errors import KernelRefused
from dataplanes.kernel import process

_TABLES = ("mangle", "nat", "filter")


def program(name: str, table: str, lines: Sequence[str]) -> None:
    """Add or delete rules of one table in one transaction: lines are `-A CHAIN ...`, `-D CHAIN ...`, `:CHAIN - [0:0]`.

    Raises KernelRefused and changes nothing if any line is refused (the table is replaced in one step).
    """
    text = "\n".join((f"*{table}", *lines, "COMMIT", ""))
    process.run(name, ("iptables-legacy-restore", "--noflush", "--wait", "10"), text)


def withdraw(name: str, table: str, lines: Sequence[str]) -> None:
    """Delete rules (`-D CHAIN ...`) of one table; one that somebody else has deleted is as good as deleted."""
    try:
        program(name, table, lines)
    except KernelRefused:
        for line in lines:
            with suppress(KernelRefused):
                program(name, table, [line])


def rules(name: str, table: str) -> list[str]:
    """The rules of one table as `iptables -S` prints them: policies, chains, rules."""
    return process.run(name, ("iptables-legacy", "--wait", "10", "-t", table, "-S")).splitlines()


def all_rules(name: str) -> dict[str, list[str]]:
    """Every table's rules, in the order the document walks them."""
    return {table: rules(name, table) for table in _TABLES}
