"""The rules that the kernel is sent. `BENCH_REGOLD=1 pytest ...` writes the golden files again; read the diff then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplanes.base import Hook, Reply, Site
from dataplanes.model import Backend, Service, succeed, turns
from dataplanes.nft_rules import Ruleset, Scheduler, Slots, table_name

GOLDEN = Path(__file__).parent / "golden" / "nft"
HOOKS: dict[Hook, tuple[Reply, str, str]] = {
    "output": ("own-source", "eth0", "10.0.0.7"),
    "input": ("snat", "eth0", "10.0.0.9"),
    "bridge": ("hairpin-snat", "br0", "10.0.0.1"),
}
A, B, C, D = (f"10.0.0.{number}" for number in (3, 4, 5, 8))


def ruleset(hook: Hook = "output", scheduler: Scheduler = "rr") -> Ruleset:
    reply, interface, address = HOOKS[hook]
    return Ruleset(Site("ns", "overlay1", "worker1", "10.0.0.0/24", hook, reply, interface, address), scheduler)


def steps(rules: Ruleset, *wanted: dict[str, Slots | None]) -> str:
    """Return the site's life as one text: the fixed part, and each transaction."""
    texts = [rules.base()]
    for each in wanted:
        change = rules.change(each)
        rules.commit(change)
        texts.append(change.text)
    return "\n\n".join((*texts, rules.delete())) + "\n"


def golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.nft"
    if os.environ.get("BENCH_REGOLD"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("hook", HOOKS)
def test_the_life_of_a_site(hook: Hook) -> None:
    text = steps(
        ruleset(hook),
        {"10.0.0.2": (C, A, B), "10.0.0.6": (D,)},
        {"10.0.0.2": (C, B)},
        {"10.0.0.6": ()},
        {"10.0.0.6": (D,)},
        {"10.0.0.2": None, "10.0.0.6": None},
    )
    golden(hook, text)


def test_random() -> None:
    golden("random", steps(ruleset(scheduler="random"), {"10.0.0.2": (A, B), "10.0.1.2": (C, D)}, {"10.0.0.2": None}))


def test_what_is_there_is_not_told_again() -> None:
    rules = ruleset("bridge")
    rules.commit(rules.change({"10.0.0.2": (A, B)}))
    assert rules.change({"10.0.0.2": (A, B)}).text == ""
    assert rules.change({"10.0.0.99": None}).text == ""
    assert rules.change({}).text == ""


def test_a_replaced_backend_costs_its_own_element_only() -> None:
    rules = ruleset()
    rules.commit(rules.change({"10.0.0.2": (A, B, C)}))
    change = rules.change({"10.0.0.2": (A, D, C)})
    assert change.text.splitlines() == [
        "delete element ip vip-overlay1 backends { 10.0.0.2 . 1 }",
        f"add element ip vip-overlay1 backends {{ 10.0.0.2 . 1 : {D} }}",
    ]
    assert change.vacated == [("10.0.0.2", 1)]


def test_nothing_changes_before_the_kernel_has_agreed() -> None:
    rules = ruleset("bridge")
    rules.commit(rules.change({"10.0.0.2": (A, B)}))
    before = rules.slots.copy(), rules.size()
    first = rules.change({"10.0.0.2": None, "10.0.0.6": (C,)})
    assert (rules.slots, rules.size()) == before
    assert rules.change({"10.0.0.2": None, "10.0.0.6": (C,)}) == first


def test_the_number_of_rules_does_not_follow_the_number_of_services() -> None:
    few, many = ruleset(), ruleset()
    vips = [f"10.{number >> 8}.7.{number & 255}" for number in range(5000)]
    few.commit(few.change(dict.fromkeys(vips[:256], (A, B, C))))
    many.commit(many.change(dict.fromkeys(vips, (A, B, C))))
    assert few.size()["rules"] == many.size()["rules"]
    assert few.size()["sets"] == many.size()["sets"]
    assert many.size()["elements"] == 5 * len(vips)
    many.commit(many.change(dict.fromkeys(vips)))
    assert many.size() == ruleset().size()


def test_services_of_a_slash_24_share_no_counter() -> None:
    rules = ruleset()
    change = rules.change({f"10.0.0.{last}": (A, B) for last in range(2, 255)})
    assert len(change.chains) == 253
    assert set(change.chains.values()) == {1}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1, 1, 1), (A, B, C)),
        ((1, 0, 1), (A, C)),
        ((0, 0, 0), ()),
        ((), ()),
        ((7, 7, 7), (A, B, C)),
        ((2, 1, 1), (A, B, C, A)),
        ((10, 30, 0), (A, B, B, B)),
    ],
)
def test_a_weight_is_a_number_of_turns(weights: tuple[int, ...], expected: Slots) -> None:
    backends = tuple(map(Backend, (A, B, C), weights))
    assert turns(Service("web", "n", "10.0.0.2", backends)) == expected


@pytest.mark.parametrize(
    ("old", "new", "taken", "expected"),
    [
        ((A, B), (A, B, C), 0, (A, B, C)),
        ((A, B), (A, B, C), 1, (B, A, C)),
        ((A, B), (C, A, B), 3, (B, A, C)),
        ((A, B, C), (A, C), 1, (C, A)),
        ((A, B, C), (A, B), 2, (A, B)),
        ((A, B, C), (A, D, C), 1, (A, D, C)),
        ((B, A, C), (A, B, D), 2, (B, A, D)),
        ((A, B, A), (A, B), 2, (A, B)),
        ((A, B, A, A), (A, D, D, A), 3, (A, D, A, D)),
        ((), (A, B), 0, (A, B)),
        ((A, B), (C, D, A), 1, (A, C, D)),
    ],
)
def test_slots_go_on_with_whose_turn_it_is(old: Slots, new: Slots, taken: int, expected: Slots) -> None:
    assert succeed(old, new, taken) == expected


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("overlay1", "vip-overlay1"),
        ("my net", "vip-my_20_net"),
        ("my_20_net", "vip-my_5f_20_5f_net"),  # another backend than before
        ("a.b-c", "vip-a.b-c"),
        ("My-Net", "vip-My-Net"),
        ("网", "vip-_7f51_"),
    ],
)
def test_table_names_are_what_nft_can_read(network: str, name: str) -> None:
    assert table_name(network) == name
