"""Rules of iptables that damage concerns, in every namespace where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from dataplanes.kernel import iptables
from scenarios.lab import Lab


def places(lab: Lab, table: str) -> list[str]:
    """Return the namespaces where a table has rules. Listing a table costs a program, so others are not listed."""
    found = []
    for _, _, name in lab.namespaces():
        with closing(iptables.Tables(name)) as tables:
            if table in tables.names() and iptables.entries(tables.info(table)) > iptables.EMPTY[table]:
                found.append(name)
    return found


def delete(name: str, table: str, rules: Sequence[str]) -> None:
    """Delete rules, which are as `iptables -S` prints them, in one transaction."""
    if rules:
        iptables.program(name, table, [rule.replace("-A ", "-D ", 1) for rule in rules])
