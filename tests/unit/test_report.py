"""The report and the answer follow only from the documents."""

from __future__ import annotations

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from bench.documents import Held, Interval, Matrix, MatrixCell, Profile, Result, Summary, Trial, reading
from bench.report import answer, text
from bench.report.downloads import downloads, rounded
from bench.report.model import Report, State
from bench.report.page import origin, page
from bench.report.questions import QUESTIONS, REFERENCE
from dataplanes.errors import Usage
from scenarios import checks
from scenarios.axes import Axes
from scenarios.outcomes import Expected

PLANES = (REFERENCE, "ipvs-overlay", "nft-lb")
CHECKS = (
    "identity.source-same-node",
    "identity.source-other-node",
    "identity.source-udp",
    "change.drain",
    "reach.any-port",
)


def matrix(failing: Mapping[tuple[str, str], str]) -> Matrix:
    """Return a matrix in which every check holds on every plane, except those that fail, with their reasons."""
    cells = []
    for plane in PLANES:
        for check in CHECKS:
            reason = failing.get((plane, check))
            outcome: Expected = "pass" if reason is None else "fail"
            cells.append(MatrixCell("k", plane, check, outcome, outcome, f"saw {plane}", 0.1, reason or ""))
    plan = {
        "command": "bench matrix",
        "dataplanes": [{"name": plane} for plane in PLANES],
        "checks": [{"name": check, "statement": f"It is so: {check}."} for check in CHECKS],
    }
    return Matrix({}, {"k": {"kernel": "6.12", "clock": "instructions"}}, plan, cells)


def summary(plane: str, cost: float, *, services: int = 0, workload: str = "crr") -> Summary:
    metrics = {"connections_per_second": Interval(1e9 / cost), "instructions_per_connection": Interval(cost)}
    if workload == "program":
        metrics = {"install_ms": Interval(cost), "add_service_ms": Interval(cost / 10)}
    ratio = Interval(300_000 / cost, 299_000 / cost, 301_000 / cost)
    return Summary(plane, "seed", workload, 5, metrics, ratio, {}, {"1": 1}, "", Axes(services=services))


def result() -> Result:
    rows = [summary("direct", 300_000), summary(REFERENCE, 400_000), summary("ipvs-overlay", 380_000)]
    for size in (1, 10, 100):
        rows += [summary(plane, 400_000 + 100 * size, services=size) for plane in PLANES]
        rows.append(summary("nft-lb", 5.0, services=size, workload="program"))
    rows.append(summary("nft-lb", 500_000))
    trials = [
        Trial(plane, "seed", "crr", 0, True, {}, profile=Profile(parts, []))
        for plane, parts in (("direct", {"TCP": 0.75, "IP": 0.25}), ("nft-lb", {"TCP": 0.5, "NAT": 0.3, "IP": 0.2}))
    ]
    held = [
        Held("overlay", "my-network", "nft elements", 9),
        Held("overlay", "my-network", "conntrack entries", 20, 5120),
        Held("container", "my-web.1", "conntrack entries", 30, 7680),
        Held("container", "my-web.2", "conntrack entries", 10, 2560),
    ]
    trials.append(Trial("nft-lb", "seed", "crr", 1, False, {"conntrack_entries": 60}, held=held))
    return Result(
        {}, {"clock": "instructions", "kernel": "6.12"}, {"command": "bench run"}, trials, rows, ["x is unstable"]
    )


FAILING = {
    (REFERENCE, "change.drain"): "Docker deletes",
    ("nft-lb", "identity.source-same-node"): "SNAT",
    ("nft-lb", "identity.source-other-node"): "SNAT",
    ("nft-lb", "identity.source-udp"): "SNAT",
}


@pytest.fixture
def report() -> Report:
    return Report([("r.json", result())], [("m.json", matrix(FAILING))])


def test_a_plane_is_held_against_the_reference_check_by_check(report: Report) -> None:
    assert report.against("ipvs-overlay")[1:] == (["change.drain"], [])
    same, more, less = report.against("nft-lb")
    assert (same, more, less) == (["reach.any-port"], ["change.drain"], list(CHECKS[:3]))


def test_what_differs_on_one_kernel_only_is_not_the_same() -> None:
    other = matrix({("nft-lb", "reach.any-port"): "an old kernel", (REFERENCE, "identity.source-udp"): "too"})
    older = msgspec.structs.replace(other, cells=[msgspec.structs.replace(c, kernel="old") for c in other.cells])
    report = Report([], [("k.json", matrix({})), ("old.json", older)])
    assert report.against("nft-lb")[1:] == (["identity.source-udp"], ["reach.any-port"])
    assert report.against("ipvs-overlay")[1:] == (["identity.source-udp"], [])


def test_questions_are_answered_by_their_checks(report: Report) -> None:
    answers = {verdict.dataplane: verdict.answers for verdict in report.verdicts()}
    assert answers["ipvs-overlay"]["client address"] == "yes"
    assert answers["nft-lb"]["client address"] == "no"
    assert answers[REFERENCE]["drain"] == "no"
    assert answers["nft-lb"]["hairpin"] == ""  # not observed


def test_every_question_asks_for_checks_there_are() -> None:
    assert {check for question in QUESTIONS for check in question.checks} <= checks.CHECKS.keys()


def test_curves_are_what_has_two_points(report: Report) -> None:
    found = {(curve.metric, curve.axis): curve for curve in report.curves()}
    curve = found["instructions_per_connection", "services"]
    assert [x for x, _ in curve.planes["nft-lb"]] == [0, 1, 10, 100]
    assert "direct" not in curve.planes
    assert ("add_service_ms", "services") in found


def test_a_profile_says_what_a_connection_costs_where(report: Report) -> None:
    assert report.parts() == {
        "direct": {"TCP": 225_000, "IP": 75_000, "NAT": 0},
        "nft-lb": {"TCP": 250_000, "IP": 100_000, "NAT": 150_000},
    }
    assert "| direct     | 225,000 |  75,000 |       0 |" in text.markdown(report)
    assert "<td>150,000<" in page(report)


def test_what_the_kernel_holds_is_told_by_kind_of_namespace(report: Report) -> None:
    state = report.states()["nft-lb"]
    assert state["overlay"] == State(objects=9, entries=20, bytes=5120)
    assert state["container"] == State(objects=0, entries=40, bytes=10240)
    assert state["host"] == State(0, 0, 0)
    (row,) = [line for line in text.markdown(report).splitlines() if line.startswith("| nft-lb") and "5,120" in line]
    assert re.findall("[0-9,]+", row) == ["0", "40", "10,240", "0", "0", "0", "9", "20", "5,120", "0", "0", "0"]
    assert "<td>9<td>20<td>5<" in page(report)


def test_the_answer_says_what_it_costs_and_what_to_choose(report: Report) -> None:
    told = answer.answer(report)
    assert "| nft-lb | 500,000 (1.25x) |" in told
    assert "| There are many services | `nft-lb` |" in told  # the other planes' connections grow by a fortieth
    assert f"must see who calls | `ipvs-overlay`, `{REFERENCE}` |" in told


def test_the_page_needs_nothing_from_anywhere_and_says_everything(report: Report) -> None:
    made = page(report)
    assert not re.search(r"""(src|href)=["'](https?:)?//""", made)
    assert made.count("<svg") >= 5
    for drawing in re.findall(r"<svg.*?</svg>", made, re.S):
        ET.fromstring(drawing)
        assert "aria-label" in drawing
        assert not re.search("#[0-9a-f]{6}", drawing)  # ink has the page's colours, light or dark
    assert ">0.789<" in made  # figures are whole numbers, coordinates are not
    seen = made[made.index('id="check-identity.source-udp"') :]
    assert "<strong>does not hold</strong>: saw nft-lb (SNAT)<br><i>nft-lb</i>" in seen[: seen.index("</ul>")]
    assert "x is unstable" in made
    assert made == page(report)


def test_the_page_says_where_its_figures_come_from(report: Report) -> None:
    assert origin(report) == "Measured by the instruction clock (1 ns is one instruction) on kernel 6.12."
    told = {"date": "2026-11-26", "revision": "abc"}
    later = msgspec.structs.replace(result(), tool=told, environment={"clock": "wall", "kernel": "6.18"})
    first = msgspec.structs.replace(result(), tool=told | {"date": "2026-11-24", "revision": "def"})
    assert origin(Report([("l", later), ("f", first)], [])) == (
        "Measured by the wall clock on kernel 6.18, by the instruction clock (1 ns is one instruction) on kernel 6.12, "
        "2026-11-24 to 2026-11-26, at revision abc and 1 more."
    )


def test_data_cannot_break_out_of_the_page(report: Report) -> None:
    report.matrices[0][1].cells[0].detail = "</script><script>alert(1)</script>"
    assert "<script>alert(1)" not in page(report)


def test_the_documents_are_in_the_page_and_can_be_read_again(report: Report, tmp_path: Path) -> None:
    found = re.findall(r'href="data:application/x-xz;base64,([^"]+)" download="([^"]+)"', page(report))
    documents = dict[str, Result | Matrix]([*report.results, *report.matrices])
    assert sorted(name for _, name in found) == sorted(f"{name}.xz" for name in documents)
    for data, name in found:
        (tmp_path / name).write_bytes(base64.b64decode(data))
        read, known = reading.read(str(tmp_path / name)), documents[name.removesuffix(".xz")]
        assert msgspec.to_builtins(read) == rounded(msgspec.to_builtins(known))
        (tmp_path / name).write_bytes(base64.b64decode(data)[:-20])
        with pytest.raises(Usage, match="cut off"):
            reading.read(str(tmp_path / name))


def test_a_document_that_does_not_fit_is_named_with_the_reason(report: Report) -> None:
    documents = dict[str, Result | Matrix]([*report.results, *report.matrices])
    (first, data), *_ = sorted(documents.items(), key=lambda each: len(downloads([each], 1_000_000)))
    told = downloads([*documents.items()], len(downloads([(first, data)], 1_000_000)))
    links, left = re.findall('download="([^"]+).xz"', told), re.findall('id="not-([^"]+)"', told)
    assert (links, sorted([*links, *left])) == ([first], sorted(documents))
    assert f"{left[0]} is not in this page: packed it takes " in told


def test_a_figure_has_seven_digits_in_a_page(report: Report, tmp_path: Path) -> None:
    (name, measured), *_ = report.results
    measured.trials[0].figures["connections_per_second"] = 1000 / 3
    (found,) = re.findall('base64,([^"]+)"', downloads([(name, measured)], 1_000_000))
    (tmp_path / "r.json.xz").write_bytes(base64.b64decode(found))
    again = reading.read(str(tmp_path / "r.json.xz"))
    assert isinstance(again, Result)
    assert again.trials[0].figures["connections_per_second"] == 333.3333


def test_markdown_csv_and_json_have_every_plane(report: Report) -> None:
    made = (text.markdown(report), text.tidy_csv(report), text.merged(report).decode())
    assert all(plane in each for plane in PLANES for each in made)
    assert "| change.drain" in made[0]
    rows = list(csv.DictReader(io.StringIO(made[1])))
    assert {"document": "m.json", "plane": "nft-lb", "check": "identity.source-udp", "outcome": "fail"}.items() <= next(
        row for row in rows if row["plane"] == "nft-lb" and row["check"] == "identity.source-udp"
    ).items()


def test_numbers_have_the_digits_that_say_something() -> None:
    from bench.report.digits import number, ratio

    assert [number(each) for each in (0, 0.01234, 7.891, 365.24, 365_245.1)] == [
        "0",
        "0.0123",
        "7.89",
        "365",
        "365,245",
    ]
    assert ratio(Interval(0.8, 0.79, 0.81)) == "0.800 [0.790, 0.810]"
    assert ratio(None) == ""


def test_a_gap_stands_beside_that_of_a_calm_time_and_a_cold_start_by_services() -> None:
    rows = []
    for size, gap in ((1000, 2.5), (10_000, 30.0)):
        gaps = {"install_gap_ms": gap, "install_calm_ms": 0.4, "add_service_gap_ms": 0.8, "add_service_calm_ms": 0.5}
        for workload, found in (("gap", gaps), ("program", {"cold_start_ms": 100 * gap})):
            figures = {name: Interval(value) for name, value in found.items()}
            rows.append(Summary("nft-lb", "scale", workload, 3, figures, None, {}, {}, "", Axes(services=size)))
    told = answer.answer(Report([("r.json", Result({}, {"clock": "wall"}, {}, [], rows, []))], []))
    assert "| nft-lb | 2.5 (calm: 0.4) | 30 (calm: 0.4) |" in told
    assert "| nft-lb | 0.8 (calm: 0.5) | 0.8 (calm: 0.5) |" in told
    assert (
        "### Cold start of a node, ms\n\n| data plane | 1,000 | 10,000 |\n|---|---:|---:|\n| nft-lb | 250 | 3,000 |"
        in told
    )


def test_matrices_of_two_scenarios_in_one_report_are_told() -> None:
    mine = matrix({})
    mine.plan["scenario"] = "mine"
    assert Report([], [("a.json", mine), ("b.json", mine)]).warnings() == []
    (told,) = Report([], [("a.json", matrix({})), ("b.json", mine)]).warnings()
    assert told.startswith("the matrices are of different scenarios, ")
    assert told.endswith(": that of each check (a.json), mine (b.json)")
