"""The promises of design section 2: imports point downwards, modules stay small, the guest's part is lean."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("dataplanes", "scenarios", "bench")  # lowest first
MODULES = sorted(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
LONGEST = 400  # lines, exclusive

# Each costs more to import than a whole trial takes where every instruction is emulated.
HEAVY = {"click", "jinja2", "matplotlib", "numpy", "rich", "scipy"}


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything a module imports, at its top or inside a function."""
    package = path.parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *filter(None, [node.module])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def upward(path: Path, source: str) -> list[str]:
    """The imports of a module that point to a layer above its own, or to the tests."""
    forbidden = {*LAYERS[LAYERS.index(path.parts[0]) + 1 :], "tests"}
    return [f"{path}:{line} imports {name}" for line, name in imported(path, source) if name.split(".")[0] in forbidden]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    assert upward(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import bench",
        "import bench.cli as program",
        "from bench import load",
        "from scenarios.lab import Lab",
        "def late():\n    from bench.cli import main",
        "from .. import bench",
        "import tests.conftest",
    ],
)
def test_an_upward_import_is_seen(line: str) -> None:
    assert upward(Path("dataplanes/ipvs.py"), line)


def test_the_kernel_wrappers_know_nothing_of_data_planes() -> None:
    """dataplanes.kernel is the lowest part of the lowest layer: of the rest it uses the errors only."""
    found = [
        f"{path}:{line} imports {name}"
        for path in MODULES
        if path.is_relative_to("dataplanes/kernel")
        for line, name in imported(path, (ROOT / path).read_text())
        if name.startswith("dataplanes.") and not name.startswith(("dataplanes.kernel", "dataplanes.errors"))
    ]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_stay_small(path: Path) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines < LONGEST, f"{path} has {lines} lines: it holds more than one idea"


def test_what_runs_in_the_guest_imports_nothing_heavy() -> None:
    """Imports, in a fresh interpreter, everything a guest runs, and looks at what came along."""
    names = ["bench.inside", *(dotted(path) for path in MODULES if path.parts[0] != "bench")]
    program = f"""
import importlib, json, sys
came_with = {{}}
for name in {names!r}:
    importlib.import_module(name)
    for heavy in {HEAVY!r} & sys.modules.keys() - came_with.keys():
        came_with[heavy] = name
print(json.dumps(came_with))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
