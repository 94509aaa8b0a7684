"""The table of mutants holds together: no row rots when a plane's source changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.report import mutants as report
from bench.report import semantics
from dataplanes import catalog
from scenarios import checks, expectations
from tests.conftest import ROOT
from tests.lab.mutants import score, table
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


def test_what_was_seen_of_a_mutant_is_what_its_row_says() -> None:
    rows = {(mechanism, each.name): each for mechanism, mutants in table.load().items() for each in mutants}
    for each in report.tried_in(ROOT):
        row = rows[each.mechanism, each.name]
        assert (each.plane, each.fault, each.survives) == (row.plane, row.fault, row.survives), each.name
        assert each.by == (row.check or row.sequence), each.name
        assert not each.kernel or bool(each.seen) != bool(each.survives), each.name


def _tried(name: str, seen: str = "", survives: str = "") -> report.Tried:
    return report.Tried("nft", name, "nft-lb", f"{name} is lost.", "reach.same-node", False, "6.12", seen, survives)


def test_the_page_tells_how_many_faults_were_found_and_which_were_not() -> None:
    tried = [
        _tried("one", seen="silence"),
        _tried("two", seen="silence"),
        _tried("three", survives="It is equivalent."),
    ]
    lines = report.section(tried)
    assert "| nft       | nft-lb |      3 |     2 |   67% |" in lines
    assert "- `nft-lb`: three is lost. *Why*: It is equivalent." in lines
    assert f"[{report.TITLE}](#whether-the-checks-can-fail)" in semantics.page(tried)
    assert report.section([]) == []
    lines = report.section([*tried, replace(tried[0], name="four", kernel="", seen="")])
    assert lines[5].endswith(" 1 more are in the table and were not tried yet.")
    assert "| nft       | nft-lb |      3 |     2 |   67% |" in lines
    assert report.TITLE not in semantics.page()


def test_what_was_tried_is_written_in_one_order(tmp_path: Path) -> None:
    tried = [_tried("one", seen="silence"), _tried("another", survives="It is equivalent.")]
    report.write(tmp_path, tried)
    assert report.tried_in(tmp_path) == [tried[1], tried[0]]
    assert report.tried_in(tmp_path / "elsewhere") == []


def test_what_tests_told_is_read_but_not_of_those_that_failed(tmp_path: Path) -> None:
    told = """<testsuites><testsuite><testcase name="a"><properties><property name="mutant" value="one"/></properties>
        </testcase><testcase name="b"><properties><property name="mutant" value="two"/></properties><failure/>
        </testcase>
        <testcase name="c"/></testsuite></testsuites>"""
    (tmp_path / "junit.xml").write_text(told)
    assert [each["mutant"] for each in score.told(tmp_path / "junit.xml")] == ["one"]
