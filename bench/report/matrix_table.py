"""The matrix for a person: on a terminal, as Markdown, and as JUnit for CI."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.documents import Matrix, MatrixCell
from bench.report.terminal import console
from dataplanes.texts import clean
from dataplanes.texts import markdown as told

MARKS = {"pass": "●", "fail": "○", "skip": "-", "error": "E"}
"""Outcome -> the character that stands for it in every table."""
_LEGEND = "● holds   ○ does not, as expected   - not applicable   ! not as expected (E: error)"


def mark(cell: MatrixCell) -> str:
    """Return the one or two characters of a cell."""
    return MARKS[cell.outcome] + ("" if cell.outcome == cell.expected else "!")


WIDTH = 160
"""The width if there is no terminal."""


def render(matrix: Matrix) -> RenderableType:
    """Return a table per kernel, the counts, the cells that are not as expected, and the verdict in the last line."""
    tables = [_table(matrix, kernel) for kernel in matrix.environment]
    return Group(*tables, Text(_LEGEND, style="dim"), *map(Text, summary(matrix)), Text(verdict(matrix)))


def show(matrix: Matrix) -> None:
    """Print the matrix on stdout."""
    console(WIDTH).print(render(matrix))


def _table(matrix: Matrix, kernel: str) -> Table:
    names = columns(matrix)
    table = Table(title=f"{kernel} ({matrix.environment[kernel]['kernel']})", title_justify="left")
    table.add_column("check", no_wrap=True)
    for name in names:
        table.add_column(name.replace("-", "-\n", 1), justify="center")
    for check, cells in _rows(matrix, kernel):
        table.add_row(check, *(_styled(cells.get(name)) for name in names))
    return table


def _styled(cell: MatrixCell | None) -> Text:
    if cell is None:
        return Text("")
    style = (
        "bold red" if cell.outcome != cell.expected else {"pass": "green", "fail": "yellow"}.get(cell.outcome, "dim")
    )
    return Text(mark(cell), style=style)


def columns(matrix: Matrix) -> list[str]:
    """Return the planes in the order in which they were asked for."""
    return [each["name"] for each in matrix.plan["dataplanes"]]


def _rows(matrix: Matrix, kernel: str) -> Iterable[tuple[str, dict[str, MatrixCell]]]:
    for check in matrix.plan["checks"]:
        found = [cell for cell in matrix.cells if (cell.kernel, cell.check) == (kernel, check["name"])]
        yield check["name"], {cell.dataplane: cell for cell in found}


def summary(matrix: Matrix) -> list[str]:
    """Return the counts, and then each cell that is not as expected with what was seen."""
    odd = [cell for cell in matrix.cells if cell.outcome != cell.expected]
    counts = {outcome: sum(1 for cell in matrix.cells if cell.outcome == outcome) for outcome in MARKS}
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    cells = "1 cell" if len(matrix.cells) == 1 else f"{len(matrix.cells)} cells"
    lines = [f"{cells}: {counted}; {len(odd)} not as expected"]
    for cell in odd:
        lines.append(
            f"! {cell.kernel} {cell.dataplane} {cell.check}: {cell.outcome}, expected {cell.expected}: {cell.detail}"
        )
    return lines


def verdict(matrix: Matrix) -> str:
    """Return `ok: ...` with how many semantics do not hold on each plane, or `FAILED: ...` with the first odd cell."""
    odd = [cell for cell in matrix.cells if cell.outcome != cell.expected]
    if odd:
        more = f", and {len(odd) - 1} more" if odd[1:] else ""
        first = odd[0]
        return f"FAILED: {first.kernel} {first.dataplane} {first.check} is {first.outcome}: {first.detail}{more}"
    failed = {
        name: {c.check for c in matrix.cells if (c.dataplane, c.outcome) == (name, "fail")} for name in columns(matrix)
    }
    told = ", ".join(f"{name} {len(checks)}" for name, checks in failed.items() if checks)
    return f"ok: every outcome is as expected; semantics that do not hold: {told or 'none'}"


def markdown(matrix: Matrix) -> str:
    """Return the tables, and the reasons of every expected difference."""
    names = columns(matrix)
    parts = ["# Correctness matrix", "", _LEGEND, ""]
    for kernel, environment in matrix.environment.items():
        parts += [
            f"## {told(kernel)} ({told(environment['kernel'])})",
            "",
            f"| check | {' | '.join(map(told, names))} |",
        ]
        parts.append("|---" * (len(names) + 1) + "|")
        for check, cells in _rows(matrix, kernel):
            marks = (mark(cells[name]) if name in cells else "" for name in names)
            parts.append(f"| {told(check)} | {' | '.join(marks)} |")
        parts.append("")
    parts += ["## Differences and their reasons", ""]
    parts += [f"- {told(line)}" for line in differences(matrix.cells)]
    parts += ["", "## What was seen", "", *(f"- {told(line)}" for line in summary(matrix)), ""]
    return "\n".join(parts)


def differences(cells: Sequence[MatrixCell]) -> list[str]:
    """Return each expected difference once: the check, its planes, the reason and its reference."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.expected == "fail" and cell.outcome == "fail":
            grouped.setdefault((cell.check, cell.reason, cell.reference), []).append(cell.dataplane)
    return [
        f"**{check}** does not hold on {', '.join(dict.fromkeys(planes))}: {reason}" + (f" ({where})" if where else "")
        for (check, reason, where), planes in grouped.items()
    ]


def junit(matrix: Matrix) -> bytes:
    """Return JUnit XML: a suite per kernel and plane.

    A cell that is not as expected is a failure, and an error is an error.
    """
    root = ET.Element("testsuites", name="bench matrix")
    for kernel in matrix.environment:
        for plane in columns(matrix):
            cells = [cell for cell in matrix.cells if (cell.kernel, cell.dataplane) == (kernel, plane)]
            failed = sum(1 for cell in cells if cell.outcome not in (cell.expected, "error"))
            counts = {
                "tests": len(cells),
                "failures": failed,
                "errors": sum(1 for cell in cells if cell.outcome == "error"),
                "skipped": sum(1 for cell in cells if cell.outcome == cell.expected == "skip"),
            }
            suite = ET.SubElement(root, "testsuite", {"name": clean(f"{kernel}.{plane}")})
            for key, count in counts.items():
                suite.set(key, str(count))
            for cell in cells:
                _case(suite, cell)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _case(suite: ET.Element, cell: MatrixCell) -> None:
    name, detail = clean(f"{cell.kernel}.{cell.dataplane}"), clean(cell.detail)  # XML has no control characters
    case = ET.SubElement(suite, "testcase", classname=name, name=clean(cell.check), time=f"{cell.seconds:.3f}")
    if cell.outcome == "error":
        ET.SubElement(case, "error", message=detail)
    elif cell.outcome != cell.expected:
        ET.SubElement(case, "failure", message=f"{cell.outcome}, expected {cell.expected}: {detail}")
    elif cell.outcome == "skip":
        ET.SubElement(case, "skipped", message=detail)
    ET.SubElement(case, "system-out").text = f"{cell.outcome}: {detail}" + (
        f" [{clean(cell.reason)}]" if cell.reason else ""
    )
