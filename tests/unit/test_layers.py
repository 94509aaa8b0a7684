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
LAYERS = ("dataplanes", "scenarios", "bench")  # the lowest first
MODULES = sorted(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
LONGEST = 400  # lines, exclusive

# Each of these costs more to import than a whole trial takes where every instruction is emulated.
HEAVY = {"click", "jinja2", "numpy", "rich", "scipy"}


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute name) of everything that a module imports, at its top or inside a function."""
    package = path.parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *filter(None, [node.module])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def upward(path: Path, source: str) -> list[str]:
    """Return the imports of a module that point to a layer above its own, or to the tests."""
    forbidden = {*LAYERS[LAYERS.index(path.parts[0]) + 1 :], "tests"}
    return [f"{path}:{line} imports {name}" for line, name in imported(path, source) if name.split(".")[0] in forbidden]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    assert upward(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import bench",
        "import bench.cli.main as program",
        "from bench import load",
        "from scenarios.lab import Lab",
        "def late():\n    from bench.cli.main.main import main",
        "from .. import bench",
        "import tests.conftest",
    ],
)
def test_an_upward_import_is_seen(line: str) -> None:
    assert upward(Path("dataplanes/ipvs.py"), line)


FLOORS = (
    ("native",),
    ("load",),
    ("documents",),
    ("kernels", "analysis", "inside"),
    ("prepare", "report", "imports"),
    ("outside",),
    ("api",),
    ("cli",),
    ("start",),
    ("__main__",),
)
"""The rooms and modules of bench, the lowest first. Each imports only itself and what stands below it."""


def rooms_imported(path: Path) -> Iterator[str]:
    for line, name in imported(path, (ROOT / path).read_text()):
        room = name.split(".")[1] if name.startswith("bench.") else ""
        if room in {each for floor in FLOORS for each in floor}:
            yield room
        elif room and room != "__version__":
            raise AssertionError(f"{path}:{line} imports {name}, which has no floor")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "bench"], ids=str)
def test_the_rooms_of_bench_import_what_is_below_them(path: Path) -> None:
    own = path.parts[1].removesuffix(".py")
    if own == "__init__":
        return
    floor = next(number for number, floor in enumerate(FLOORS) if own in floor)
    below = {own, *(room for rooms in FLOORS[:floor] for room in rooms)}
    assert [room for room in rooms_imported(path) if room not in below] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[:2] == ("bench", "inside")], ids=str)
def test_the_inside_imports_only_what_is_lean(path: Path) -> None:
    assert set(rooms_imported(path)) <= {"inside", "documents", "load"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_is_named_as_a_module_of_the_standard_library(path: Path) -> None:
    assert path.stem.startswith("__") or path.stem not in sys.stdlib_module_names


def test_the_kernel_wrappers_know_nothing_of_data_planes() -> None:
    """dataplanes.kernel is the lowest part of the lowest layer. Of the rest it uses only the errors."""
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
    """Import everything that a guest runs in a fresh interpreter, and list what was imported with it."""
    names = ["bench.inside.main", *(dotted(path) for path in MODULES if path.parts[0] != "bench")]
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
