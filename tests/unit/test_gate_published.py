"""The gate on the published documents: what NEW lacks, loses or does slower is exit 1 and in the last line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.unit.conftest import Bench

DOCUMENTS = {
    name: (ROOT / "results" / path).read_bytes()
    for name, path in (("connections.json", "readme/first.json"), ("matrix.json", "matrix.json"))
}
RULE = ("--fail-on", "connections_per_second:-1%")
Document = dict[str, Any]
Compared = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compared(bench: Bench) -> Compared:
    """Compare the folders base and new in the present directory. Return the exit code, the last line and the output."""
    for side in ("base", "new"):
        Path(side).mkdir()
        for name, content in DOCUMENTS.items():
            Path(side, name).write_bytes(content)

    def compare(*options: str) -> tuple[int, str, str]:
        done = bench("compare", "base", "new", *RULE, *options)
        return done.exit_code, done.output.splitlines()[-1], done.output

    return compare


def changed(name: str, change: Callable[[Document], None]) -> None:
    path = Path("new", name)
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_the_same_documents_are_exit_0(compared: Compared) -> None:
    code, last, output = compared()
    assert (code, last[:4]) == (0, "ok: ")
    assert "┃" not in output, "nothing differs, and no table is shown"


def test_a_plane_that_is_missing_is_named(compared: Compared) -> None:
    def without(document: Document) -> None:
        for part in ("trials", "summary", "cells"):
            if part in document:
                document[part] = [each for each in document[part] if not each["dataplane"].startswith("ipvs-container")]

    changed("connections.json", without)
    assert compared()[:2] == (1, "FAILED: ipvs-container is not in new/connections.json")
    changed("matrix.json", without)
    code, last, output = compared()
    assert (code, last.partition(", and")[0]) == (1, "FAILED: ipvs-container is not in new/connections.json")
    assert "debian-6.12 ipvs-container@1.12.6-tweaked is not in new/matrix.json" in output


def test_a_clause_that_is_lost_is_named(compared: Compared) -> None:
    lost: list[str] = []

    def fail(document: Document) -> None:
        cell = next(each for each in document["cells"] if each["outcome"] == "pass")
        cell["outcome"] = "fail"
        lost.append(f"FAILED: {cell['kernel']} {cell['dataplane']} {cell['check']} pass -> fail: {cell['detail']}")

    changed("matrix.json", fail)
    assert compared()[:2] == (1, lost[0])


def test_a_plane_that_is_two_percent_slower_is_named(compared: Compared) -> None:
    def slower(document: Document) -> None:
        for trial in document["trials"]:
            if trial["dataplane"] == "ipvs-container":
                trial["figures"]["connections_per_second"] *= 0.98

    changed("connections.json", slower)
    code, last, _ = compared()
    assert (code, last[:57]) == (1, "FAILED: ipvs-container crr connections_per_second -2.0% [")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_new_lacks_fails_and_one_that_only_new_has_is_told(compared: Compared, name: str) -> None:
    Path("new", name).rename("kept")
    assert compared()[:2] == (1, f"FAILED: {name} is not in new")
    Path("kept").rename(f"new/{name}")
    Path("base", name).rename(f"base/{name}.bak")
    rule = () if name == "matrix.json" else ("--fail-on", "lost")
    code, last, output = compared(*rule)
    assert (code, last[:4], last.endswith(f"; only in new: {name}")) == (0, "ok: ", True), output
    assert f"only in new: {name}" in output.splitlines()[:-1]
    assert f"only in new: {name}" in compared(*rule, "--format", "github")[2]
    assert f"only in new: {name}" in compared(*rule, "--format", "markdown")[2]


def test_junit_has_a_case_for_each_cell_and_figure(compared: Compared) -> None:
    def odd(document: Document) -> None:
        document["cells"][0]["detail"] = "something else"

    changed("matrix.json", odd)
    code, *_ = compared("--format", "junit", "-o", "junit.xml")
    figures, cells = ET.fromstring(Path("junit.xml").read_bytes())
    assert (code, len(cells)) == (0, len(json.loads(DOCUMENTS["matrix.json"])["cells"]))
    assert [int(each.get("tests", "")) for each in (figures, cells)] == [len(figures), len(cells)]
    said = [(case.findtext("system-out") or "").partition(":")[0] for case in cells]
    assert (said.count("same"), said.count("detail")) == (len(cells) - 1, 1)
    assert len({(case.get("classname"), case.get("name")) for case in cells}) == len(cells)
    assert "same" in {(case.findtext("system-out") or "").partition(":")[0] for case in figures}
