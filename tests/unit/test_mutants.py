"""The table of mutants holds together: no row rots when a plane's source changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from dataplanes import catalog
from scenarios import checks, expectations
from tests.lab.mutants import table
from tests.lab.mutants.table import EXPLORED, Mutant

LEAST = 20
"""The fewest mutants of a mechanism that must be killed."""
_KERNELS = "6.1", "6.12", "6.18"


def _all() -> Iterator[object]:
    for mechanism, mutants in table.load().items():
        for each in mutants:
            yield pytest.param(each, id=f"{mechanism}-{each.plane}-{each.name}")


@pytest.mark.parametrize("mutant", list(_all()))
def test_a_row_changes_the_source_and_names_what_kills_it(mutant: Mutant) -> None:
    text = mutant.changed()  # raises if the text to be replaced is not there, or is there twice
    if mutant.file.endswith(".py"):
        ast.parse(text)
    assert mutant.fault.endswith("."), "a fault is told in a sentence"
    assert bool(mutant.check) != bool(mutant.sequence), "either a check or a sequence"
    if mutant.sequence:
        assert (EXPLORED / f"{mutant.sequence}.json").exists()
        return
    (selection,) = catalog.select(mutant.plane)
    for release in _KERNELS:
        assert expectations.expected(selection, mutant.check, release).expected == "pass", release
    each = checks.CHECKS[mutant.check]
    assert not each.skip
    assert catalog.any_port(selection) or not each.any_port
    assert catalog.in_turn(selection) or not each.in_turn


def test_each_mechanism_has_twenty_mutants_that_are_killed() -> None:
    killed = {name: sum(not each.survives for each in mutants) for name, mutants in table.load().items()}
    assert set(killed) == {"ebpf-redirect", "ebpf-socket", "ebpf-tc", "iptables", "ipvs", "nft", "nft-bridge"}
    assert {name: count for name, count in killed.items() if count < LEAST} == {}


def test_a_mutant_is_found_by_its_mechanism_and_name() -> None:
    for mechanism, mutants in table.load().items():
        names = [each.name for each in mutants]
        assert sorted(set(names)) == sorted(names), mechanism


def test_a_row_that_changes_nothing_is_an_error() -> None:
    (one, *_) = table.load()["nft"]
    for other in ({"old": "no such text"}, {"old": "\n"}, {"new": one.old}):
        with pytest.raises(ValueError, match=r"has \d+ times|changes nothing"):
            type(one)(**{**{f: getattr(one, f) for f in one.__struct_fields__}, **other}).changed()
