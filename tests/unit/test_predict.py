"""`bench predict`: forms that the data choose, figures of a node, and an output that ends in the answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import jsonschema
import pytest

from bench.analysis import predict, scaling
from bench.analysis.scaling import OF_CONTAINERS, OF_NODE, Point, fitted
from bench.documents import Result, reading, schema
from bench.documents.prediction import AskedSize
from bench.report import model
from scenarios.axes import Axes
from tests.unit.conftest import Bench

SCALE, PROGRAMMING = model.PUBLISHED / "scale.json", model.PUBLISHED / "programming.json"
SIZES = [(3.0, 2.0), (102.0, 2.0), (1002.0, 2.0), (10002.0, 2.0), (12.0, 11.0), (12.0, 101.0)]
GROWTHS: dict[tuple[str, ...], tuple[scaling.Forms, Callable[[float, float], float]]] = {
    ("constant",): (OF_NODE, lambda s, k: 261_000),
    ("constant", "services"): (OF_NODE, lambda s, k: 400_000 + 70 * s),
    ("constant", "log services"): (OF_NODE, lambda s, k: 10 + 3 * math.log2(s + 1)),
    ("constant", "services", "containers"): (OF_NODE, lambda s, k: 20 + 0.9 * s + 0.3 * k),
    ("containers",): (OF_CONTAINERS, lambda s, k: 1.7 * k),
    ("containers", "containers x services"): (OF_CONTAINERS, lambda s, k: k * (2 + 0.5 * s)),
}


@pytest.mark.parametrize("form", list(GROWTHS), ids=" + ".join)
def test_the_data_choose_the_form_in_which_they_grow(form: tuple[str, ...]) -> None:
    forms, cost = GROWTHS[form]
    wobble = [1.004, 0.997, 1.002, 0.999, 1.003, 0.996]  # rounds differ
    points = [Point(s, k, cost(s, k) * by) for (s, k), by in zip(SIZES, wobble, strict=True)]
    found = fitted(points, forms, 0.01)
    assert found
    assert found.form == form
    assert found.cost(3000, 50) == pytest.approx(cost(3000, 50), rel=0.02)
    assert 0 < found.error < 0.2
    assert (found.services, found.containers, found.points) == ((3, 10002), (2, 101), 6)


def test_no_term_is_negative_and_too_few_sizes_have_no_model() -> None:
    falling = [Point(s, 2.0, 1000 - s / 20) for s in (2.0, 100.0, 1000.0, 10000.0)]
    found = fitted(falling, OF_NODE, 0.01)
    assert found
    assert min(found.coefficients) >= 0
    assert fitted(falling[:1], OF_NODE, 0.01) is None
    assert fitted([], OF_NODE, 0.01) is None


def test_a_size_that_was_not_seen_is_told_with_its_error() -> None:
    points = [Point(s, 2.0, 100 if s < 5000 else 300) for s in (2.0, 100.0, 1000.0, 10000.0)]
    found = fitted(points, (("constant",),), 0.01)
    assert found
    assert found.error == pytest.approx(2 / 3, abs=0.01)  # without the last one it tells 100 of 300


def test_a_lab_has_the_nodes_and_containers_of_its_scenario() -> None:
    assert predict.world("scale", Axes(services=1000)) == predict.LabSize(1002, 2, 4, 3)
    assert predict.world("scale", Axes(services=10, containers=100)) == predict.LabSize(12, 3, 304, 103)
    assert predict.world("seed", Axes()) == predict.LabSize(2, 2, 4, 3)
    assert predict.world("somebody-s-own", Axes()) is None
    assert predict.world("../x.toml", Axes()) is None


@pytest.fixture(scope="module")
def published() -> list[Result]:
    read = [reading.read(str(path)) for path in (model.PUBLISHED / "connections.json", SCALE, PROGRAMMING)]
    return [each for each in read if isinstance(each, Result)]


def test_figures_of_the_lab_are_told_of_a_node(published: list[Result]) -> None:
    (kernel, *_) = predict.kernels(published)
    points = predict.points(published, kernel)
    rows = [row for each in published for row in each.summary if row.dataplane == "nft-lb"]
    (row,) = [row for row in rows if row.workload == "program" and row.axes == Axes(services=1000)]
    found = {each.services: each.cost for each in points["nft-lb", "add_service_ms"].points if each.containers == 2}
    assert found[1002] == row.figures["add_service_ms"].value / 2
    (start,) = [each for each in points["nft-lb", "cold_start_ms"].points if each.services == 1002]
    assert (start.containers, start.cost) == (3, row.figures["cold_start_ms"].value)


def test_the_cost_of_a_connection_at_the_largest_size_is_told_from_smaller_ones(published: list[Result]) -> None:
    (kernel, *_) = predict.kernels(published)
    missed = predict.validated(predict.points(published, kernel))
    found = [each.error for each in missed if (each.metric, each.axis) == (predict.CONNECTION, "services")]
    assert len(found) > 10
    assert max(map(abs, found)) < 0.15


def test_the_output_ends_in_the_answer(bench: Bench) -> None:
    done = bench("predict", "--services", "3000", "--nodes", "12", "--containers", "110")
    assert done.exit_code == 0, done.output
    *rest, first, _, _, _, last = done.stdout.splitlines()
    assert first == "3,000 services on 12 nodes with 110 containers each:"
    assert last.startswith("  kernel memory is least on ")
    assert any(line.startswith("  a connection costs least on ebpf-redirect") for line in done.stdout.splitlines())
    assert any(line.startswith("* outside of ") and "containers on a node" in line for line in rest)
    assert any("│ nft-lb " in line for line in rest)


def test_a_size_below_what_was_measured_is_outside_too(bench: Bench) -> None:
    done = bench("predict", "--services", "1", "--nodes", "1", "--containers", "1", "-d", "nft-lb", str(SCALE))
    assert done.exit_code == 0, done.output
    assert re.search(r"^\* outside of what was measured: 2 to [\d,]+ .*services", done.stdout, re.M)
    assert "1 service on 1 node with 1 container each:\n" in done.stdout


def test_the_document_is_valid_and_tells_what_lies_outside(bench: Bench) -> None:
    done = bench("predict", "--services", "1000000", "--json", "-d", "nft-lb,ipvs-container", str(SCALE))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator(json.loads(schema.path("prediction", 2).read_text("utf-8"))).validate(document)
    assert {each["dataplane"].partition("@")[0] for each in document["planes"]} == {"nft-lb", "ipvs-container"}
    cost = next(each for each in document["planes"] if each["dataplane"] == "nft-lb")["costs"][predict.CONNECTION]
    assert cost["outside"] == ["services"]
    assert cost["low"] <= cost["value"] <= cost["high"]
    assert document["units"]["kernel_bytes"] == "B"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--services", "10", "-d", "no-such-plane"), "'no-such-plane' was not measured on debian-6.1"),
        (("--services", "10", "--kernel", "debian-0.1"), "nothing was measured on the kernel 'debian-0.1'"),
        (("--services", "0"), "0 is not in the range"),
        (("--nodes", "3"), "Missing option '--services'"),
    ],
)
def test_a_wrong_question_is_refused(bench: Bench, arguments: tuple[str, ...], says: str) -> None:
    done = bench("predict", *arguments, str(model.PUBLISHED / "readme" / "first.json"))
    assert done.exit_code == 2
    assert says in done.stderr


def test_results_by_the_wall_clock_tell_nothing(bench: Bench) -> None:
    done = bench("predict", "--services", "10", str(model.PUBLISHED / "wall.json"))
    assert done.exit_code == 2
    assert "nothing was measured by the instruction clock" in done.stderr


def test_a_growth_that_was_seen_at_one_size_only_is_not_told(published: list[Result]) -> None:
    asked = AskedSize(3000, 3, 10)
    found = {each.dataplane: each for each in predict.predict(published, asked, None, (), {}).planes}
    for plane in found.values():
        for cost in plane.costs.values():
            assert cost.services.least < cost.services.most or cost.services.most == asked.services
    assert scaling.TERMS.keys() >= {term for form in (*OF_NODE, *OF_CONTAINERS) for term in form}
