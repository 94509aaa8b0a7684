"""The JSON schemas of the documents, one for each kind and version. A test keeps the committed files up to date.

So are those of world files, of plane files, and of the documents of calls by protocol 1, which have the protocol's
number as version.

`python -m bench.documents.schema` writes them. Keywords of this project begin with `x-`: the unit of a number, and for
a figure also its better direction, the clocks by which it has a meaning, and its source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bench.documents import SCHEMA, MatrixCell
from bench.documents.comparison import Comparisons
from bench.documents.exploration import Exploration
from bench.documents.history import History
from bench.documents.metrics import METRICS
from bench.documents.overview import Overview
from bench.documents.parts import Environment, ExplorationPlan, MatrixPlan, ResultPlan, TracePlan, Writer
from bench.documents.prediction import Prediction
from bench.documents.reading import READ
from bench.documents.tracing import TraceDocument
from dataplanes.follower import Sighting
from dataplanes.plane_file import PlaneFile
from dataplanes.program import PROTOCOL, Call, CallAnswer
from scenarios.axes import Axes
from scenarios.document import LabDocument
from scenarios.expectations import OwnDifferences
from scenarios.world_file import VERSION as WORLD
from scenarios.world_file import WorldFile

Tree = dict[str, Any]
DIRECTORY = Path(__file__).parents[2] / "docs" / "schema"
DOCUMENTS: dict[tuple[str, int], Any] = {
    **{(kind, version): each for kind, versions in READ.items() for version, each in versions.items()},
    ("comparison", SCHEMA): Comparisons,
    ("exploration", SCHEMA): Exploration,
    ("prediction", SCHEMA): Prediction,
    ("history", SCHEMA): History,
    ("trace", SCHEMA): TraceDocument,
    ("report", SCHEMA): Overview,
    ("lab", SCHEMA): LabDocument,
    ("plane-file", PROTOCOL): PlaneFile,
    ("plane-call", PROTOCOL): Call,
    ("plane-answer", PROTOCOL): CallAnswer,
    ("plane-expected", PROTOCOL): OwnDifferences,
    ("world-file", WORLD): WorldFile,
}
"""By kind and version, the type of a document."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/{name}"
_PARTS: dict[str, dict[str, Any]] = {
    "Result": {"tool": Writer, "environment": Environment, "plan": ResultPlan},
    "Matrix": {"tool": Writer, "environment": dict[str, Environment], "plan": MatrixPlan},
    "Comparisons": {"tool": Writer},
    "Prediction": {"tool": Writer},
    "History": {"tool": Writer},
    "Exploration": {"tool": Writer, "environment": Environment, "plan": ExplorationPlan},
    "TraceDocument": {"tool": Writer, "environment": Environment, "plan": TracePlan},
}
"""The parts with a free form, and the types of the fields that readers look up in them."""


def path(kind: str, version: int) -> Path:
    """Return the file of a schema."""
    return DIRECTORY / str(version) / f"{kind}.schema.json"


def identifier(kind: str, version: int) -> str:
    """Return the `$id` of a schema. It is a name, and nothing is to be fetched from it."""
    return f"urn:vip-bench:schema:{version}:{kind}"


_ONLY_IF_KNOWN = {(MatrixCell.__name__, "trace")}
"""The fields, by their part, that are not written if there is nothing to tell."""
_SPARSE = {each.__name__ for each in (Axes, Sighting)}
"""The parts of which no field is written that has its default."""


def render(kind: str, version: int) -> str:
    """Return the schema of a document, as JSON."""
    made = msgspec.json.schema(DOCUMENTS[kind, version], ref_template=_REFERENCE)
    if version == SCHEMA:
        _complete(made)
    head = {"$schema": _DIALECT, "$id": identifier(kind, version), "title": f"vip-bench {kind}, schema {version}"}
    return msgspec.json.format(msgspec.json.encode(head | made), indent=1).decode() + "\n"


def _complete(made: Tree) -> None:
    """Add what the types do not tell: the parts with a free form, the figures, and that every field is written."""
    defined: Tree = made["$defs"]
    for name, each in defined.items():
        if name not in _SPARSE:
            each["required"] = [field for field in each["properties"] if (name, field) not in _ONLY_IF_KNOWN]
    _figures(defined)
    for name in [each for each in _PARTS if each in defined]:
        for field, kind in _PARTS[name].items():
            (part,), more = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
            defined[name]["properties"][field] = part
            defined.update(more)


def _figures(defined: Tree) -> None:
    """Give every figure its metric, and allow no other figure."""
    for each in defined.values():
        properties: Tree = each["properties"]
        if "figures" in properties:
            kind = properties["figures"]["additionalProperties"]
            told = {metric: kind | _told(metric) for metric in METRICS}
            properties["figures"] = {"type": "object", "properties": told, "additionalProperties": False}
        if "units" in properties:
            units = {metric: {"const": found.unit} for metric, found in METRICS.items()}
            properties["units"] = {"type": "object", "properties": units, "additionalProperties": False}


def _told(metric: str) -> Tree:
    found = METRICS[metric]
    return {
        "title": found.title,
        "description": found.source,
        "x-unit": found.unit,
        "x-better": found.better,
        "x-clocks": list(found.clocks),
    }


def write() -> None:
    """Write every schema."""
    for kind, version in DOCUMENTS:
        path(kind, version).parent.mkdir(parents=True, exist_ok=True)
        path(kind, version).write_text(render(kind, version), "utf-8")


if __name__ == "__main__":
    write()
