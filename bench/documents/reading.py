"""Read result and matrix documents of every schema, and check what their readers rely on.

A document of an earlier schema is upgraded here, when it is read: every other reader knows today's only. The message
types check most of a document. This module checks the fields that readers look up in the parts that are free in form,
that figures are known metrics, and that the parts agree with each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Raw, Struct

from bench.documents import SCHEMA, Matrix, Result, Summary, Trial, metrics
from bench.documents.earlier import Matrix1, Result1
from bench.documents.parts import Environment, MatrixPlan, ResultPlan
from bench.documents.workloads import WORKLOADS
from dataplanes import files
from dataplanes.errors import Usage
from scenarios import axes
from scenarios.axes import Axes

READ: dict[str, dict[int, type[Result | Matrix | Result1 | Matrix1]]] = {
    "result": {1: Result1, SCHEMA: Result},
    "matrix": {1: Matrix1, SCHEMA: Matrix},
}
"""By kind and schema, the type as which a document is read."""
_MOST = 32 << 20
"""Bytes of one unpacked document. The largest published document has 3 MB."""
_ROUNDS = 1000
_FIX = "give what `bench run -o` or `bench matrix -o` wrote"
_NEITHER = "neither a result nor a matrix"


class _Head(Struct):
    """The fields that say what a file holds."""

    schema: Any = None
    kind: Any = None
    cells: Raw = Raw()
    trials: Raw = Raw()

    def told(self) -> Any:
        """Return the kind of the document. Schema 1 did not name it: a matrix has cells, and a result has trials."""
        if self.kind is None and self.schema == 1:
            return "matrix" if self.cells else "result" if self.trials else None
        return self.kind


def read(path: str) -> Result | Matrix:
    """Read a document from a file, which may be packed with gzip or xz.

    Raises Usage if it is neither a result nor a matrix, if its schema is a later one, or if its parts contradict each
    other.
    """
    data = files.content(path, _MOST)
    head = files.decode(data, _Head, path, wrong=_NEITHER, fix=_FIX)
    found = files.decode(data, _type(head, path), path, wrong=_NEITHER, fix=_FIX)
    while isinstance(found, Result1 | Matrix1):
        found = found.upgraded(path)
    if isinstance(found, Matrix):
        _validate_matrix(found, path)
    else:
        _validate_result(found, path)
    return found


def held(path: str) -> bool:
    """Return True if a file holds a result or a matrix, of any schema. Raises Usage if it cannot be read."""
    return files.decode(files.content(path, _MOST), _Head, path, wrong=_NEITHER, fix=_FIX).told() in READ


def _type(head: _Head, path: str) -> type[Result | Matrix | Result1 | Matrix1]:
    kind = head.told()
    if not isinstance(kind, str) or kind not in READ:
        raise Usage(_NEITHER, where=path, why=f"its kind is {kind!r:.40}" if kind else "", fix=_FIX)
    if not isinstance(head.schema, int) or head.schema not in READ[kind]:
        known = " and ".join(map(str, READ[kind]))
        why = f"its schema is {head.schema!r:.20}, and this version reads {known}"
        raise Usage("cannot read the document", where=path, why=why, fix="read it with the version that wrote it")
    return READ[kind][head.schema]


def _validate_result(result: Result, path: str) -> None:
    clock = validate_environment(result.environment, f"{path}: environment").clock
    plan = files.convert(result.plan, ResultPlan, f"{path}: plan", wrong="not a result")
    _once([("plane", each.name) for each in plan.dataplanes], path)
    _validate_units(result.units, f"{path}: units")
    _validate_trials(result.trials, clock, path)
    for number, row in enumerate(result.summary):
        _known(row, f"{path}: summary[{number}]")
        _validate_figures(row.figures, clock, f"{path}: summary[{number}].figures")
    _once([("summary", row.dataplane, row.workload, row.axes) for row in result.summary], path)


def _validate_trials(trials: Sequence[Trial], clock: str, path: str) -> None:
    for number, trial in enumerate(trials):
        validate_trial(trial, clock, f"{path}: trials[{number}]")
    _once([(f"round {trial.round}", trial.dataplane, trial.workload, trial.axes) for trial in trials], path)
    series = Counter((trial.dataplane, trial.workload, trial.axes) for trial in trials)
    if max(series.values(), default=0) > _ROUNDS + 1:
        raise Usage("not a result", where=path, why=f"more than {_ROUNDS} rounds of one plane")


def validate_environment(facts: object, where: str) -> Environment:
    """Check the fields of an environment that readers look up, and return them. Raises Usage."""
    return files.convert(facts, Environment, where, wrong="not an environment")


def validate_trial(trial: Trial, clock: str, where: str) -> None:
    """Check that this program could have written the trial by this clock ("": any). Raises Usage."""
    _known(trial, where)
    _validate_figures(trial.figures, clock, f"{where}.figures")


def _validate_figures(names: Iterable[str], clock: str, where: str) -> None:
    for name in names:
        if wrong := metrics.wrong(name, clock):
            fix = "`bench list metrics` lists the metrics and their clocks"
            raise Usage(f"not a figure: {name!r:.60}", where=where, why=wrong, fix=fix)


def _validate_units(told: dict[str, str], where: str) -> None:
    """Refuse figures in another unit: a reader would take milliseconds for microseconds."""
    for name, unit in metrics.units(told).items():
        if told[name] != unit:
            raise Usage("not a result", where=f"{where}.{name}", why=f"{told[name]!r:.20} is not its unit, {unit}")


def _known(row: Trial | Summary, where: str) -> None:
    if row.workload not in WORKLOADS:
        raise Usage(f"unknown workload {row.workload!r:.40}", where=where, fix=f"there are: {', '.join(WORKLOADS)}")
    for name in Axes.__struct_fields__:
        if wrong := axes.out_of_bounds(name, getattr(row.axes, name)):
            raise Usage("not a point of the axes", where=f"{where}.axes.{name}", why=wrong)


def _validate_matrix(matrix: Matrix, path: str) -> None:
    plan = files.convert(matrix.plan, MatrixPlan, f"{path}: plan", wrong="not a matrix")
    for kernel, facts in matrix.environment.items():
        validate_environment(facts, f"{path}: environment.{kernel}")
    names = {
        "kernel": set(matrix.environment),
        "dataplane": {each.name for each in plan.dataplanes},
        "check": {each.name for each in plan.checks},
    }
    for number, cell in enumerate(matrix.cells):
        for key, known in names.items():
            if getattr(cell, key) not in known:
                why = f"{key} {getattr(cell, key)!r} is not in the plan or the environment"
                raise Usage("not a matrix", where=f"{path}: cells[{number}].{key}", why=why)
    _once([(cell.kernel, cell.dataplane, cell.check) for cell in matrix.cells], path)
    _once([("check", each.name) for each in plan.checks], path)
    _once([("plane", each.name) for each in plan.dataplanes], path)


def _once(keys: Sequence[tuple[object, ...]], path: str) -> None:
    """Refuse a document that holds a thing twice. Readers could not know which of the two is meant."""
    for key, count in Counter(keys).items():
        if count > 1:
            told = ", ".join(_told(key))
            raise Usage("the document contradicts itself", where=path, why=f"it has {count} times: {told}")


def _told(key: tuple[object, ...]) -> Iterator[str]:
    for part in key:
        if text := part.label() if isinstance(part, Axes) else str(part):
            yield text
