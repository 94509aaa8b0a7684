"""The model of a report: documents that are read and joined by data plane. It has no presentation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from bench.documents import Held, Interval, Matrix, MatrixCell, Result, Summary, Trial, reading
from bench.documents.metrics import Clock
from bench.documents.overview import SHOWN, Answer, Curve, PlaneOverview
from bench.documents.parts import Named
from bench.documents.workloads import WORKLOADS
from bench.report.questions import QUESTIONS, REFERENCE, Question
from dataplanes import catalog
from dataplanes.errors import Usage
from dataplanes.selection import DIRECT, split, title
from scenarios.axes import Axes

PUBLISHED = Path(__file__).resolve().parents[2] / "results"
"""The data set of this checkout."""

PLACES = ("container", "lb", "overlay", "host")
"""The kinds of namespaces."""

_ENTRIES = {"conntrack entries", "connection entries", "ipvs connections", "bpf map flows"}

_OBSERVED = {"pass", "fail"}
_COMPARED = ({"pass"}, {"fail"}, {"pass", "fail"}, {"pass", "skip"})
"""The outcomes of two planes that can be compared: one is skipped if it does not apply to the plane."""


class State(Struct, frozen=True):
    """The sum over all namespaces of a kind: the plane's objects and the connection entries."""

    objects: int
    entries: int
    bytes: int  # of the entries and the objects, if the kernel tells them


class Side(Struct, frozen=True):
    """What one run tells of connections by one clock: its environment, and by plane the rates and the profiles.

    Rates are ratios to `direct`. A profile has the shares of the kernel's parts.
    """

    environment: dict[str, Any]
    rates: dict[str, Interval]
    profiles: dict[str, dict[str, float]]


class Report:
    """Documents, and what follows from them together.

    A plane is named with its variant, whether or not the user named the variant. So documents are joined by what they
    measured, and a figure keeps its name if another variant becomes the default.
    """

    def __init__(self, results: Sequence[tuple[str, Result]], matrices: Sequence[tuple[str, Matrix]]) -> None:
        self.results = list(results)
        self.matrices = list(matrices)
        self._told: dict[str, Named] = {}
        self._measured: list[tuple[Result, list[Summary], list[Trial]]] = []
        self._cells: dict[tuple[str, str, str], MatrixCell] = {}
        for _, result in results:
            titles = self._titles(result.plan)
            self._measured.append((result, _titled(result.summary, titles), _titled(result.trials, titles)))
        for _, matrix in matrices:
            for cell in _titled(matrix.cells, self._titles(matrix.plan)):
                self._cells[cell.kernel, cell.dataplane, cell.check] = cell

    def _titles(self, plan: dict[str, Any]) -> dict[str, str]:
        """Return the titles of a document's planes by their names there, and remember what it tells of each."""
        told = msgspec.convert(plan.get("dataplanes", []), list[Named])
        titles = {each.name: title(each.name, each.dataplane, each.variant) for each in told}
        for each in told:
            self._told.setdefault(titles[each.name], each)
        return titles

    # -- contents ------------------------------------------------------------------------------------------------------

    def planes(self) -> list[str]:
        """Return every plane in the documents: in the catalog's order, and then variants."""
        return list(self._planes)

    @cached_property
    def _planes(self) -> list[str]:
        found = {row.dataplane for _, rows, _ in self._measured for row in rows}
        found |= {cell.dataplane for cell in self._cells.values()}
        order = catalog.names()
        known = {
            name: (order.index(plane) if plane in order else len(order)) for name in found for plane, _ in [split(name)]
        }
        return sorted(known, key=lambda name: (known[name], name))

    def told(self, name: str) -> Named:
        """Return what the documents tell of a plane. Earlier ones tell less."""
        return self._told.get(name, Named(name))

    def placement(self, name: str) -> str:
        """Return the placement of a plane. The documents of 0.1 do not tell it: their planes are in the catalog."""
        plane, _ = split(name)
        known = catalog.placement(plane) if plane in catalog.names() else ""
        return self.told(name).placement or known or "unknown"

    def kernels(self) -> list[str]:
        """Return the kernels of the matrices."""
        return list(self._kernels)

    @cached_property
    def _kernels(self) -> list[str]:
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
        """Return the warnings of the runs, whether matrices are of different scenarios, and what was not observed."""
        warned = [f"{name}: {each}" for name, result in self.results for each in result.warnings]
        if len({matrix.scenario() for _, matrix in self.matrices}) > 1:
            worlds = (f"{matrix.scenario() or 'that of each check'} ({name})" for name, matrix in self.matrices)
            warned.append(
                "the matrices are of different scenarios, and of a cell in two of them the last is shown: "
                + ", ".join(worlds)
            )
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
        for result, rows, _ in self._measured:
            for row in rows:
                if row.workload == workload and row.n and row.axes == (at or Axes()):
                    found.setdefault(row.dataplane, (row, str(result.environment["clock"])))
        return {name: found[name] for name in self.planes() if name in found}

    def rate(self, name: str, workload: str = "crr", base: str = DIRECT, at: Axes | None = None) -> Interval | None:
        """Return a plane's rate of a workload as a ratio to that of the reference, or of the limit."""
        rows = self.rows(workload, at)
        here = rows[name][0].ratio_to_direct if name in rows else None
        if base == DIRECT or here is None:
            return here
        there = rows[base][0].ratio_to_direct if base in rows else None
        return Interval(here.value / there.value) if there and there.value else None

    def measured_by(self, clock: Clock) -> Side | None:
        """Return the rates of `crr` that one run measured by a clock, at the scenario's own point, if there is one.

        A wall clock under emulation is not one.
        """
        for result, rows, trials in self._measured:
            told = result.environment
            if told["clock"] == clock and (clock == "instructions" or told.get("accelerated")):
                rates = {
                    row.dataplane: row.ratio_to_direct
                    for row in rows
                    if _connects(row) and row.ratio_to_direct and row.ratio_to_direct.value > 0
                }
                profiles = {each.dataplane: each.profile.parts for each in trials if each.profile and _connects(each)}
                if rates:
                    return Side(told, rates, profiles)
        return None

    def relative(self, name: str, base: str, workload: str = "crr", at: Axes | None = None) -> Interval | None:
        """Return the cost of an operation as a ratio to another plane's in the same run."""
        from bench.analysis import intervals  # numpy and scipy take a moment

        for result, _, trials in self._measured:
            clock = result.environment["clock"]
            metric = WORKLOADS[workload].cost(clock)
            rounds: dict[str, dict[int, float]] = {name: {}, base: {}}
            for trial in trials:
                here = (trial.workload, trial.axes) == (workload, at or Axes()) and not trial.warmup
                if here and trial.dataplane in rounds and trial.figures.get(metric, 0) > 0:
                    rounds[trial.dataplane][trial.round] = trial.figures[metric]
            found = intervals.compared(rounds[name], rounds[base], drifts=clock == "wall")
            if found:
                return found
        return None

    def workloads(self) -> list[tuple[str, Axes]]:
        """Return every workload and point with figures."""
        return list(dict.fromkeys((row.workload, row.axes) for _, rows, _ in self._measured for row in rows))

    def curves(self) -> list[Curve]:
        """Return every metric that has figures at two or more points of one axis, with the other axes equal."""
        return list(self._curves)

    @cached_property
    def _curves(self) -> list[Curve]:
        found: dict[tuple[str, str, str, Clock, Axes], dict[str, dict[int, Interval]]] = {}
        for result, rows, _ in self._measured:
            clock: Clock = result.environment["clock"]
            for row in rows:
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
        for _, rows, trials in self._measured:
            costs = {row.dataplane: cost(row) for row in rows if row.workload == "crr" and row.axes == Axes()}
            for trial in trials:
                whole = costs.get(trial.dataplane)
                if trial.profile and trial.workload == "crr" and trial.axes == Axes() and whole:
                    shares = {name: share * whole.value for name, share in trial.profile.parts.items()}
                    found.setdefault(trial.dataplane, shares)
        total: Counter[str] = Counter()
        for costs_of in found.values():
            total.update(costs_of)
        order = [name for name, _ in total.most_common()]
        return {name: {part: found[name].get(part, 0.0) for part in order} for name in self.planes() if name in found}

    def states(self) -> dict[str, dict[str, State]]:
        """Return, per plane and kind of namespace, the kernel state after a round of `crr`."""
        found: dict[str, dict[str, State]] = {}
        for _, _, trials in self._measured:
            for trial in trials:
                if (
                    trial.held
                    and not trial.warmup
                    and (trial.workload, trial.axes) == ("crr", Axes())
                    and trial.dataplane not in found
                ):
                    found[trial.dataplane] = {place: _state(trial.held, place) for place in PLACES}
        return {name: found[name] for name in self.planes() if name in found}

    def settings(self, name: str) -> dict[str, dict[str, str]]:
        """Return, by kind of namespace, the settings that differ from those of the direct path in the same run.

        A namespace that only the plane has is its own, and is left out. So are counters.
        """
        for _, _, trials in self._measured:
            told = {trial.dataplane: trial.settings for trial in trials if trial.settings}
            if name in told and DIRECT in told:
                return {
                    kind: {
                        key: value
                        for key, value in found.items()
                        if key.startswith("net.")
                        and not key.endswith("_count")
                        and told[DIRECT][kind].get(key, value) != value
                    }
                    for kind, found in told[name].items()
                    if kind in told[DIRECT]
                }
        return {}

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def against(self, plane: str, base: str = REFERENCE) -> tuple[list[str], list[str], list[str]]:
        """Return three lists of checks: with the outcome that another plane has, holding only here, holding only there.

        A check is in the first list if the outcomes agree on every kernel, and in the third if it holds only there on
        some kernel. All others are in the second. What holds there and does not apply here holds only there.
        """
        signs: dict[str, set[int]] = {}
        for (kernel, name, check), here in self._cells.items():
            there = self.cell(kernel, base, check)
            if name == plane and there and {here.outcome, there.outcome} in _COMPARED:
                signs.setdefault(check, set()).add((here.outcome == "pass") - (there.outcome == "pass"))
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
                    _summary(name, self.told(name)),
                    row.ratio_to_direct if row else None,
                    {name: row.figures[name] for name in SHOWN if name in row.figures} if row else {},
                    *self.against(name),
                    {question.name: self.answer(name, question) for question in QUESTIONS},
                )
            )
        return made


def cost(row: Summary) -> Interval | None:
    """Return the cost of an operation: instructions, or CPU time by the wall clock."""
    return next((row.figures[name] for name in WORKLOADS[row.workload].costs if name in row.figures), None)


_Of = TypeVar("_Of", Summary, Trial, MatrixCell)


def _titled(rows: Sequence[_Of], titles: dict[str, str]) -> list[_Of]:
    """Return rows of a document with the titles of their planes."""
    return [
        msgspec.structs.replace(row, dataplane=titles[row.dataplane]) if row.dataplane in titles else row
        for row in rows
    ]


def _connects(row: Summary | Trial) -> bool:
    """Return True for connections at the scenario's own point."""
    return (row.workload, row.axes) == ("crr", Axes())


def _state(held: Sequence[Held], place: str) -> State:
    here = [each for each in held if each.place == place]
    entries = sum(each.objects for each in here if each.what in _ENTRIES)
    return State(sum(each.objects for each in here) - entries, entries, sum(each.bytes for each in here))


def _summary(name: str, told: Named) -> str:
    """Return a plane's summary if it is known here: a document may have planes of a package that is not installed."""
    if told.program:
        versions = ", ".join(f"{each.name} {each.version}" for each in told.program.packages)
        return told.program.summary + (f" ({versions})" if versions else "")
    plane, _ = split(name)
    return catalog.summary(plane) if plane in catalog.names() else ""


def _drawn(workload: str) -> set[str]:
    """Return True if the metric deserves a curve."""
    known = WORKLOADS[workload]
    more = {"conntrack_entries", "kthreads", "kernel_bytes", "install_ms"}
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
