"""Each term of docs/glossary.md is defined in the place that it names, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest

from tests.unit.test_layers import MODULES, ROOT, dotted

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `([\w.]+)` \|$", GLOSSARY, re.MULTILINE)
SEVERAL = {"measure", "observe", "demand"}
"""One act at several levels: `bench.api` hands on to what measures and observes; each `demand` raises or returns."""


def _definitions() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return where classes and types, and public functions and methods, are defined, by name without underscores."""
    classes, functions = defaultdict(list), defaultdict(list)
    for path in MODULES:
        tree = ast.parse((ROOT / path).read_text())
        for each in tree.body:  # a type has a name like a class
            if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                name = each.targets[0].id
                if re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", name):
                    classes[name.lstrip("_")].append(f"{dotted(path)}.{name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name.lstrip("_")].append(f"{dotted(path)}.{node.name}")
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                functions[node.name].append(f"{dotted(path)}.{node.name}")
    return classes, functions


CLASSES, FUNCTIONS = _definitions()


def test_the_name_of_a_class_or_a_type_is_defined_once() -> None:
    assert {name: found for name, found in CLASSES.items() if len(found) > 1} == {}


@pytest.mark.parametrize(("term", "meaning", "definition"), ROWS)
def test_a_term_is_defined_where_the_glossary_says(term: str, meaning: str, definition: str) -> None:
    name = definition.rpartition(".")[2]
    found = CLASSES.get(name, []) + FUNCTIONS.get(name, [])
    assert definition in found
    assert len(found) == 1 or name in SEVERAL
    assert meaning.endswith((".", ")")), "a meaning is a sentence"


@pytest.mark.parametrize("noun", ["prepare", "check", "host", "workload", "placement", "container", "fabric"])
def test_what_a_noun_names_is_no_other_functions_name(noun: str) -> None:
    """`check` enters a check, and `placement` tells a plane's: no other functions may have the names."""
    of_a_plane = ["bench.report.model.placement", "dataplanes.catalog.placement"]
    allowed = {"check": ["scenarios.checks.check"], "placement": of_a_plane}
    assert sorted(FUNCTIONS.get(noun, [])) == allowed.get(noun, [])


def test_the_glossary_has_a_row_for_every_term_the_tests_name() -> None:
    told = {name for term, _, _ in ROWS for name in term.removeprefix("to ").split(", ")}
    assert {"check", "workload", "host", "placement", "container", "fabric", "settle", "prepare", "read"} <= told
