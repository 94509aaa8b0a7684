"""Tell how many of the faults that mutmut put into each module the unit tests found, and which they did not find.

    python -m tests.mutants

reads the directory that `mutmut run` leaves behind. A fault is found if a test fails or takes too long.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

MUTANTS = Path("mutants")
_SURVIVED, _UNTESTED = 0, 33
"""mutmut's exit codes of a mutant that no test noticed, and of one that no test reaches."""


def codes(meta: Path) -> dict[str, int]:
    """Return the exit codes of a module's mutants that were tried, by their names in the module."""
    found = json.loads(meta.read_bytes())["exit_code_by_key"]
    return {name.rpartition(".")[2]: code for name, code in found.items() if code is not None}


def functions(source: str) -> dict[str, list[str]]:
    """Return the lines of each function in a mutated module: of the original ones, and of every mutant."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lines = source.splitlines()
    return {node.name: [line.strip() for line in lines[node.lineno : node.end_lineno]] for node in nodes}


def differences(name: str, known: Mapping[str, list[str]]) -> Iterator[str]:
    """Return the lines of a function that a mutant changes, with - and +."""
    original = known[re.sub(r"_\d+$", "_orig", name)]
    for line in difflib.unified_diff(original, known[name], lineterm="", n=0):
        if not line.startswith(("---", "+++", "@@")):
            yield f"  {line[0]} {line[1:]}"


def main() -> None:
    """Print each fault that was not found, and then a line for each module."""
    scores = []
    for meta in sorted(MUTANTS.rglob("*.meta")):
        module = meta.with_suffix("")
        tried, known = codes(meta), functions(module.read_text("utf-8"))
        left = [name for name, code in tried.items() if code in (_SURVIVED, _UNTESTED)]
        for name in left:
            print(f"{module.relative_to(MUTANTS)}: {name}", *differences(name, known), sep="\n")
        found = len(tried) - len(left)
        scores.append(f"{module.relative_to(MUTANTS)}: {found} of {len(tried)} found, {found / max(len(tried), 1):.1%}")
    print(*scores, sep="\n")


if __name__ == "__main__":
    main()
