"""Any sequence of changes leaves the ruleset that the wanted services have; the transactions are carried out here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from dataplanes.base import Hook, Reply, Site
from dataplanes.bridge_ruleset import BridgeRuleset
from dataplanes.nft_rules import Ruleset, Scheduler, Slots

SITES: dict[Hook, tuple[Reply, str, str]] = {
    "output": ("own-source", "eth0", "10.0.0.7"),
    "input": ("snat", "eth0", "10.0.0.9"),
    "bridge": ("hairpin-snat", "br0", "10.0.0.1"),
    "frame": ("hairpin-snat", "br0", "10.0.0.1"),
}
FAMILIES = ("ip", "bridge")
VIPS = [f"10.0.{net}.{last}" for net in (0, 1) for last in (2, 6)]  # two of them share a chain
BACKENDS = [f"10.0.0.{last}" for last in range(10, 14)]

slots = st.one_of(st.none(), st.lists(st.sampled_from(BACKENDS), max_size=4).map(tuple))
changes = st.lists(st.dictionaries(st.sampled_from(VIPS), slots, max_size=4), max_size=8)


class Tables:
    """A site's tables, one of each family that it uses."""

    def __init__(self) -> None:
        self._each = {family: Table() for family in FAMILIES}

    def carry_out(self, text: str) -> None:
        for line in filter(None, text.splitlines()):
            found = re.fullmatch(r"(\w+) (\w+) (\w+) vip-overlay1 ?(.*)", line)
            assert found, line
            verb, kind, family, rest = found.groups()
            name, _, what = rest.partition(" ")
            getattr(self._each[family], f"{verb}_{kind}")(name, what)
        for table in self._each.values():
            targets = {value.removeprefix("goto ") for each in table.elements.values() for value in each.values()}
            assert {name for name in targets if name and not name[0].isdigit()} <= set(table.chains)

    def program(self, rules: Ruleset, text: str) -> None:
        """Program everything, as NftDirector does."""
        self.carry_out(text)
        for chain, _ in rules.rules():
            self._each[rules.family].add_rule(chain, "")
        self.carry_out(rules.ready())

    @property
    def chains(self) -> dict[str, list[str]]:
        return {name: rules for table in self._each.values() for name, rules in table.chains.items()}

    @property
    def elements(self) -> dict[str, dict[str, str]]:
        return {name: each for table in self._each.values() for name, each in table.elements.items()}

    def state(self) -> list[tuple[object, ...]]:
        return [table.state() for table in self._each.values()]

    def size(self) -> dict[str, int]:
        sizes = [table.size() for table in self._each.values()]
        return {kind: sum(each[kind] for each in sizes) for kind in sizes[0]}


class Table:
    """One table, as a kernel has it that refuses what is there already, is not there, or is in use."""

    def __init__(self) -> None:
        self.there = False
        self.chains: dict[str, list[str]] = {}
        self.elements: dict[str, dict[str, str]] = {}

    def create_table(self, name: str, what: str) -> None:
        assert not self.there
        self.there = True

    def add_table(self, name: str, what: str) -> None:
        self.there = True

    def delete_table(self, name: str, what: str) -> None:
        assert self.there
        self.there, self.chains, self.elements = False, {}, {}

    def add_set(self, name: str, what: str) -> None:
        assert name not in self.elements
        self.elements[name] = {}

    add_map = add_set

    def add_chain(self, name: str, what: str) -> None:
        if what and name in self.chains:
            self.chains[name][0] = what  # a chain at a hook gets another policy
            return
        assert name not in self.chains
        self.chains[name] = [what]

    def flush_chain(self, name: str, what: str) -> None:
        self.chains[name].clear()

    def delete_chain(self, name: str, what: str) -> None:
        assert not any(f"goto {name}" in each.values() for each in self.elements.values())
        assert self.chains.pop(name) == []

    def add_rule(self, name: str, what: str) -> None:
        self.chains[name].append(what)

    def add_element(self, name: str, what: str) -> None:
        for each in self.listed(what):
            key, _, value = each.partition(" : ")
            key = key.partition(" timeout ")[0]
            assert key not in self.elements[name]
            self.elements[name][key] = value

    def delete_element(self, name: str, what: str) -> None:
        for key in self.listed(what):
            del self.elements[name][key]

    @staticmethod
    def listed(what: str) -> list[str]:
        return what.removeprefix("{ ").removesuffix(" }").split(", ")

    def state(self) -> tuple[object, ...]:
        return self.there, self.chains, self.elements

    def size(self) -> dict[str, int]:
        """Count what there is. The first entry of a chain is its kind."""
        return {
            "chains": len(self.chains),
            "rules": sum(len(rules) - 1 for rules in self.chains.values()),
            "sets": len(self.elements),
            "elements": sum(map(len, self.elements.values())),
        }


def ruleset(hook: Hook, scheduler: Scheduler) -> Ruleset:
    site = Site("ns", "overlay1", "n1", "10.0.0.0/24", hook, *SITES[hook])
    return BridgeRuleset(site, scheduler, 65_536) if hook == "frame" else Ruleset(site, scheduler)


def decided(table: Tables, vip: str) -> list[str]:
    """The backends that a service's chain picks from, in the order of their turns."""
    goto = table.elements["services"].get(vip)
    if goto is None:
        return []
    modulus = int(re.search(r"mod (\d+)", table.chains[goto.removeprefix("goto ")][1])[1])  # type: ignore[index]
    return [table.elements["backends"][f"{vip} . {turn}"] for turn in range(modulus)]


@given(st.sampled_from([*SITES]), st.sampled_from(["rr", "random"]), changes)
def test_any_life_of_a_site(hook: Hook, scheduler: Scheduler, life: list[Mapping[str, Slots | None]]) -> None:
    rules, table = ruleset(hook, scheduler), Tables()
    table.program(rules, rules.base())
    wanted: dict[str, Slots] = {}
    for each in life:
        before = rules.size()
        change = rules.change(each)
        assert rules.size() == before
        turns = {(vip, slot) for vip, kept in rules.slots.items() for slot in range(len(kept))}
        assert set(change.vacated) <= turns
        table.carry_out(change.text)
        rules.commit(change)
        wanted.update({vip: kept for vip, kept in each.items() if kept is not None})
        for vip in [vip for vip, kept in each.items() if kept is None]:
            wanted.pop(vip, None)
        assert rules.slots == wanted
        assert set(table.elements["vips"]) == set(wanted)
        assert {vip: tuple(decided(table, vip)) for vip in wanted} == wanted
        assert sum(map(len, wanted.values())) == len(table.elements["backends"])
        pairs = {f"{address} . {address}" for kept in wanted.values() for address in kept}
        assert set(table.elements.get("hairpins", pairs)) == pairs
        assert rules.size() == table.size()
    again = Tables()
    again.program(rules, rules.base())
    again.program(rules, rules.anew(rules.slots))
    assert again.state() == table.state()
    table.carry_out(rules.delete())
    assert table.state() == Tables().state()


@given(st.sampled_from(["bridge", "frame"]), st.sampled_from(["rr", "random"]), changes)
def test_the_last_service_leaves_what_was_there_before_the_first(
    hook: Hook, scheduler: Scheduler, life: list[Mapping[str, Slots | None]]
) -> None:
    rules, table = ruleset(hook, scheduler), Tables()
    table.program(rules, rules.base())
    empty = rules.size(), str(table.state())
    for each in [*life, dict.fromkeys(VIPS)]:
        change = rules.change(each)
        table.carry_out(change.text)
        rules.commit(change)
    assert (rules.size(), str(table.state())) == empty
