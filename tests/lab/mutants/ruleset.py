"""Mutants of nftables: a rule is gone, a set stays empty, or an element has the value of another one or leads astray.

The ruleset is read where the plane is. What stands at several places is damaged at all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest
from msgspec import Struct

from dataplanes.kernel import nft
from tests.lab.mutants import Damage
from tests.lab.mutants.bed import Bed

STRANGER = "10.0.0.99"
"""An address that nobody has."""


class Rule(Struct, frozen=True):
    """A rule as nft lists it."""

    family: str
    table: str
    chain: str
    number: int  # in its chain, from 1
    handle: int
    text: str


class Elements(Struct, frozen=True):
    """The elements of a set or map that do not end by themselves: key -> value, which is "" in a set."""

    kind: str  # set or map
    family: str
    table: str
    name: str
    elements: dict[str, str]


class Place:
    """The planes' tables in one namespace."""

    def __init__(self, name: str) -> None:
        self.nft = nft.Nftables(name)
        self.close = self.nft.close
        self.nft._handle.set_stateless_output(True)
        self.nft._handle.set_handle_output(True)
        listed = self.nft._handle.cmd("list tables")[1]
        found = re.findall(rf"table (\w+) ({nft.OURS}\S*)", listed)
        self.tables: list[tuple[str, str]] = found  # family and name

    def run_in_each(self, family: str, command: str) -> int:
        """Run a command in each table of a family, whose name takes the place of {}. Return how many there are."""
        tables = [f"{each} {table}" for each, table in self.tables if each == family]
        for table in tables:
            self.nft.run(command.format(table))
        return len(tables)

    def listed(self) -> Iterator[Rule | Elements]:
        """Yield the rules and the elements of the tables."""
        for family, table in self.tables:
            text = self.nft._handle.cmd(f"list table {family} {table}")[1]
            for kind, name, body in re.findall(r"^\t(chain|set|map) (\S+) \{[^\n]*\n(.*?)^\t\}", text, re.M | re.S):
                if kind == "chain":
                    rules = re.findall(r"^\t\t(.*?) # handle (\d+)$", body, re.M)
                    for number, (rule, handle) in enumerate(rules, 1):
                        yield Rule(family, table, name, number, int(handle), rule)
                elif found := re.search(r"elements = \{(.*?)\}", body, re.S):
                    pairs = (
                        each.split(" : ") for each in re.split(r",\s+", found[1].strip()) if " timeout " not in each
                    )
                    elements = {key.strip(): value.strip() for key, value in ((*pair, "")[:2] for pair in pairs)}
                    yield Elements(kind, family, table, name, elements)


def places(bed: Bed, undo: ExitStack) -> list[Place]:
    """Return the places of a lab where planes have tables."""
    names = [name for _, _, name in bed.lab.namespaces() if any(map(_ours, nft.tables(name)))]
    return [undo.enter_context(closing(Place(name))) for name in names]


def _ours(table: str) -> bool:
    return table.startswith(nft.OURS)


def mutants(bed: Bed) -> Iterator[tuple[str, Damage]]:
    """Yield the mutants of a plane's rulesets, each with its name."""
    with ExitStack() as stack:
        listed = [each for place in places(bed, stack) for each in place.listed()]
    made: dict[str, Damage] = {}
    for each in listed:
        if isinstance(each, Elements):
            for name, damage in _of_elements(each):
                made.setdefault(f"{each.name} {name}", damage)
        elif _is_of_my_web(each.chain):
            made.setdefault(f"rule {each.chain} {each.number}", partial(_rule_gone, each))
    yield from made.items()


def _is_of_my_web(chain: str) -> bool:
    """Return False for the chain of a service other than my-web, or for a further one of its backends."""
    if "/" in chain:
        return "my-network/my-web/tcp" in chain and ("__" not in chain or "__10.0.0.3" in chain)
    return not re.match(r"(rr|random|dispatch)-", chain) or chain.split("-")[1] == "3"


def _rule_gone(rule: Rule, bed: Bed, undo: ExitStack) -> None:
    """Delete a rule wherever its chain has it."""
    for place in places(bed, undo):
        for each in list(place.listed()):
            if isinstance(each, Rule) and (each.chain, each.number) == (rule.chain, rule.number):
                place.nft.run(f"delete rule {each.family} {each.table} {each.chain} handle {each.handle}")


def _of_elements(found: Elements) -> Iterator[tuple[str, Damage]]:
    """Yield what can be done to a set, and to an element that concerns my-web, or else to the first one."""
    keys = sorted(found.elements, key=lambda key: (not _concerns_my_web(key, found.elements[key]), key))
    if not keys:
        return
    key, value = keys[0], found.elements[keys[0]]
    yield "empty", partial(_empty, found.name)
    others = [each for each in keys if found.elements[each] != value and _vip(each) != _vip(key)]
    if value and others:
        last = others[-1]
        yield "swapped", partial(_exchange, found, {key: "", last: ""}, {key: found.elements[last], last: value})
    if re.match(r"10\.\d", value):
        astray = re.sub(r"^[\d.]+", STRANGER, value)
        yield "astray", partial(_exchange, found, {key: ""}, {key: astray})


def _vip(key: str) -> str:
    return key.partition(" ")[0]


def _concerns_my_web(key: str, value: str) -> bool:
    return re.search(r"\b10\.0\.0\.[23]\b", f"{key} {value}") is not None


def _empty(name: str, bed: Bed, undo: ExitStack) -> None:
    """Remove every element of a set, and let the plane add no other one."""
    for place in places(bed, undo):
        for each in list(place.listed()):
            if isinstance(each, Elements) and each.name == name:
                place.nft.run(f"flush {each.kind} {each.family} {each.table} {name}")
    told = re.compile(rf"^(add|delete) element \S+ \S+ {re.escape(name)} .*$", re.MULTILINE)
    run = nft.Nftables.run
    patch = undo.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(nft.Nftables, "run", lambda self, text: run(self, told.sub("", text)))


def _exchange(found: Elements, gone: dict[str, str], come: dict[str, str], bed: Bed, undo: ExitStack) -> None:
    """Delete elements and add others, wherever a set has what is deleted."""
    for place in places(bed, undo):
        for each in list(place.listed()):
            if isinstance(each, Elements) and each.name == found.name and gone.keys() <= each.elements.keys():
                where = f"element {each.family} {each.table} {each.name}"
                lines = [f"delete {where} {{ {key} }}" for key in gone]
                lines += [f"add {where} {{ {key} : {value} }}" for key, value in come.items()]
                place.nft.run("\n".join(lines))
