"""`bench history`: the figures and the semantics of many documents, in the order of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import cells, compare, gate
from bench.analysis.intervals import interval
from bench.analysis.steps import splits
from bench.documents import Matrix, MatrixCell, Result, reading
from bench.documents.agreement import NOISE
from bench.documents.comparison import Verdict
from bench.documents.history import CellHistory, HeldSemantics, History, HistoryDocument, LevelChange, Trend, TrendPoint
from bench.documents.metrics import METRICS, units
from bench.documents.workloads import WORKLOADS
from dataplanes.errors import Usage
from scenarios.axes import Axes

NamedDocument = tuple[str, Result | Matrix]
"""A document with its name."""
_TrendKey = tuple[str, str, str, str, Axes, str, str]
"""The kernel, the clock, the scenario, the workload, the point, the plane and the metric of a trend."""


def folder(directory: str) -> list[NamedDocument]:
    """Read the results and matrices of a folder, in the order of their names, of which numbers count as numbers.

    Documents of other kinds are left out. Raises Usage if one cannot be read, or if there is none.
    """
    paths = sorted(Path(directory).rglob("*.json"), key=lambda path: _natural(str(path.relative_to(directory))))
    found = [(str(path.relative_to(directory)), reading.read(str(path))) for path in paths if reading.held(str(path))]
    if not found:
        raise Usage("no result and no matrix", where=directory, fix="give a folder with what -o x.json wrote")
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d{1,18})", name) if part]


def history(told: Sequence[NamedDocument], tool: dict[str, Any], metrics: Iterable[str] = ()) -> History:
    """Return the trends of the documents.

    By default the figures are each workload's rate and the cost of one operation.
    """
    trends = _trends([(name, each) for name, each in told if isinstance(each, Result)], frozenset(metrics))
    matrices = [(name, each) for name, each in told if isinstance(each, Matrix)]
    changes = _changes(matrices)
    verdict = _verdict([name for name, _ in told], trends, changes)
    listed = [_listed(name, each) for name, each in told]
    named = units(trend.metric for trend in trends)
    return History(tool, listed, trends, _held(matrices), changes, verdict, named)


def _listed(name: str, document: Result | Matrix) -> HistoryDocument:
    facts = document.environment.values() if isinstance(document, Matrix) else [document.environment]
    names = document.environment if isinstance(document, Matrix) else [document.kernel()]
    kernels = {str(each): str(fact.get("kernel")) for each, fact in zip(names, facts, strict=True)}
    told = {key: str(document.tool.get(key, "")) for key in ("revision", "version")}
    return HistoryDocument(name, "matrix" if isinstance(document, Matrix) else "result", **told, kernels=kernels)


# -- figures -----------------------------------------------------------------------------------------------------------


def _trends(results: Sequence[tuple[str, Result]], metrics: frozenset[str]) -> list[Trend]:
    series: dict[_TrendKey, dict[str, list[float]]] = {}
    for name, result in results:
        scenario = ", ".join(sorted({trial.scenario for trial in result.trials}))
        clock = str(result.environment["clock"])
        for (workload, axes, plane, metric), values in compare.figures(result).items():
            if metric in (metrics or {WORKLOADS[workload].primary, *WORKLOADS[workload].costs}):
                key = (result.kernel(), clock, scenario, workload, axes, plane, metric)
                series.setdefault(key, {})[name] = values
    documents = dict(results)
    return [_trend(key, found, documents) for key, found in series.items()]


def _trend(key: _TrendKey, found: Mapping[str, list[float]], documents: Mapping[str, Result]) -> Trend:
    names, rounds = [*found], [*found.values()]
    noise, higher = NOISE.get(key[1], 0.03), METRICS[key[-1]].better == "higher"
    levels = splits(rounds, noise)
    bounds = [0, *(each.at for each in levels), len(rounds)]
    steps = []
    for number, split in enumerate(levels):
        before, after = (
            float(np.median([value for each in rounds[bounds[n] : bounds[n + 1]] for value in each]))
            for n in (number, number + 1)
        )
        verdict: Verdict = "better" if (after > before) is higher else "worse"
        differs = gate.differing(*(documents[names[split.at - back]] for back in (1, 0)))
        ratio = after / before if before else None
        steps.append(LevelChange(names[split.at], before, after, ratio, verdict, split.p, differs))
    points = [TrendPoint(name, len(values), interval(values)) for name, values in found.items()]
    return Trend(*key, points=points, steps=steps)  # type: ignore[arg-type]  # a document's clock was checked


# -- semantics ---------------------------------------------------------------------------------------------------------


def _held(matrices: Sequence[tuple[str, Matrix]]) -> list[HeldSemantics]:
    found: dict[tuple[str, str], HeldSemantics] = {}
    for name, matrix in matrices:
        for cell in matrix.cells:
            held = found.setdefault((cell.kernel, cell.dataplane), HeldSemantics(cell.kernel, cell.dataplane, {}))
            passed, observed = held.points.get(name, (0, 0))
            held.points[name] = (passed + (cell.outcome == "pass"), observed + (cell.outcome in ("pass", "fail")))
    return list(found.values())


def _changes(matrices: Sequence[tuple[str, Matrix]]) -> list[CellHistory]:
    """Compare each cell with the last one before it in its scenario, which need not be in the document before."""
    lasts: dict[str, dict[cells.CellKey, MatrixCell]] = {}
    found = []
    for name, matrix in matrices:
        last = lasts.setdefault(matrix.scenario(), {})
        before = Matrix({}, {}, {}, list(last.values()))
        changed = [each for each in cells.compared(before, matrix)[0] if each.what != "detail"]
        if changed:
            found.append(CellHistory(name, changed))
        last.update(cells.by_key(matrix))
    return found


def _verdict(documents: Sequence[str], trends: Sequence[Trend], changes: Sequence[CellHistory]) -> str:
    steps = [(each.document, f"{trend.name()} is {each.verdict}") for trend in trends for each in trend.steps]
    steps += [(each.document, f"{cell.name()} is {cell.what}") for each in changes for cell in each.changes]
    told = f"{len(documents)} documents, {len(trends)} figures"
    if not steps:
        return f"{told}: no change"
    newest, what = max(steps, key=lambda step: documents.index(step[0]))
    counted = "1 change" if len(steps) == 1 else f"{len(steps)} changes, the newest"
    return f"{told}: {counted}: {what} from {newest} on"
