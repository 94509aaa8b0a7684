"""Charts: ticks, labels, bands and colours."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.documents import Interval
from bench.documents.overview import Curve
from bench.report import charts, heat, labels, looks, picture, svg
from bench.report.model import Report, cost, load
from bench.report.scales import Scale, around
from dataplanes.selection import DIRECT, SHORT, balances
from tests.conftest import ROOT

NUMBERS = st.floats(1e-3, 1e9)


@given(st.lists(NUMBERS, min_size=1, max_size=9), st.booleans())
def test_an_axis_has_three_labels_at_least_and_all_are_on_it(values: Sequence[float], logarithmic: bool) -> None:
    scale = around(values, 0, 100, logarithmic=logarithmic)
    ticks = scale.ticks()
    assert 3 <= len(ticks) <= 8, ticks
    assert ticks == sorted({*ticks})
    assert all(-1e-6 <= scale.at(each) <= 100 + 1e-6 for each in (*ticks, *values))


@pytest.mark.parametrize("values", [(0, 100), (1, 10_000), (10, 100), (0, 1, 1000), (3, 5), (0, 1, 1000, 10_000)])
def test_an_axis_of_sizes_has_three_labels_at_least(values: tuple[int, ...]) -> None:
    points = [(x, Interval(10.0 + x)) for x in values]
    drawn = charts.lines(Report([], []), Curve("crr", "connect_p99_us", "services", "wall", {"nft-lb": points}))
    below = re.findall(r'text-anchor="middle">([\d,.]+[kM]?)</text>', drawn)
    assert len(below) >= 3, below
    beside = re.findall(r'text-anchor="end">([\d,.]+[kM]?)</text>', drawn)
    assert len(beside) >= 3, beside


def test_zero_has_a_place_on_a_logarithmic_axis() -> None:
    scale = Scale(0, 100, 0, 10, True)
    assert [scale.at(each) for each in (0, 1, 10, 100)] == pytest.approx([0, 2, 6, 10])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_at_the_ends_of_lines_do_not_overlap(heights: Sequence[float]) -> None:
    found = labels.apart(heights, 12, 0, 100)
    placed = sorted(found)
    assert all(low + 12 <= high + 1e-6 for low, high in itertools.pairwise(placed))
    assert placed[0] >= 0
    assert placed[-1] <= 100
    assert [y for _, y in sorted(zip(heights, found, strict=True))] == placed, "they keep their order"


def test_labels_that_have_room_stay_where_they_are() -> None:
    assert labels.apart([10, 50, 90], 12, 0, 100) == [10, 50, 90]


def test_names_beside_points_do_not_overlap() -> None:
    points = [(50.0 + 3 * n, 50.0 + n % 3, f"plane-{n}") for n in range(9)]
    frame = labels.Rectangle(0, 0, 400, 200)
    placed = labels.beside(points, frame, [])
    boxes = []
    for label, (_, _, name) in zip(placed, points, strict=True):
        wide = svg.width(name)
        left = label.x - {"": 0.0, "end": wide, "middle": wide / 2}[label.anchor]
        boxes.append(labels.Rectangle(left, label.y - 9, left + wide, label.y + 2))
    assert all(not a.shared(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert all(each.outside(frame) == 0 for each in boxes)


def test_planes_that_do_not_differ_are_a_band_and_others_are_lines() -> None:
    near = {f"near-{n}": [(1, 0.5 + n / 100), (10, 0.6 + n / 100)] for n in range(4)}
    away = {"away": [(1, 0.52), (10, 0.9)], "short": [(1, 0.5)]}
    assert charts.alike({**near, **away}) == [list(near)]
    assert charts.alike({"a": [(1, 0.1)], "b": [(1, 0.1)]}) == [], "two lines are no band"


def test_differences_are_of_all_parts_and_in_six_groups_at_most() -> None:
    found = {
        "direct": {"TCP": 5.0, "bridge": 2.0},
        "nft-lb": {"TCP": 7.0, "bridge": 2.5, "nftables": 1.0, "memory": 9.0},
    }
    (told,) = charts.differences(found, "direct").values()
    assert len(told) <= 6
    assert sum(told.values()) == pytest.approx(19.5 - 7)
    assert told["the balancer's own code"] == 1.0
    assert told["the rest"] == 9.0


def _luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("placement", looks.COLOURS)
def test_every_colour_can_be_told_from_its_page(placement: str) -> None:
    for colour, paper in zip(looks.COLOURS[placement], ("#ffffff", "#161616"), strict=True):
        high, low = sorted((_luminance(colour), _luminance(paper)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3, f"WCAG 2.1, 1.4.11: {colour}"


@pytest.mark.parametrize("mechanism", ["ipvs", "nft", "nft-bridge", "moby-nft", "kube-iptables", "kube-ipvs", "ebpf"])
def test_every_mechanism_has_its_shape(mechanism: str) -> None:
    from bench.documents import Result

    plan = {"dataplanes": [{"name": "x", "dataplane": "x", "mechanism": mechanism}]}
    report = Report([("r", Result({}, {"clock": "wall"}, plan, [], [], []))], [])
    assert looks.mechanism(report, "x") in mechanism
    assert looks.mechanism(report, "x") in looks.SHAPES


# -- the picture -------------------------------------------------------------------------------------------------------

PLACES = ROOT / "tests" / "unit" / "golden" / "places"


@pytest.fixture(scope="module")
def places() -> Report:
    return load([str(PLACES / name) for name in ("connections.json", "matrix.json")])


def test_every_plane_is_a_named_point_with_its_figures(places: Report) -> None:
    shown = picture.facts(places)
    assert shown
    assert {each.plane for each in shown.points} == {name for name in places.planes() if balances(name)}
    drawn = picture.draw(places, shown)
    told = {name: title for title in re.findall("<title>(.*?)</title>", drawn) for name in [title.partition(":")[0]]}
    for each in shown.points:
        assert f">{each.plane}</text>" in drawn
        assert f"{each.paid.value:.3f} times that of direct" in told[each.plane]
        assert f"{each.core} core and {each.extended} extended semantics are lost" in told[each.plane]
        costs = {name: cost(row) for name, (row, _) in places.rows("crr").items()}
        here, there = costs[each.plane], costs["direct"]
        assert here and there  # noqa: PT018
        assert each.paid.value == pytest.approx(here.value / there.value, rel=0.01)
    assert drawn.count('class="mark hollow"') == sum(1 for each in shown.points if each.core) + any(
        each.core for each in shown.points
    ), "the points that lack a core semantic, and the legend"


def test_the_reference_and_the_limit_are_lines(places: Report) -> None:
    shown = picture.facts(places)
    assert shown
    drawn = picture.draw(places, shown)
    assert [kind in drawn for kind in ('class="ref"', 'class="limit"')] == [
        name in shown.lines for name in (DIRECT, SHORT)
    ]
    assert DIRECT in shown.lines


def test_on_a_telephone_only_the_planes_that_decide_have_names(places: Report) -> None:
    shown = picture.facts(places)
    assert shown
    drawn = picture.draw(places, shown, picture.NARROW)
    assert [f">{each.plane}</text>" in drawn for each in shown.points] == [each.strong for each in shown.points]
    assert any(each.strong for each in shown.points)


def test_the_picture_as_a_file_is_an_image_of_its_own(places: Report) -> None:
    shown = picture.facts(places)
    assert shown
    made = picture.standalone(places, shown)
    assert ET.fromstring(made).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in made


def test_without_semantics_there_is_no_picture(places: Report) -> None:
    assert picture.facts(Report(places.results, [])) is None


# -- the map -----------------------------------------------------------------------------------------------------------


def test_the_map_has_every_cell_and_tells_what_was_seen_on_every_plane(places: Report) -> None:
    planes = [plane for column in heat.columns(places) for plane in column.planes]
    assert sorted(planes) == sorted({cell.dataplane for cell in places.cells()})
    rows = [row for theme in heat.themes(places) for row in theme.rows]
    assert sorted(row.check for row in rows) == sorted(places.checks())
    for row in rows:
        named = [plane for seen in row.seen for plane in seen.planes]
        assert len(named) == len({*named})
        for plane, (kind, _) in zip(planes, row.cells, strict=True):
            cells = [cell for each in places.kernels() if (cell := places.cell(each, plane, row.check))]
            outcomes = {cell.outcome for cell in cells}
            assert kind.split()[:1] == ([*outcomes] if len(outcomes) == 1 else ["mixed"] if outcomes else [])
            (seen,) = [each for each in row.seen if plane in each.planes] or [
                each for each in row.seen if not each.planes
            ]
            assert all(any(cell.detail in line for line in seen.lines) for cell in cells)


def test_a_plane_on_which_a_check_was_not_observed_is_no_other_plane(places: Report) -> None:
    (name, whole) = places.matrices[0]
    check, gone = whole.cells[0].check, whole.cells[0].dataplane
    left = [cell for cell in whole.cells if (cell.check, cell.dataplane) != (check, gone)]
    report = Report([], [(name, msgspec.structs.replace(whole, cells=left))])
    (row,) = [row for theme in heat.themes(report) for row in theme.rows if row.check == check]
    told = [plane for seen in row.seen for plane in seen.planes]
    assert sorted(told) == sorted({cell.dataplane for cell in report.cells() if cell.check == check})
