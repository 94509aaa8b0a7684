"""A figure has one name, from the generator's output to the page, and the registry tells everything about it."""

from __future__ import annotations

import ast
import json
import re

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.documents import metrics
from bench.documents.metrics import METRICS
from bench.documents.workloads import WORKLOADS
from tests.unit.test_layers import MODULES, ROOT

EARLIER = ROOT / "bench" / "documents" / "earlier.py"
"""It has the names of earlier documents."""
NAME = re.compile(
    r"(?!_)\w+(_p[\d.]+_us|_ms|_percent|_per_second|_per_kilobyte|_per_connection|_entries|_bytes)|\w+_us\.\w+"
)
WORK = {"asked_per_second"}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_a_unit_and_a_source(name: str) -> None:
    found = METRICS[name]
    assert found.title
    assert found.unit
    assert found.source
    for end, unit in {"_us": "µs", "_ms": "ms", "_percent": "%", "_bytes": "B", "_entries": "entries"}.items():
        assert not name.endswith(end) or found.unit == unit
    assert ("instructions" in name) == (found.unit == "instructions")
    assert "instructions" not in name or found.clocks == ("instructions",)


def test_a_title_and_a_unit_are_one_metrics() -> None:
    assert len({each.column() for each in METRICS.values()}) == len(METRICS)


def test_a_column_tells_its_unit_once() -> None:
    assert METRICS["connect_p50_us"].column() == "connect p50, µs"
    assert METRICS["cpu_us_per_connection"].column() == "CPU µs/conn"
    assert METRICS["connections_per_second"].column() == "connections/s"
    assert METRICS["megabits_per_second"].column() == "Mbit/s"


def test_a_workloads_cost_is_the_clocks() -> None:
    for each in WORKLOADS.values():
        assert set(each.shown) <= METRICS.keys()
        assert (each.cost("instructions"), each.cost("wall")) == each.costs
    assert WORKLOADS["stream"].costs == ("instructions_per_kilobyte", "cpu_us_per_kilobyte")


def test_what_is_wrong_with_a_figure_is_told() -> None:
    assert metrics.wrong("connect_us", "wall") == "there is no such metric"
    assert metrics.wrong("cpu_us_per_connection", "instructions") == "it has no meaning by the instructions clock"
    assert metrics.wrong("cpu_us_per_connection", "wall") == metrics.wrong("connect_p50_us", "instructions") == ""


def test_no_module_has_a_name_of_its_own_for_a_figure() -> None:
    """The trial called `connect_us.p50` what the table called `connect_p50_us`."""
    found = {
        (str(path), node.value)
        for path in MODULES
        if path.parts[0] == "bench" and ROOT / path != EARLIER
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
    }
    assert {name for _, name in found} - WORK <= METRICS.keys(), found
    assert len(found) > 30


def test_the_metrics_are_listed() -> None:
    done = CliRunner().invoke(main, ["list", "metrics", "--json"])
    rows = {row["name"]: row for row in json.loads(done.output)}
    assert list(rows) == list(METRICS)
    assert (rows["connect_p50_us"]["unit"], rows["connections_per_second"]["better"]) == ("µs", "higher")
    lines = CliRunner().invoke(main, ["list", "metrics"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(METRICS)


def test_the_page_has_every_metric() -> None:
    page = (ROOT / "docs" / "documents.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\S+_\S+|\w+)` \| (\S+) \| (higher|lower) \| ([\w, ]+) \| (.+) \|$", page, re.M)
    told = [
        (name, each.unit, each.better, "any" if len(each.clocks) == 2 else each.clocks[0], each.source)
        for name, each in METRICS.items()
    ]
    assert rows == told
