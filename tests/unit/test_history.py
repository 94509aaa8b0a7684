"""Changes of level are found where they are and nowhere else, and the page shows them."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import msgspec
import pytest

from bench.analysis import history as analysis
from bench.analysis import steps
from bench.documents import Matrix, MatrixCell, Result, Trial
from bench.documents.schema import path as schema_path
from scenarios.outcomes import Outcome
from tests.unit.conftest import Bench

NOISE = 0.005


def rounds(levels: list[float], *, seed: int = 1, spread: float = 0.001, count: int = 4) -> list[list[float]]:
    numbers = random.Random(seed)
    return [[level * numbers.gauss(1, spread) for _ in range(count)] for level in levels]


def places(series: list[list[float]]) -> list[int]:
    return [each.at for each in steps.splits(series, NOISE)]


@pytest.mark.parametrize("at", [2, 5, 8])
@pytest.mark.parametrize("change", [0.98, 1.01, 2.0])
def test_a_step_is_found_at_its_document(at: int, change: float) -> None:
    series = rounds([1000.0] * at + [1000.0 * change] * (10 - at))
    assert places(series) == [at]
    (found,) = steps.splits(series, NOISE)
    assert 0 < found.p <= 0.01


def test_two_steps_are_found_and_the_way_back_is_one() -> None:
    assert places(rounds([1000.0] * 4 + [960.0] * 4 + [1000.0] * 4)) == [4, 8]
    assert places(rounds([1000.0] * 3 + [980.0] * 4 + [950.0] * 3)) == [3, 7]


def test_noise_is_no_step() -> None:
    """In 60 series without a change none is found, be their noise within the threshold or larger than it."""
    for spread in (0.001, 0.01):
        found = [places(rounds([1000.0] * 12, seed=seed, spread=spread)) for seed in range(30)]
        assert sum(map(bool, found)) <= 1, found


@pytest.mark.parametrize("count", [6, 12, 24])
def test_documents_that_differ_by_themselves_have_no_step(count: int) -> None:
    """The rounds of a document have a cause in common, such as how its program was linked."""
    found = []
    for seed in range(60):
        numbers = random.Random(seed)
        found.append(places(rounds([1000.0 * numbers.gauss(1, 0.004) for _ in range(count)], seed=seed)))
    assert sum(map(bool, found)) <= 1, found


def test_a_change_within_noise_is_no_step() -> None:
    assert places(rounds([1000.0] * 6 + [1003.0] * 6, spread=0.0001)) == []
    assert places(rounds([1000.0] * 6 + [1006.0] * 6, spread=0.0001)) == [6]


def test_what_is_too_short_has_no_step() -> None:
    assert places([]) == places([[1.0, 1.0]]) == places([[1.0], [2.0]]) == []


def result(rate: float, revision: str, *, kernel: str = "6.1.0") -> Result:
    numbers = random.Random(revision)
    trials = [
        Trial(plane, "seed", "crr", n, False, {"connections_per_second": level * numbers.gauss(1, 0.001)})
        for n in range(4)
        for plane, level in (("direct", 1000.0), ("nft-lb", rate))
    ]
    facts = {"clock": "instructions", "kernel": kernel, "kernel_name": "debian-6.1"}
    return Result({"version": "0.2.0", "revision": revision}, facts, {"trials": []}, trials, [])


def matrix(**outcomes: Outcome) -> Matrix:
    cells = [MatrixCell("k", "nft-lb", name, outcome, "pass", "seen", 1.0) for name, outcome in outcomes.items()]
    plan = {"dataplanes": [{"name": "nft-lb"}], "checks": [{"name": name} for name in outcomes]}
    return Matrix({"version": "0.2.0"}, {"k": {"kernel": "6.1.0", "clock": "instructions"}}, plan, cells)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Eleven results, 2 % slower on one plane from the ninth on, and three matrices, the last without a clause."""
    made = tmp_path / "documents"
    made.mkdir()
    for number in range(1, 12):
        document = result(700.0 if number < 9 else 686.0, f"r{number}", kernel="6.1.0" if number < 9 else "6.1.1")
        (made / f"run-{number}.json").write_bytes(msgspec.json.encode(document))
    for number, outcomes in enumerate(({"a": "pass"}, {"b": "pass"}, {"a": "fail", "b": "pass"}), 1):
        (made / f"matrix-{number}.json").write_bytes(msgspec.json.encode(matrix(**outcomes)))  # type: ignore[arg-type]
    (made / "of-another-kind.json").write_text('{"kind": "lab", "schema": 2}')
    return str(made)


def test_a_history_tells_what_changed_where_and_what_else_did(folder: str) -> None:
    found = analysis.history(analysis.folder(folder), {"version": "0.2.0"})
    assert [each.name for each in found.documents][3:] == [f"run-{n}.json" for n in range(1, 12)], "numbers, not digits"
    (step,) = [step for trend in found.trends for step in trend.steps]
    assert (step.document, step.verdict) == ("run-9.json", "worse")
    assert step.ratio == pytest.approx(0.98, abs=0.002)
    assert step.differs == ["the programs differ: r8 and r9", "the kernels differ: 6.1.0 and 6.1.1"]
    (lost,) = found.cells
    assert (lost.document, [each.name() for each in lost.changes]) == ("matrix-3.json", ["k nft-lb a"])
    assert [each.points for each in found.semantics] == [
        {"matrix-1.json": (1, 1), "matrix-2.json": (1, 1), "matrix-3.json": (1, 2)}
    ]
    assert found.verdict == (
        "14 documents, 2 figures: 2 changes, the newest: nft-lb crr connections_per_second is worse from run-9.json on"
    )


def test_cells_of_two_scenarios_are_not_held_against_each_other() -> None:
    mine = [matrix(a="fail"), matrix(a="pass")]
    for each in mine:
        each.plan["scenario"] = "mine"
    told = [("1.json", matrix(a="pass")), ("2.json", mine[0]), ("3.json", matrix(a="pass")), ("4.json", mine[1])]
    found = analysis.history(told, {})
    assert [(each.document, [cell.what for cell in each.changes]) for each in found.cells] == [("4.json", ["gained"])]


def test_the_command_writes_page_text_and_json(bench: Bench, folder: str) -> None:
    for name in ("h.html", "h.json", "h.md"):
        done = bench("history", folder, "-o", name)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("14 documents, ")
    document = json.loads(Path("h.json").read_bytes())
    jsonschema.Draft202012Validator(json.loads(schema_path("history", 2).read_text("utf-8"))).validate(document)
    text = Path("h.md").read_text("utf-8")
    assert text.index("## From run-9.json on") < text.index("- nft-lb crr connections_per_second is worse: -")
    shown = bench("history", folder)
    assert shown.stdout.splitlines()[-1] == document["verdict"]
    assert bench("history", folder, "--metric", "install_ms").stdout.splitlines()[-1].startswith("14 documents, 0 fig")


def test_a_chart_has_three_labels_on_each_axis_and_a_mark_at_the_step(bench: Bench, folder: str) -> None:
    assert bench("history", folder, "-o", "h.html").exit_code == 0
    charts = [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", Path("h.html").read_text("utf-8"))]
    assert len(charts) == 2
    for each in charts:
        labels = {text.text for text in each.iterfind("{*}text") if not text.get("class")}
        assert {"run-1", "run-6", "run-11"} < labels
        assert len(labels) >= 6
        assert len(each.findall("{*}g/{*}title")) == 11
    assert [len(each.findall("{*}path[@class='limit']")) for each in charts] == [1, 0], "what changed comes first"
    assert charts[0].findtext("{*}text[@class='worse']", "") in ("-1.9%", "-2.0%", "-2.1%")


def test_what_cannot_be_followed_is_refused(bench: Bench, folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, told in (
        ((str(tmp_path / "empty"),), "no result and no matrix"),
        ((folder, "--metric", "speed"), "unknown metric 'speed'"),
        ((folder, "-o", "h.pdf"), "cannot write .pdf"),
    ):
        done = bench("history", *arguments)
        assert (done.exit_code, told in done.stderr) == (2, True), done.output
    (tmp_path / "documents" / "broken.json").write_text("{")
    assert bench("history", folder).exit_code == 2
