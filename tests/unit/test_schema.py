"""A committed schema is what the program writes, and every published document is valid by the schema it names."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from bench import api
from bench.analysis import gate
from bench.analysis.story import story
from bench.documents import SCHEMA, Matrix, Result, reading, schema
from bench.documents.comparison import Comparisons
from bench.documents.metrics import METRICS
from bench.documents.tracing import TraceDocument, Tracing
from bench.report import model, text
from dataplanes.errors import Usage
from scenarios.checks.world import CLIENT
from scenarios.document import LabDocument, LabNetwork, LabNode, LabService, LabTask
from tests.conftest import ROOT
from tests.unit.test_story import recorded

PUBLISHED = sorted((ROOT / "results").rglob("*.json"))
GOLDEN = ROOT / "tests" / "unit" / "golden" / "documents"
TODAYS = [kind for kind, version in schema.DOCUMENTS if version == SCHEMA]


@cache
def validator(kind: str, version: int) -> Any:
    made = json.loads(schema.path(kind, version).read_text("utf-8"))
    return jsonschema.Draft202012Validator(made)


def kind_of(document: dict[str, Any]) -> str:
    return document.get("kind") or ("matrix" if "cells" in document else "result")


def as_written(document: msgspec.Struct) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(api.encoded(document))
    return made


@pytest.mark.parametrize(("kind", "version"), schema.DOCUMENTS)
def test_the_committed_schema_is_the_programs(kind: str, version: int) -> None:
    committed = schema.path(kind, version).read_text("utf-8")
    assert committed == schema.render(kind, version), (
        "python -m bench.documents.schema writes it anew; raise SCHEMA if readers must know"
    )
    found = json.loads(committed)
    assert found["$id"] == f"urn:vip-bench:schema:{version}:{kind}"
    jsonschema.Draft202012Validator.check_schema(found)


def test_there_is_no_other_schema() -> None:
    there = {path for path in schema.DIRECTORY.rglob("*") if path.is_file()}
    assert there == {schema.path(*each) for each in schema.DOCUMENTS}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_a_published_document_is_valid(path: Path) -> None:
    document = json.loads(path.read_text("utf-8"))
    validator(kind_of(document), document["schema"]).validate(document)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_a_published_document_is_valid_when_it_is_written_again(path: Path) -> None:
    document = as_written(reading.read(str(path)))
    assert document["schema"] == SCHEMA
    validator(document["kind"], SCHEMA).validate(document)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/*.json")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_golden_document_is_valid(path: Path) -> None:
    document = json.loads(path.read_text("utf-8"))
    validator(kind_of(document), int(path.parent.name)).validate(document)


def test_a_comparison_is_valid() -> None:
    for name in ("wall.json", "matrix.json"):
        path = str(GOLDEN / "2" / name)
        found = [gate.decide(reading.read(path), path)]
        told = {each.metric for each in found[0].differences}
        made = Comparisons({"version": "0.2.0"}, path, found, gate.verdict(found), {m: METRICS[m].unit for m in told})
        validator("comparison", SCHEMA).validate(as_written(made))


def test_a_report_is_valid() -> None:
    for version in "12":
        found = model.load([str(path) for path in sorted((GOLDEN / version).glob("*.json"))])
        validator("report", SCHEMA).validate(json.loads(text.merged(found)))


def test_a_lab_document_is_valid() -> None:
    task = LabTask(
        "my-web.1", "my-web", "worker1", "b1-my-web.1", None, "02:42:0a:00:00:03", {"my-network": "10.0.0.3"}
    )
    made = LabDocument(
        [LabNode("worker1", "b1-worker1")],
        [LabNetwork("my-network", "10.0.0.0/24", 1450, {"worker1": "b1-worker1.my-network"})],
        [LabService("my-web", "my-network", "10.0.0.2", [80], ["my-web.1"])],
        [task],
    )
    validator("lab", SCHEMA).validate(as_written(made))


@pytest.mark.parametrize("name", ["page", "ebpf-socket", "ebpf-tc-hairpin"])
def test_a_trace_is_valid(name: str) -> None:
    plan = msgspec.to_builtins(Tracing(CLIENT, "lone")) | {"scenario": "matrix", "command": "bench trace"}
    writer, environment = {"version": "0.2.0"}, {"kernel": "6.12.117", "clock": "wall"}
    made = as_written(TraceDocument(writer, environment, plan, [story(recorded(name))]))
    (told,) = made["stories"]
    assert told["flow"]["sightings"]
    validator("trace", SCHEMA).validate(made)


@pytest.mark.parametrize("kind", TODAYS)
def test_a_document_that_lacks_a_field_is_not_valid(kind: str) -> None:
    document = {"kind": kind, "schema": SCHEMA}
    missing = {error.message.split("'")[1] for error in validator(kind, SCHEMA).iter_errors(document)}
    fields = schema.DOCUMENTS[kind, SCHEMA].__struct_fields__
    assert missing == set(fields) - {"schema"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (("trials", 0, "figures", "connect_us"), 1.0),  # the name that a trial had once
        (("trials", 0, "figures", "connect_p50_us"), "1.0"),
        (("trials", 0, "work", "elapsed_ns"), -1),
        (("units", "connect_p50_us"), "ms"),
        (("environment", "clock"), "sundial"),
        (("schema",), 1),
        (("kind",), "matrix"),
    ],
)
def test_what_is_not_valid_is_refused_by_the_reader_as_well(
    field: tuple[Any, ...], value: object, tmp_path: Path
) -> None:
    document = json.loads((GOLDEN / "2" / "instructions.json").read_text("utf-8"))
    holder = document
    for key in field[:-1]:
        holder = holder[key]
    holder[field[-1]] = value
    assert list(validator("result", SCHEMA).iter_errors(document))
    (tmp_path / "x.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(Usage):
        reading.read(str(tmp_path / "x.json"))


@pytest.mark.parametrize("name", ["wall", "instructions"])
def test_a_figure_has_no_meaning_by_the_other_clock(name: str, tmp_path: Path) -> None:
    document = json.loads((GOLDEN / "2" / f"{name}.json").read_text("utf-8"))
    document["environment"]["clock"] = {"wall": "instructions", "instructions": "wall"}[
        document["environment"]["clock"]
    ]
    (tmp_path / "x.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(Usage, match="it has no meaning by the"):
        reading.read(str(tmp_path / "x.json"))


def test_the_units_of_a_document_are_the_registrys() -> None:
    for path in PUBLISHED:
        document = reading.read(str(path))
        if isinstance(document, Result):
            named = {name for trial in document.trials for name in trial.figures}
            assert document.units == {name: each.unit for name, each in METRICS.items() if name in named}
        else:
            assert isinstance(document, Matrix)
