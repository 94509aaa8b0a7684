"""The model of a report: documents that are read and joined by data plane. It has no presentation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.documents import Held, Interval, Matrix, MatrixCell, Result, Summary, reading
from bench.documents.metrics import Clock
from bench.documents.overview import SHOWN, Answer, Curve, PlaneOverview
from bench.documents.workloads import WORKLOADS
from dataplanes import catalog
from dataplanes.errors import Usage
from dataplanes.selection import split
from scenarios.axes import Axes

REFERENCE = "ipvs-container"
"""The reference for "the same effect": the plane of the article."""

PUBLISHED = Path(__file__).resolve().parents[2] / "results"
"""The data set of this checkout."""

PLACES = ("container", "lb", "overlay", "host")
"""The kinds of namespaces."""

_ENTRIES = {"conntrack entries", "ipvs connections", "bpf map flows"}

_OBSERVED = {"pass", "fail"}


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """The questions of somebody who chooses a plane, and the checks that answer them."""

    name: str
    asks: str
    checks: list[str]
    situation: str


class _Questions(Struct):
    question: list[Question]


QUESTIONS = msgspec.toml.decode((Path(__file__).parent / "questions.toml").read_text("utf-8"), type=_Questions).question


class State(Struct, frozen=True):
    """The sum over all namespaces of a kind: the plane's objects and the connection entries."""

    objects: int
    entries: int
    bytes: int  # of the entries and the objects, if the kernel tells them


class Report:
    """Documents, and what follows from them together."""

    def __init__(self, results: Sequence[tuple[str, Result]], matrices: Sequence[tuple[str, Matrix]]) -> None:
        self.results = list(results)
        self.matrices = list(matrices)
        self._cells: dict[tuple[str, str, str], MatrixCell] = {}
        for _, matrix in matrices:
            for cell in matrix.cells:
                self._cells[cell.kernel, cell.dataplane, cell.check] = cell

    # -- contents ------------------------------------------------------------------------------------------------------

    def planes(self) -> list[str]:
        """Return every plane in the documents: in the catalog's order, and then variants."""
        found = [row.dataplane for _, result in self.results for row in result.summary]
        found += [cell.dataplane for cell in self._cells.values()]
        order = catalog.names()
        known = {
            name: (order.index(plane) if plane in order else len(order)) for name in found for plane, _ in [split(name)]
        }
        return sorted(known, key=lambda name: (known[name], name))

    def placement(self, name: str) -> str:
        """Return the placement of a plane by the documents.

        Those of 0.1 do not tell it: their planes are in the catalog.
        """
        plans = [*(result.plan for _, result in self.results), *(matrix.plan for _, matrix in self.matrices)]
        told = [each for plan in plans for each in plan.get("dataplanes", []) if each["name"] == name]
        found = next((each["placement"] for each in told if each.get("placement")), "")
        plane, _ = split(name)
        return found or (catalog.placement(plane) if plane in catalog.names() else "") or "unknown"

    def kernels(self) -> list[str]:
        """Return the kernels of the matrices."""
        return list(dict.fromkeys(kernel for kernel, _, _ in self._cells))

    def checks(self) -> dict[str, str]:
        """Return every check with its statement, in order."""
        return {
            each["name"]: each.get("statement", "") for _, matrix in self.matrices for each in matrix.plan["checks"]
        }

    def cell(self, kernel: str, plane: str, check: str) -> MatrixCell | None:
        """Return a cell of the matrix, or None."""
        return self._cells.get((kernel, plane, check))

    def cells(self) -> list[MatrixCell]:
        """Return all cells."""
        return list(self._cells.values())

    def warnings(self) -> list[str]:
        """Return the warnings of the runs, and what the matrices could not observe."""
        warned = [f"{name}: {each}" for name, result in self.results for each in result.warnings]
        return warned + [f"not observed: {each}" for each in self.unobserved()]

    def unobserved(self) -> list[str]:
        """Return the cells that ended in an error, and so say nothing about their plane."""
        return [
            f"{cell.dataplane} {cell.check} on {cell.kernel}: {cell.detail}"
            for cell in self._cells.values()
            if cell.outcome == "error"
        ]

    # -- figures -----------------------------------------------------------------------------------------------------

    def rows(self, workload: str, at: Axes | None = None) -> dict[str, tuple[Summary, str]]:
        """Return, per plane, the summary of a workload at a point, and its clock.

        By default the point is the scenario's own.
        """
        found: dict[str, tuple[Summary, str]] = {}
        for _, result in self.results:
            for row in result.summary:
                if row.workload == workload and row.n and row.axes == (at or Axes()):
                    found.setdefault(row.dataplane, (row, str(result.environment["clock"])))
        return {name: found[name] for name in self.planes() if name in found}

    def workloads(self) -> list[tuple[str, Axes]]:
        """Return every workload and point with figures."""
        return list(dict.fromkeys((row.workload, row.axes) for _, result in self.results for row in result.summary))

    def curves(self) -> list[Curve]:
        """Return every metric that has figures at two or more points of one axis, with the other axes equal."""
        found: dict[tuple[str, str, str, Clock, Axes], dict[str, dict[int, Interval]]] = {}
        for _, result in self.results:
            clock: Clock = result.environment["clock"]
            for row in result.summary:
                for axis in Axes.__struct_fields__:
                    rest = msgspec.structs.replace(row.axes, **{axis: getattr(Axes(), axis)})
                    for metric, value in row.figures.items():
                        curve = found.setdefault((row.workload, metric, axis, clock, rest), {})
                        curve.setdefault(row.dataplane, {})[getattr(row.axes, axis)] = value
        made = []
        for (workload, metric, axis, clock, _), planes in found.items():
            lines = {name: sorted(points.items()) for name, points in planes.items() if len(points) > 1}
            if lines and metric in _drawn(workload):
                made.append(Curve(workload, metric, axis, clock, {n: lines[n] for n in self.planes() if n in lines}))
        return made

    def parts(self) -> dict[str, dict[str, float]]:
        """Return, per plane, the profiled cost of a connection in each part of the kernel.

        The largest part of all comes first.
        """
        found: dict[str, dict[str, float]] = {}
        for _, result in self.results:
            costs = {
                row.dataplane: _cost(row) for row in result.summary if row.workload == "crr" and row.axes == Axes()
            }
            for trial in result.trials:
                cost = costs.get(trial.dataplane)
                if trial.profile and trial.workload == "crr" and trial.axes == Axes() and cost:
                    shares = {name: share * cost.value for name, share in trial.profile.parts.items()}
                    found.setdefault(trial.dataplane, shares)
        total: Counter[str] = Counter()
        for costs_of in found.values():
            total.update(costs_of)
        order = [name for name, _ in total.most_common()]
        return {name: {part: found[name].get(part, 0.0) for part in order} for name in self.planes() if name in found}

    def states(self) -> dict[str, dict[str, State]]:
        """Return, per plane and kind of namespace, the kernel state after a round of `crr`."""
        found: dict[str, dict[str, State]] = {}
        for _, result in self.results:
            for trial in result.trials:
                if (
                    trial.held
                    and not trial.warmup
                    and (trial.workload, trial.axes) == ("crr", Axes())
                    and trial.dataplane not in found
                ):
                    found[trial.dataplane] = {place: _state(trial.held, place) for place in PLACES}
        return {name: found[name] for name in self.planes() if name in found}

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def against_reference(self, plane: str) -> tuple[list[str], list[str], list[str]]:
        """Return three lists of checks: with the reference's outcome, holding only here, and holding only there.

        A check is in the first list if the outcomes agree on every kernel, and in the third if it holds only there on
        some kernel. All others are in the second.
        """
        signs: dict[str, set[int]] = {}
        for (kernel, name, check), cell in self._cells.items():
            reference = self.cell(kernel, REFERENCE, check)
            if name == plane and reference and {cell.outcome, reference.outcome} <= _OBSERVED:
                signs.setdefault(check, set()).add((cell.outcome == "pass") - (reference.outcome == "pass"))
        same = [check for check, found in signs.items() if found == {0}]
        less = [check for check, found in signs.items() if -1 in found]
        return same, [check for check in signs if check not in (*same, *less)], less

    def answer(self, plane: str, question: Question) -> Answer:
        """Return what the checks of a question say about a plane, on all kernels together."""
        outcomes = [
            cell.outcome == "pass"
            for (_, name, check), cell in self._cells.items()
            if name == plane and check in question.checks and cell.outcome in _OBSERVED
        ]
        if not outcomes:
            return ""
        return "yes" if all(outcomes) else "partly" if any(outcomes) else "no"

    def verdicts(self) -> list[PlaneOverview]:
        """Return one line per plane. `direct` comes first if it was measured."""
        rows, made = self.rows("crr"), []
        for name in self.planes():
            row, _ = rows.get(name, (None, ""))
            made.append(
                PlaneOverview(
                    name,
                    _summary(name),
                    row.ratio_to_direct if row else None,
                    {name: row.figures[name] for name in SHOWN if name in row.figures} if row else {},
                    *self.against_reference(name),
                    {question.name: self.answer(name, question) for question in QUESTIONS},
                )
            )
        return made


def _cost(row: Summary) -> Interval | None:
    """Return the cost of an operation: instructions, or CPU time by the wall clock."""
    return next((row.figures[name] for name in WORKLOADS[row.workload].costs if name in row.figures), None)


def _state(held: Sequence[Held], place: str) -> State:
    here = [each for each in held if each.place == place]
    entries = sum(each.objects for each in here if each.what in _ENTRIES)
    return State(sum(each.objects for each in here) - entries, entries, sum(each.bytes for each in here))


def _summary(name: str) -> str:
    """Return a plane's summary if it is known here: a document may have planes of a package that is not installed."""
    plane, _ = split(name)
    return catalog.summary(plane) if plane in catalog.names() else ""


def _drawn(workload: str) -> set[str]:
    """Return True if the metric deserves a curve."""
    known = WORKLOADS[workload]
    more = {"conntrack_entries", "kthreads", "bytes", "install_ms"}
    return {*known.shown, *more} - {"connect_p50_us", "retransmits", "changes"}


def published() -> list[str]:
    """Return the documents that come with the program. Raises Usage if it was installed without them."""
    found = sorted(str(path) for path in PUBLISHED.glob("*.json"))
    if not found:
        raise Usage("no published documents here", fix="name documents of `bench run -o` and `bench matrix -o`")
    return found


def load(paths: Sequence[str]) -> Report:
    """Return a report of documents. Raises Usage for a file that is neither a result nor a matrix."""
    results, matrices = [], []
    for path in paths:
        found = reading.read(path)
        name = os.path.basename(path)
        if isinstance(found, Matrix):
            matrices.append((name, found))
        else:
            results.append((name, found))
    return Report(results, matrices)
