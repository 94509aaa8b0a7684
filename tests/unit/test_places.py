"""Places are compared like for like, against what Docker shipped, and by the best that each can do: from data alone.

`golden/places` has a result and a matrix that the program wrote on Debian 6.12, and the answer that follows from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.documents import Interval, Matrix, MatrixCell, Result, Summary
from bench.report import answer, model, sections
from bench.report.page import page
from bench.report.places import best, families, lacks, needs, standing
from bench.report.questions import REFERENCE
from bench.report.short import short
from bench.report.words import CHINESE, ENGLISH
from scenarios.axes import Axes
from scenarios.checks import CHECKS
from scenarios.clauses import LEVELS, level
from scenarios.outcomes import Outcome

GOLDEN = Path(__file__).parent / "golden" / "places"
DOCUMENTS = [str(GOLDEN / name) for name in ("connections.json", "matrix.json")]


@pytest.fixture(scope="module")
def report() -> model.Report:
    return model.load(DOCUMENTS)


def parts(report: model.Report) -> tuple[Result, Matrix]:
    ((_, result),), ((_, matrix),) = report.results, report.matrices
    return result, matrix


def test_the_answer_is_the_documents(report: model.Report) -> None:
    assert answer.answer(report) == (GOLDEN / "answer.md").read_text("utf-8"), "if it is better: write it again"


def test_the_chinese_answer_has_every_figure_of_the_english_one(report: model.Report) -> None:
    figures = [re.findall(r"\d+\.\d{2,3}\b", answer.answer(report, say)) for say in (ENGLISH, CHINESE)]
    assert sorted(figures[0]) == sorted(figures[1])


def test_the_chinese_answer_leaves_no_sentence_in_english(report: model.Report) -> None:
    english = set(answer.answer(report).splitlines())
    data = re.compile(r"\| *`?(direct|ipvs-|nft-|ebpf-)|### (ipvs|nft)|- \S+\.json: ")
    told = [line for line in answer.answer(report, CHINESE).splitlines() if re.search("[a-z]{3}", line)]
    assert [line for line in told if line in english and not data.match(line)] == []


# -- like for like -----------------------------------------------------------------------------------------------------


def test_planes_are_paired_by_mechanism_and_programming(report: model.Report) -> None:
    pairs = {
        each.mechanism: {(twin.plane, twin.base) for twin in each.twins.values() if twin.plane != twin.base}
        for each in families(report)
    }
    assert pairs == {
        "ipvs": {("ipvs-overlay@map", "ipvs-container@map"), ("ipvs-host@map", "ipvs-container@map")},
        "nft": {("nft-overlay", "nft-container")},
    }


def test_the_larger_size_is_one_that_every_family_has(report: model.Report) -> None:
    assert [at.services for at in sections.larger(report)] == [100]
    result, matrix = parts(report)
    further = [
        msgspec.structs.replace(each, axes=msgspec.structs.replace(each.axes, services=50_000))
        for each in result.summary
        if each.axes.services == 100 and not each.dataplane.startswith("ipvs")
    ]
    grown = msgspec.structs.replace(result, summary=[*result.summary, *further])
    found = model.Report([("r", grown)], [("m", matrix)])
    assert [each.mechanism for each in families(found, Axes(services=50_000))] == ["nft"]
    assert [at.services for at in sections.larger(found)] == [100]


def test_a_pair_tells_the_knobs_that_follow_the_place_and_no_other(report: model.Report) -> None:
    (twin,) = [twin for each in families(report) for twin in each.twins.values() if twin.plane == "ipvs-overlay@map"]
    assert twin.knobs == {"back": ("none", "stateless")}


def test_planes_with_other_programs_are_not_alike(report: model.Report) -> None:
    """A second eBPF plane at another place has another program, and so is no twin."""
    result, matrix = parts(report)
    plan = msgspec.json.decode(msgspec.json.encode(result.plan))
    (tc,) = [each for each in plan["dataplanes"] if each["name"] == "ebpf-tc"]
    other = {**tc, "name": "ebpf-there", "dataplane": "ebpf-there", "placement": "socket"}
    rows = [
        msgspec.structs.replace(row, dataplane="ebpf-there") for row in result.summary if row.dataplane == "ebpf-tc"
    ]
    for objects, found in (("tc", {"ebpf"}), ("socket", set())):
        needed = [need | {"name": objects} if need["kind"] == "compiled" else need for need in other["needs"]]
        told = {**plan, "dataplanes": [*plan["dataplanes"], {**other, "needs": needed}]}
        changed = msgspec.structs.replace(result, plan=told, summary=[*result.summary, *rows])
        seen = families(model.Report([("r", changed)], [("m", matrix)]))
        assert {each.mechanism for each in seen} - {"ipvs", "nft"} == found


def test_a_ratio_is_of_the_costs_in_one_run(report: model.Report) -> None:
    costs = {name: row.figures["instructions_per_connection"].value for name, (row, _) in report.rows("crr").items()}
    for family in families(report):
        for twin in family.twins.values():
            assert twin.ratio
            assert twin.ratio.value == pytest.approx(costs[twin.plane] / costs[twin.base], rel=0.005)
            if twin.plane != twin.base:
                assert twin.ratio.low is not None
                assert twin.ratio.low <= twin.ratio.value <= (twin.ratio.high or 0)


def test_a_default_that_changes_changes_nothing(report: model.Report) -> None:
    """A plane that the user named without its variant is the same plane."""
    result, matrix = parts(report)
    named, unnamed = b'"ipvs-overlay@map"', b'"ipvs-overlay"'
    measured = msgspec.json.decode(msgspec.json.encode(result).replace(named, unnamed), type=Result)
    seen = msgspec.json.decode(msgspec.json.encode(matrix).replace(named, unnamed), type=Matrix)
    assert "ipvs-overlay" in {row.dataplane for row in measured.summary}
    made = model.Report([("connections.json", measured)], [("matrix.json", seen)])
    assert sections.summary(made, ENGLISH) == sections.summary(report, ENGLISH)
    assert "ipvs-overlay@map" in made.planes()


_PLACED = st.fixed_dictionaries(
    {},
    optional={
        (plane, variant): st.sampled_from(["container", "lb", "overlay"])
        for plane in ("nft-container", "nft-lb", "nft-overlay", "nft-host")
        for variant in ("", "a", "b")
    },
)


@given(placed=_PLACED)
def test_twins_differ_by_their_place_alone_and_have_the_same_base(placed: Mapping[tuple[str, str], str]) -> None:
    first = {plane: place for (plane, _), place in reversed(list(placed.items()))}  # a plane has one place
    names = {(plane, variant): f"{plane}@{variant}" if variant else plane for plane, variant in placed}
    told = [
        {"name": name, "dataplane": plane, "variant": variant, "placement": first[plane], "mechanism": "nft"}
        for (plane, variant), name in names.items()
    ]
    rows = [
        Summary(name, "seed", "crr", 1, {"instructions_per_connection": Interval(1.0)}, None, {}, {})
        for name in names.values()
    ]
    result = Result({}, {"clock": "instructions", "kernel": "6.12"}, {"dataplanes": told}, [], rows)
    for family in families(model.Report([("r", result)], [])):
        assert len({first[plane] for plane in family.planes()}) > 1
        for (plane, programming), twin in family.twins.items():
            assert (twin.plane, twin.base) == (names[plane, programming], names[family.base, programming])
        assert set(family.programmings) == {programming for _, programming in family.twins}


# -- the best of each place --------------------------------------------------------------------------------------------


def test_the_best_of_a_place_is_its_cheapest_plane_with_every_core_semantic(report: model.Report) -> None:
    chosen = {each.placement: each.plane for each in best(report)}
    assert chosen == {
        "container": "nft-container",
        "lb": "ipvs-lb@iptables",
        "overlay": "nft-overlay",
        "host": "ipvs-host@map",
        "tc": "ebpf-tc",
    }


def test_a_cheaper_plane_that_lacks_a_core_semantic_is_told_and_not_chosen(report: model.Report) -> None:
    result, matrix = parts(report)
    check = "identity.hairpin"
    cells = [
        msgspec.structs.replace(cell, outcome="fail")
        if (cell.dataplane, cell.check) == ("nft-overlay", check)
        else cell
        for cell in matrix.cells
    ]
    changed = model.Report([("r", result)], [("m", msgspec.structs.replace(matrix, cells=cells))])
    (overlay,) = [each for each in best(changed) if each.placement == "overlay"]
    assert (overlay.plane, overlay.cheaper) == ("ipvs-overlay@map", {"nft-overlay": [check]})
    assert f"- `nft-overlay` is cheaper, and lacks core semantics: `{check}`." in answer.answer(changed)


def test_the_short_answer_has_the_shipped_planes_the_best_ones_and_the_limit(report: model.Report) -> None:
    found = short(report)
    assert found
    assert [row[1] for row in found.rows] == [
        *("ipvs-container@1.12.6-tweaked", "ipvs-lb@iptables"),
        *("nft-container", "nft-overlay", "ipvs-host@map", "ebpf-tc"),
        "direct-short",
    ]
    assert len(found.headings) == 6
    assert "with 100 services" in found.headings
    assert len(found.sentences) == 2


def test_a_report_of_a_run_alone_has_no_short_answer(report: model.Report) -> None:
    alone = model.Report([("r", parts(report)[0])], [])
    assert short(alone) is None
    assert best(alone) == []
    assert 'id="answer"' not in page(alone)
    assert 'id="answer"' in page(report)


# -- needs -------------------------------------------------------------------------------------------------------------


def test_what_a_plane_needs_is_read_from_the_documents(report: model.Report) -> None:
    found = {name: each for each in needs(report) for name in each.planes}
    assert "br_netfilter" in found["ipvs-overlay@map"].kernel
    assert "br_netfilter" not in found["ipvs-container@map"].kernel
    assert found["ebpf-tc"].objects == ["tc"]
    assert found["ipvs-lb@iptables"].programs == ["iptables-legacy-restore"]
    (overlay,) = found["nft-overlay"].settings
    assert overlay.startswith("overlay: net.netfilter.nf_conntrack_tcp_be_liberal=1, net.ipv4.conf.br0.accept_local=1")
    assert "nf_conntrack_count" not in overlay


# -- levels ------------------------------------------------------------------------------------------------------------

_CHECKS = [check for each in LEVELS for check in [check for check in CHECKS if level(check) == each][:3]]
_HERE = "nft-lb"
_OUTCOMES = st.fixed_dictionaries({check: st.sampled_from(["pass", "fail", "skip"]) for check in _CHECKS})


def observed(planes: Mapping[str, Mapping[str, Outcome]]) -> model.Report:
    cells = [
        MatrixCell("k", plane, check, outcome, "pass", "", 0.1)
        for plane, outcomes in planes.items()
        for check, outcome in outcomes.items()
    ]
    plan = {
        "dataplanes": [{"name": plane} for plane in planes],
        "checks": [{"name": check, "statement": f"{check} holds."} for check in _CHECKS],
    }
    return model.Report([], [("m.json", Matrix({}, {"k": {"kernel": "6.12", "clock": "instructions"}}, plan, cells))])


@given(there=_OUTCOMES, here=_OUTCOMES)
def test_what_is_lost_and_gained_decides_the_effect(there: Mapping[str, Outcome], here: Mapping[str, Outcome]) -> None:
    found = standing(observed({REFERENCE: there, _HERE: here}), _HERE)
    lost = {check for check in _CHECKS if there[check] == "pass" and here[check] != "pass"}
    gained = {check for check in _CHECKS if here[check] == "pass" and there[check] != "pass"}
    comparable = [check for check in _CHECKS if {there[check], here[check]} not in ({"skip"}, {"skip", "fail"})]
    if not comparable:
        assert found is None
        return
    assert found
    assert {check for each in found.lost.values() for check in each} == lost
    assert {check for each in found.gained.values() for check in each} == gained
    assert all(level(check) == each for each, checks in found.lost.items() for check in checks)
    levels = {level(check) for check in lost}
    expected = "not the same effect" if "core" in levels else "nearly the same effect" if "extended" in levels else ""
    assert found.effect == (expected or "the same effect")


@given(outcomes=_OUTCOMES)
def test_a_plane_lacks_what_fails_and_nothing_that_does_not_apply(outcomes: Mapping[str, Outcome]) -> None:
    report = observed({_HERE: outcomes})
    for each in LEVELS:
        assert set(lacks(report, _HERE, each)) == {c for c in _CHECKS if level(c) == each and outcomes[c] == "fail"}
