"""The instruction clock is held against time: from two runs alone, and with a cause only where the data bear it out.

`golden/clocks` has what the program measured on Debian 6.12 by instructions, on a 6.18 host by time, and the section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.ranks import correlation
from bench.documents import Interval, Profile, Result, Summary, Trial
from bench.report import answer, clocks, model, text
from bench.report.clocks import Timed
from bench.report.page import page
from bench.report.questions import CAUSES, Cause
from bench.report.words import CHINESE, ENGLISH
from dataplanes import catalog
from dataplanes.selection import DIRECT, title
from scenarios.axes import Axes

GOLDEN = Path(__file__).parent / "golden" / "clocks"
COUNTED: dict[str, Any] = {"clock": "instructions", "kernel": "6.12", "kernel_name": "debian-6.12", "cpus": 1}
TIMED: dict[str, Any] = {"clock": "wall", "kernel": "6.18", "kernel_name": "host", "cpus": 2, "accelerated": True}


def run(environment: Mapping[str, Any], ratios: Mapping[str, float], *, width: float = 0.01) -> tuple[str, Result]:
    rows = [
        Summary(name, "seed", "crr", 5, {}, Interval(value, value - width / 2, value + width / 2), {}, {})
        for name, value in {DIRECT: 1.0, **ratios}.items()
    ]
    plan = {"dataplanes": [{"name": name, "dataplane": name} for name in ratios]}
    return f"{environment['clock']}.json", Result({}, dict(environment), plan, [], rows)


def held(counted: Mapping[str, float], timed: Mapping[str, float], *, width: float = 0.01) -> list[str]:
    report = model.Report([run(COUNTED, counted, width=width), run(TIMED, timed, width=width)], [])
    return clocks.section(report, ENGLISH)


def test_the_section_is_the_documents() -> None:
    report = model.load([str(GOLDEN / name) for name in ("connections.json", "wall.json")])
    made = "\n".join(clocks.section(report, ENGLISH))
    assert made == (GOLDEN / "section.md").read_text("utf-8"), "if it is better: write it again"
    assert made in answer.answer(report)
    assert made in text.markdown(report)
    shown = re.sub("&#39;", "'", page(report))
    found = _of(report)
    for row in (*clocks.compared(found, ENGLISH)[1], *clocks.parts(found, ENGLISH)[1]):
        assert all(f"<td>{cell.replace('`', '')}<" in shown for cell in row)
    for each in (*clocks.sentences(found, ENGLISH), clocks.parts_of(found, ENGLISH)):
        assert each.replace("`", "") in shown


def test_the_chinese_section_has_every_figure_and_no_english_sentence() -> None:
    report = model.load([str(GOLDEN / name) for name in ("connections.json", "wall.json")])
    english, chinese = (clocks.section(report, say) for say in (ENGLISH, CHINESE))
    figures = [re.findall(r"[+-]?\d+\.\d+%?", "\n".join(lines)) for lines in (english, chinese)]
    assert sorted(figures[0]) == sorted(figures[1])
    told = [line for line in chinese if line in english and re.search("[a-z]{3}", line)]
    assert all(line.startswith("| `") for line in told)


def test_causes_are_told_in_chinese_too() -> None:
    assert [each.why for each in CAUSES if each.why not in CHINESE.phrases] == []


def _of(report: model.Report) -> clocks.Clocks:
    found = clocks.clocks(report)
    assert found
    return found


# -- which runs --------------------------------------------------------------------------------------------------------


def test_there_is_no_section_without_both_clocks() -> None:
    counted, timed = run(COUNTED, {"nft-lb": 0.7}), run(TIMED, {"nft-lb": 0.7})
    for results in ([], [counted], [timed]):
        assert clocks.section(model.Report(results, []), ENGLISH) == []
    assert clocks.section(model.Report([timed, counted], []), ENGLISH)
    assert clocks.section(model.Report([counted, run(TIMED, {"nft-host": 0.7})], []), ENGLISH) == []
    assert 'id="clocks"' not in page(model.Report([counted], []))


def test_a_wall_clock_under_emulation_is_no_time() -> None:
    emulated = run({**TIMED, "accelerated": False}, {"nft-lb": 0.7})
    assert clocks.clocks(model.Report([run(COUNTED, {"nft-lb": 0.7}), emulated], [])) is None


def test_a_fact_that_could_not_be_read_is_told_as_such() -> None:
    bare = run({"clock": "wall", "accelerated": True}, {"nft-lb": 0.8})
    told = "\n".join(clocks.section(model.Report([run(COUNTED, {"nft-lb": 0.7}), bare], []), ENGLISH))
    assert "kernel `?` on a machine (processors: ?)" in told


def test_the_reference_is_no_row_and_the_order_is_that_of_the_instructions() -> None:
    ratios = {"nft-lb": 0.7, "direct-short": 1.1, "nft-overlay": 0.9}
    report = model.Report([run(COUNTED, ratios), run(TIMED, ratios)], [])
    assert [each.plane for each in _of(report).planes] == ["direct-short", "nft-overlay", "nft-lb"]


def test_a_workload_at_another_point_is_not_mixed_in() -> None:
    name, result = run(TIMED, {"nft-lb": 0.5})
    rows = [msgspec.structs.replace(row, axes=Axes(services=10)) for row in result.summary]
    report = model.Report([run(COUNTED, {"nft-lb": 0.7}), (name, msgspec.structs.replace(result, summary=rows))], [])
    assert clocks.clocks(report) is None


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_correlation_is_that_of_the_ranks() -> None:
    assert correlation([1, 2, 3, 4], [10, 20, 25, 1000]) == pytest.approx(1)
    assert correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert correlation([1, 2], [1, 2]) is None
    assert correlation([1, 2, 3], [5, 5, 5]) is None


@given(
    st.lists(st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)), min_size=3, unique_by=(lambda x: x[0], lambda x: x[1]))
)
def test_a_correlation_depends_on_the_order_alone(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = correlation(first, second)
    assert found is not None
    assert -1 - 1e-9 <= found <= 1 + 1e-9
    assert correlation([x**3 for x in first], second) == pytest.approx(found)
    assert correlation(second, first) == pytest.approx(found)
    assert correlation(first, [-y for y in second]) == pytest.approx(-found)


@pytest.mark.parametrize(
    ("timed", "largest"),
    [
        ({"nft-lb": 0.59, "ebpf-tc": 0.82}, "`ebpf-tc`: -18.0% by time"),  # a factor of 1.22, and the other of 1.18
        ({"nft-lb": 0.62, "ebpf-tc": 0.82}, "`nft-lb`: +24.0% by time"),
        ({"nft-lb": 0.5, "ebpf-tc": 1.02}, "`ebpf-tc`: +2.0% by time"),
    ],
)
def test_the_largest_disagreement_is_the_largest_factor_either_way(timed: Mapping[str, float], largest: str) -> None:
    assert f"The largest disagreement is that of {largest}." in "\n".join(held({"nft-lb": 0.5, "ebpf-tc": 1.0}, timed))


@given(
    counted=st.floats(0.2, 2),
    timed=st.floats(0.2, 2),
)
def test_a_pace_turns_one_ratio_into_the_other(counted: float, timed: float) -> None:
    each = Timed("nft-lb", Interval(counted), Interval(timed))
    if each.pace is None:
        assert (counted - 1) * (timed - 1) <= 0
    else:
        assert each.pace > 0
        assert 1 / (1 + each.pace * (1 / counted - 1)) == pytest.approx(timed, rel=1e-6)
    assert each.apart == (counted != timed)


def profiled(run: tuple[str, Result], parts: Mapping[str, Mapping[str, float]]) -> tuple[str, Result]:
    name, result = run
    trials = [
        Trial(plane, "seed", "crr", 0, True, {}, profile=Profile(dict(shares), [])) for plane, shares in parts.items()
    ]
    return name, msgspec.structs.replace(result, trials=trials)


def test_what_the_largest_disagreement_adds_to_direct_is_shown_without_the_programs() -> None:
    ratios = {"nft-lb": 0.5, "nft-host": 0.5}
    counted = {
        DIRECT: {"TCP": 0.5, "memory": 0.2, "user space": 0.3},
        "nft-lb": {"TCP": 0.3, "NAT": 0.2, "memory": 0.1, "user space": 0.4},
        "nft-host": {"TCP": 1.0},
    }
    timed = {
        DIRECT: {"TCP": 0.8, "BPF": 0.005, "user space": 0.195},
        "nft-lb": {"TCP": 0.6, "NAT": 0.1, "locks": 0.2, "BPF": 0.001, "user space": 0.099},
        "nft-host": {"IPVS": 1.0},
    }
    runs = [profiled(run(COUNTED, ratios), counted), profiled(run(TIMED, {**ratios, "nft-lb": 0.8}), timed)]
    found = _of(model.Report(runs, []))
    assert clocks.parts(found, ENGLISH)[1] == [
        ["NAT", "+40.0%", "+12.5%"],
        ["locks", "+0.0%", "+25.0%"],
        ["TCP", "+10.0%", "-5.0%"],
    ]


@pytest.mark.parametrize("without", [0, 1])
def test_there_is_no_table_of_parts_without_both_profiles(without: int) -> None:
    runs = [run(COUNTED, {"nft-lb": 0.7}), run(TIMED, {"nft-lb": 0.9})]
    whole = {DIRECT: {"TCP": 1.0}, "nft-lb": {"TCP": 1.0}}
    assert _of(model.Report([profiled(each, whole) for each in runs], [])).parts
    for missing in whole:
        profiles = [whole, whole]
        profiles[without] = {name: shares for name, shares in whole.items() if name != missing}
        assert _of(model.Report([*map(profiled, runs, profiles)], [])).parts == []


@pytest.fixture
def cause(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(clocks, "CAUSES", [Cause("nft-lb", faster=True, why="The moon was full.")])
    return "Its cause: The moon was full."


def test_a_cause_is_told_of_its_plane_in_its_direction_only(cause: str) -> None:
    def told(counted: Mapping[str, float], timed: Mapping[str, float]) -> str:
        return "\n".join(held(counted, timed))

    assert cause in told({"nft-lb": 0.7, "nft-host": 0.7}, {"nft-lb": 0.8, "nft-host": 0.72})
    assert "Its cause is not known." in told({"nft-lb": 0.7}, {"nft-lb": 0.6})
    assert "Its cause is not known." in told({"nft-lb": 0.7, "nft-host": 0.7}, {"nft-lb": 0.8, "nft-host": 0.9})


def test_what_lies_within_the_intervals_has_no_cause(cause: str) -> None:
    told = "\n".join(held({"nft-lb": 0.7}, {"nft-lb": 0.8}, width=0.3))
    assert "It lies within the intervals." in told
    assert cause not in told


def test_a_cause_names_a_plane_that_there_is_and_each_only_once() -> None:
    names = [(each.plane, each.faster) for each in CAUSES]
    assert len({*names}) == len(names)
    for plane, _ in names:
        (selection,) = catalog.select(plane)
        assert title(selection.name, selection.dataplane, selection.variant) == plane, "as documents name it"
