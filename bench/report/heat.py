"""The matrix of the page: a map by theme with a cell per check and plane, and under it what was seen, and why.

What several planes have in common is told once.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench.documents import MatrixCell
from bench.report import looks
from bench.report.model import Report
from bench.report.questions import place
from scenarios.clauses import level

WORDS = {"pass": "holds", "fail": "does not hold", "skip": "does not apply", "error": "not observed"}
"""Outcome -> its words."""


class Column(Struct, frozen=True):
    """A placement, and its planes in the order of the map."""

    key: str  # of its colour
    words: str
    planes: list[str]


class SeenOn(Struct, frozen=True):
    """What was seen on some planes: an outcome, and a line for each kernel, or one for all kernels.

    The largest group has no names if the check was observed on all planes: it is every other plane.
    """

    outcome: str
    words: str
    planes: list[str]
    lines: list[str]


class CheckRow(Struct, frozen=True):
    """A check: its cells by plane, and what was seen."""

    check: str
    statement: str
    level: str
    differs: bool
    cells: list[tuple[str, str]]  # class and words; ("", "") where nothing was observed
    seen: list[SeenOn]
    ways: list[tuple[str, str]]  # plane and kernel of a cell that is not as expected, and the story of its packets


class Theme(Struct, frozen=True):
    """The checks of one theme."""

    name: str
    rows: list[CheckRow]


def columns(report: Report) -> list[Column]:
    """Return the observed planes by placement."""
    observed = {cell.dataplane for cell in report.cells()}
    grouped: dict[str, list[str]] = {key: [] for key in looks.COLOURS}
    for plane in (each for each in report.planes() if each in observed):
        grouped[looks.colour(report, plane)].append(plane)
    words = {key: "other" if key == looks.OTHER else place(key) for key in grouped}
    return [Column(key, words[key], planes) for key, planes in grouped.items() if planes]


def themes(report: Report) -> list[Theme]:
    """Return every check with its cells in the order of `columns`."""
    planes = [plane for column in columns(report) for plane in column.planes]
    found: dict[str, list[CheckRow]] = {}
    for check, statement in report.checks().items():
        found.setdefault(check.partition(".")[0], []).append(_row(report, check, statement, planes))
    return [Theme(name, rows) for name, rows in found.items()]


def _row(report: Report, check: str, statement: str, planes: Sequence[str]) -> CheckRow:
    observed = {
        plane: [cell for kernel in report.kernels() if (cell := report.cell(kernel, plane, check))] for plane in planes
    }
    outcomes = {cell.outcome for cells in observed.values() for cell in cells} - {"skip"}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for plane, cells in observed.items():
        if cells:
            groups.setdefault((_outcome(cells), _lines(cells)), []).append(plane)
    order = ["error", "mixed", "fail", "skip", "pass"]
    others = max(groups.values(), key=len) if len(groups) > 1 and all(observed.values()) else None
    seen = [
        SeenOn(outcome, _words(outcome), [] if names is others else names, list(lines))
        for (outcome, lines), names in groups.items()
    ]
    return CheckRow(
        check,
        statement,
        level(check),
        len(outcomes) > 1,
        [_cell(cells) for cells in observed.values()],
        sorted(seen, key=lambda each: order.index(each.outcome)),
        [
            (f"{each.dataplane} on {each.kernel}", each.trace)
            for cells in observed.values()
            for each in cells
            if each.trace
        ],
    )


def _outcome(cells: Sequence[MatrixCell]) -> str:
    outcomes = {cell.outcome for cell in cells}
    return outcomes.pop() if len(outcomes) == 1 else "mixed"


def _words(outcome: str) -> str:
    return WORDS.get(outcome, "differs by kernel")


def _cell(cells: Sequence[MatrixCell]) -> tuple[str, str]:
    if not cells:
        return "", ""
    outcome = _outcome(cells)
    if any(cell.outcome != cell.expected for cell in cells):
        return f"{outcome} odd", f"{_words(outcome)}, not as expected"
    return outcome, _words(outcome)


def _lines(cells: Sequence[MatrixCell]) -> tuple[str, ...]:
    """Return what was seen with its reason, once if it is the same on every kernel."""
    told = {cell.kernel: _line(cell) for cell in cells}
    if len({*told.values()}) == 1:
        return (next(iter(told.values())),)
    return tuple(f"{kernel}: {WORDS[cell.outcome]}: {told[kernel]}" for kernel, cell in zip(told, cells, strict=True))


def _line(cell: MatrixCell) -> str:
    reason = " ".join(filter(None, (cell.reason, f"[{cell.reference}]" if cell.reference else "")))
    odd = "" if cell.outcome == cell.expected else f" (expected: {WORDS[cell.expected]})"
    return cell.detail + odd + (f" ({reason})" if reason and cell.outcome != "pass" else "")
