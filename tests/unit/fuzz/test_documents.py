"""Whatever a document holds, a command that reads it ends as it should, and its content commands no reader."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.documents import Interval, Matrix, Result, Summary, Trial, metrics, reading
from bench.documents.earlier import Summary1, Trial1
from bench.documents.metrics import METRICS
from bench.documents.workloads import WORKLOADS
from bench.report import matrix_table, model, pages, text
from bench.report import result_table as table
from bench.report.answer import answer
from bench.report.digits import ratio
from bench.report.words import CHINESE
from dataplanes.errors import Usage
from tests.conftest import ROOT
from tests.unit.fuzz import samples
from tests.unit.fuzz.ending import end
from tests.unit.fuzz.strategies import mutated, of_type, spoiled, texts

RESULT = samples.result("connections", planes=2)
TRAFFIC = samples.result("traffic", planes=2, rounds=1)
SCALE = samples.result("scale", planes=2, points=3)
MATRIX = samples.matrix(planes=2, checks=3)
EARLIER = [samples.earlier(name) for name in ("instructions", "wall", "matrix")]
VALID = st.sampled_from([RESULT, TRAFFIC, SCALE, MATRIX, MATRIX, *EARLIER])
_plane = st.one_of(st.sampled_from(samples.PLANES), texts)
_workload = st.sampled_from(sorted(WORKLOADS))
_name = st.sampled_from(sorted(name for name in METRICS if not metrics.wrong(name, "instructions")))
_measured = st.dictionaries(_name, st.floats(0, 1e9), max_size=4)
_latencies = st.dictionaries(st.sampled_from(["p50", "p90", "p99", "p99.9", "max"]), st.floats(0, 1e9), max_size=3)
_nested = st.dictionaries(st.sampled_from(["connect_us", "next_us", "later_us"]), _latencies, max_size=2)
_metrics = st.builds(lambda some, more: some | more, _measured, _nested)
_estimates = st.dictionaries(
    _name,
    st.fixed_dictionaries(
        {"value": st.floats(-10, 1e18)},
        optional={"low": st.none() | st.floats(-1, 1e18), "high": st.none() | st.floats(0, 1)},
    ),
    max_size=4,
)


@st.composite
def extreme(draw: st.DrawFn) -> dict[str, Any]:
    """A valid result of today or of schema 1, or a matrix, of the extremes its types allow."""
    if draw(st.booleans()):
        today = draw(st.booleans())
        found = json.loads(json.dumps(RESULT if today else EARLIER[0]))
        known = {"dataplane": _plane, "workload": _workload}
        trials = of_type(Trial, **known, figures=_measured) if today else of_type(Trial1, **known, metrics=_metrics)
        estimated = {"figures" if today else "metrics": _estimates}
        found["trials"] = draw(st.lists(trials, max_size=6))
        found["summary"] = draw(st.lists(of_type(Summary if today else Summary1, **known, **estimated), max_size=6))
        found["warnings"] = draw(st.lists(texts, max_size=2))
        return dict(found)
    found = json.loads(json.dumps(MATRIX))
    for cell in found["cells"]:
        cell["outcome"] = draw(st.sampled_from(["pass", "fail", "skip", "error"]))
        cell["expected"] = draw(st.sampled_from(["pass", "fail", "skip"]))
        for key in ("detail", "reason", "reference"):
            cell[key] = draw(texts)
    for check in found["plan"]["checks"]:
        check["statement"] = draw(texts)
    found["plan"]["command"] = draw(texts)
    return dict(found)


documents = st.one_of(
    VALID.flatmap(mutated).map(lambda tree: json.dumps(tree).encode()),
    VALID.map(lambda tree: json.dumps(tree).encode()).flatmap(spoiled),
    extreme().map(lambda tree: json.dumps(tree).encode()),
    extreme().flatmap(mutated).map(lambda tree: json.dumps(tree).encode()),
    VALID.map(lambda tree: gzip.compress(json.dumps(tree).encode(), 1)).flatmap(spoiled),
    VALID.map(lambda tree: lzma.compress(json.dumps(tree).encode(), preset=0)).flatmap(spoiled),
    st.binary(max_size=200),
)
COMMANDS: list[list[str]] = [
    ["compare", "BASE", "FILE"],
    ["compare", "FILE", "BASE", "--json", "--allow", "kernel,clock,scenario,variant"],
    ["compare", "FILE", "FILE", "--fail-on", "connections_per_second:-1%"],
    ["report", "FILE"],
    ["report", "FILE", "MATRIX", "-o", "report.csv"],
    ["report", "FILE", "-o", "report.json"],
    ["answer", "FILE", "MATRIX"],
    ["predict", "--services", "3000", "FILE", "BASE"],
    ["predict", "--services", "3", "--json", "FILE"],
    ["answer", "FILE", "BASE", "--language", "zh"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the documents."""
    path = tmp_path_factory.mktemp("documents")
    (path / "base.json").write_text(json.dumps(RESULT), "utf-8")
    (path / "matrix.json").write_text(json.dumps(MATRIX), "utf-8")
    return path


def arguments(command: list[str], place: Path) -> list[str]:
    names = {"FILE": "any.json", "BASE": "base.json", "MATRIX": "matrix.json"}
    return [str(place / names.get(each, each)) if each in names or "." in each else each for each in command]


@given(data=documents, command=st.sampled_from(COMMANDS))
def test_every_command_ends_well_whatever_a_document_holds(data: bytes, command: list[str], place: Path) -> None:
    (place / "any.json").write_bytes(data)
    end(arguments(command, place))


@given(data=documents, also=st.booleans())
def test_what_is_made_of_a_document_is_harmless(data: bytes, also: bool, place: Path) -> None:
    """Render what no command shows alone: the tables and the JUnit file of a document that was read."""
    (place / "any.json").write_bytes(data)
    try:
        found = reading.read(str(place / "any.json"))
    except Usage:
        return
    report = model.Report([("any.json", found)] if isinstance(found, Result) else [], [])
    if isinstance(found, Matrix):
        report = model.Report([("base.json", reading.read(str(place / "base.json")))] if also else [], [("m", found)])  # type: ignore[list-item]
        ET.fromstring(matrix_table.junit(found))
        matrix_table.markdown(found)
        pages._printed(matrix_table.render(found), 100)
    else:
        pages._printed(table.render(found), 100)
    for row in csv.reader(io.StringIO(text.tidy_csv(report))):
        assert not any(cell.startswith(("=", "@", "+", "\t", "\r")) for cell in row)
        assert not any(cell.startswith("-") and not _number(cell) for cell in row)
    answer(report, CHINESE)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@settings(max_examples=max(15, settings().max_examples // 100))  # a drawing takes a tenth of a second
@given(data=extreme())
def test_the_page_is_made_of_any_valid_document(data: dict[str, Any], place: Path) -> None:
    (place / "any.json").write_text(json.dumps(data), "utf-8")
    end(arguments(["report", "FILE", "-o", "report.html"], place))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "deep": lambda: b"[" * 1_000_000,
    "deep inside": lambda: b'{"kind":"result","schema":2,"trials":[],"environment":{"a":' + b"[" * 1_000_000,
    "deep inside, earlier": lambda: b'{"schema":1,"trials":[],"environment":{"a":' + b"[" * 1_000_000,
    "many values": lambda: b'{"kind":"result","schema":2,"plan":{"a":[' + b"[]," * 5_000_000 + b'[]]},"trials":[]}',
    "large": lambda: b" " * (33 << 20),
    "a gzip bomb": lambda: gzip.compress(b" " * (64 << 20), 1),
    "an xz bomb": lambda: lzma.compress(b" " * (64 << 20), preset=0),
    "an xz file that needs much memory": lambda: lzma.compress(
        b"{}", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 27}]
    ),
    "digits": lambda: b'{"schema":' + b"1" * 100_000 + b"}",
    "not UTF-8": lambda: b'{"kind":"matrix","schema":2,"cells":"\xff"}',
    "another kind": lambda: text.merged(model.load([str(ROOT / "results" / "readme" / "first.json")])),
    "a later schema": lambda: json.dumps(RESULT | {"schema": 3}).encode(),
    "a kind that is no name": lambda: json.dumps(RESULT | {"kind": ["result"]}).encode(),
    "no kind": lambda: json.dumps({key: value for key, value in RESULT.items() if key != "kind"}).encode(),
    "another unit": lambda: json.dumps(RESULT | {"units": {"connect_p50_us": "ms"}}).encode(),
    "UTF-16": lambda: json.dumps(RESULT).encode("utf-16"),
    "infinite": lambda: json.dumps(RESULT).replace("1.0", "Infinity").encode(),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_by_name(name: str, place: Path) -> None:
    (place / "any.json").write_bytes(HOSTILE[name]())
    done = end(["report", str(place / "any.json")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert str(place / "any.json") in done.stderr


def test_half_an_interval_is_none() -> None:
    assert ratio(Interval(1.0, 0.5)) == ratio(Interval(1.0, None, 2.0)) == "1.000"


def test_an_error_is_told_with_its_field(place: Path) -> None:
    spoilt = json.loads(json.dumps(RESULT))
    spoilt["trials"][3]["round"] = "two"
    (place / "any.json").write_text(json.dumps(spoilt), "utf-8")
    done = end(["report", str(place / "any.json")])
    assert f"{place}/any.json: trials[3].round" in done.stderr


def test_what_ended_in_an_error_was_not_observed(place: Path) -> None:
    """The cell counts as neither lost nor gained, and the reader is told."""
    spoilt = json.loads(json.dumps(MATRIX))
    for cell in spoilt["cells"]:
        if cell["dataplane"] == "nft-overlay":
            cell.update(outcome="error", expected="pass", detail="the lab fell over")
    (place / "any.json").write_text(json.dumps(spoilt), "utf-8")
    done = end(["answer", str(place / "any.json")])
    assert done.exit_code == 0
    assert "the lab fell over" in done.stdout
