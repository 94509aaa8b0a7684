"""Mutants of iptables: a rule is gone. What stands at several places is deleted at all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial

from dataplanes.kernel import iptables
from scenarios.dns import ADDRESS
from scenarios.lab import Lab
from tests.lab.mutants import Damage
from tests.lab.mutants.bed import Bed


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


def mutants(bed: Bed) -> Iterator[tuple[str, Damage]]:
    """Yield the mutants of a plane's rules, each with its name. Of those of services, my-web's are taken."""
    for table in ("nat", "mangle", "filter"):
        rules = [rule for name in places(bed.lab, table) for rule in iptables.rules(name, table)]
        ours = [rule for rule in dict.fromkeys(rules) if rule.startswith("-A ") and ADDRESS not in rule]
        mine = _chains_of_my_web(ours)
        for rule in ours:
            if _concerns_my_web(rule, mine):
                yield f"rule {table} {rule[3:]}", partial(_gone, table, rule)


def _chains_of_my_web(rules: Sequence[str]) -> set[str]:
    """Return the chain of my-web's TCP port, and that of its first backend."""
    service = {re.sub(r".* -j ", "", rule) for rule in rules if "-d 10.0.0.2/32 -p tcp" in rule and "KUBE-SVC" in rule}
    backends = [rule.split()[1] for rule in rules if "KUBE-SEP" in rule and "10.0.0.3:80" in rule and "-p tcp" in rule]
    return {each for each in service if each.startswith("KUBE-SVC")} | {*backends}


def _concerns_my_web(rule: str, chains: set[str]) -> bool:
    named = set(re.findall(r"KUBE-(?:SVC|SEP)-\w+", rule))
    if named:
        return rule.split()[1] in chains or named <= chains
    address = re.search(r"-[sd] (10\.[\d.]+)/32", rule)
    return address is None or address[1] in ("10.0.0.2", "10.0.0.3")


def _gone(table: str, rule: str, bed: Bed, undo: ExitStack) -> None:
    for name in places(bed.lab, table):
        delete(name, table, [each for each in iptables.rules(name, table) if each == rule])
