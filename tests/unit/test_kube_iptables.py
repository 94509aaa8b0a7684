"""The layout of kube-proxy's iptables mode, rule by rule as the rulesets in its own tests tell.

The world is that of pkg/proxy/iptables, TestOverallIPTablesRules and TestCleanupLeftovers, with its cluster IPs only.
One thing differs: kube-proxy runs with --masquerade-all here, so a service's first rule names no source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dataplanes.chains import IptablesChains
from dataplanes.filters import Filter
from dataplanes.kernel import iptables
from dataplanes.kernel.undo import Undo
from dataplanes.kube import KubeIptables
from dataplanes.kube_knobs import KubeKnobs
from dataplanes.model import Service
from tests.unit.test_kube_golden import SITE, WORLD, service

GOLDEN = Path(__file__).parent / "golden" / "kube" / "iptables.txt"
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


class Tables:
    """The tables of a namespace, as iptables-restore would leave them."""

    def __init__(self) -> None:
        self.chains: dict[tuple[str, str], list[str]] = {}

    def program(self, name: str, table: str, lines: Sequence[str]) -> None:
        for line in lines:
            verb, chain, *rest = line.split(" ", 2)
            if verb.startswith(":"):
                self.chains[table, verb[1:]] = []
                continue
            rules = self.chains.setdefault((table, chain), []) if chain in _BUILT_IN else self.chains[table, chain]
            if verb == "-A":
                rules.append(rest[0])
            elif verb == "-I":
                rules.insert(0, rest[0])
            elif verb == "-D":
                rules.remove(rest[0])
            else:
                assert verb == "-X"
                assert not rules
                assert not [rule for rule in self.rules(name, table) if rule.endswith(f"-j {chain}")]
                del self.chains[table, chain]

    def rules(self, name: str, table: str) -> list[str]:
        found = [(chain, rules) for (of, chain), rules in self.chains.items() if of == table]
        return [f"-A {chain} {rule}" for chain, rules in found for rule in rules]

    def listed(self) -> list[str]:
        return sorted(f"{table} {rule}" for table in ("filter", "nat") for rule in self.rules("", table))


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    made = Tables()
    monkeypatch.setattr(iptables, "program", made.program)
    monkeypatch.setattr(iptables, "rules", made.rules)
    return made


class Node:
    """The tables of kube-proxy on one node."""

    def __init__(self, *, liberal: bool = False) -> None:
        self.filters, self.entries = KubeIptables(KubeKnobs(liberal))._filters(SITE)
        for each in self.filters:
            each.open()

    def change(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        with Undo() as undo:
            for each in self.filters:
                each.change(self.entries(old), self.entries(new), undo)


def test_the_rules_are_those_of_kube_proxy(tables: Tables) -> None:
    Node().change([], WORLD)
    assert tables.listed() == GOLDEN.read_text().splitlines()


def test_the_order_of_rules_is_that_of_kube_proxy(tables: Tables) -> None:
    """A packet is marked before its endpoint is picked, and the node's own ports come last."""
    Node().change([], WORLD)
    four = tables.chains["nat", "KUBE-SVC-4SW47YFZTEDKD3PK"]
    assert [rule.rpartition(" ")[2] for rule in four] == [
        "KUBE-MARK-MASQ",
        "KUBE-SEP-UKSFD7AGPMPPLUHC",
        "KUBE-SEP-C6EBXVWJJZMIWKLZ",
    ]
    assert tables.chains["nat", "KUBE-SERVICES"][-1].endswith("-j KUBE-NODEPORTS")
    assert tables.chains["filter", "KUBE-FORWARD"][0].endswith("INVALID -j DROP")
    assert [rule.rpartition(" ")[2] for rule in tables.chains["filter", "FORWARD"]] == [
        "KUBE-PROXY-FIREWALL",
        "KUBE-FORWARD",
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
    ]


def test_a_liberal_node_drops_no_invalid_segment(tables: Tables) -> None:
    Node(liberal=True)
    assert [rule for rule in tables.listed() if "INVALID" in rule] == []


def test_each_endpoint_is_as_likely_as_the_others(tables: Tables) -> None:
    Node().change([], [service("ns", "web", "172.30.0.9", *(f"10.180.0.{last}" for last in range(1, 8)))])
    (chain,) = (rules for (_, name), rules in tables.chains.items() if name.startswith("KUBE-SVC"))
    left, taken = 1.0, []
    for rule in chain[1:]:
        probability = float(rule.split("--probability ")[1].split()[0]) if "--probability" in rule else 1.0
        taken.append(left * probability)
        left -= taken[-1]
    assert taken == pytest.approx([1 / 7] * 7)


def test_what_comes_is_gone_again_and_is_restored_and_counted(tables: Tables) -> None:
    node = Node()
    empty = tables.listed()
    node.change([], WORLD)
    there = tables.listed()
    counted = {each.kind: each.objects for filter_ in node.filters for each in filter_.footprint()}
    for table in ("filter", "nat"):
        assert counted[f"{table} rules"] == sum(rule.startswith(table) for rule in there)
        assert counted[f"{table} chains"] == len([c for of, c in tables.chains if of == table and "KUBE" in c])
    for rules in tables.chains.values():
        rules.clear()
    _each(node.filters, "restore")
    assert tables.listed() == there
    _each(node.filters, "restore")
    assert tables.listed() == there
    node.change(WORLD[1:2], [service("ns4", "svc4", "172.30.0.44", "10.180.0.5")])
    assert not [rule for rule in tables.listed() if "KUBE-SEP-UKSFD7AGPMPPLUHC" in rule]
    node.change([service("ns4", "svc4", "172.30.0.44", "10.180.0.5")], WORLD[1:2])
    node.change(WORLD, [])
    assert tables.listed() == empty
    _each(node.filters, "clear")
    assert tables.listed() == []
    assert not [chain for _, chain in tables.chains if "KUBE" in chain]


def test_two_networks_of_a_node_share_the_chains(tables: Tables) -> None:
    mechanism = KubeIptables(KubeKnobs())
    first, second = (mechanism._filters(SITE)[0] for _ in range(2))
    assert first == second
    for _ in range(2):
        _each(first, "open")
    _each(first, "clear")
    assert tables.listed()
    _each(first, "clear")
    assert tables.listed() == []


def _each(filters: Sequence[Filter], act: str) -> None:
    for each in filters:
        assert isinstance(each, IptablesChains)
        getattr(each, act)()
