"""Read result and matrix documents, and check what their readers rely on.

The message types check most of a document. This module checks the fields that readers look up in the free-form parts
(`environment`, `plan`, `metrics`), and that the parts agree with each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from msgspec import Raw, Struct, field

from bench.documents import SCHEMA, Count, Figure, Matrix, Name, Result, Summary, Trial
from bench.documents.workloads import METRICS, WORKLOADS
from dataplanes import files
from dataplanes.errors import Usage
from scenarios import axes
from scenarios.axes import Axes

_MOST = 32 << 20
"""Bytes of one unpacked document. The largest published document has 3 MB."""
_ROUNDS = 1000
_FIX = "give what `bench run -o` or `bench matrix -o` wrote"
_NEITHER = "neither a result nor a matrix"


class _Head(Struct):
    """The fields that say which kind of document a file holds."""

    schema: Any = None
    cells: Raw = Raw()
    trials: Raw = Raw()


class _Environment(Struct):
    kernel: str
    clock: Literal["wall", "instructions"]
    kernel_name: str = ""
    kernel_reason: str = ""
    generator_ceiling: Figure = 0
    sysctl: dict[str, str] = {}


class _Planned(Struct):
    workload: str = "crr"
    connections: Count = 0


class _Named(Struct):
    name: Name
    statement: str = ""
    knobs: dict[str, Any] = {}
    placement: str = ""


class _ResultPlan(Struct):
    scenario: str = ""
    trials: list[_Planned] = []
    dataplanes: list[_Named] = []
    command: str = ""


class _MatrixPlan(Struct):
    dataplanes: list[_Named]
    checks: list[_Named]
    command: str = ""


class _Metrics(Struct):
    errors: dict[str, Count] = field(default_factory=dict)
    backends: dict[str, Count] = field(default_factory=dict)
    connect_us: dict[str, Figure] = field(default_factory=dict)
    request_us: dict[str, Figure] = field(default_factory=dict)
    first_us: dict[str, Figure] = field(default_factory=dict)
    next_us: dict[str, Figure] = field(default_factory=dict)


def read(path: str) -> Result | Matrix:
    """Read a document from a file, which may be packed with gzip.

    Raises Usage if it is neither a result nor a matrix of this schema, or if its parts contradict each other.
    """
    data = files.content(path, _MOST)
    head = files.decode(data, _Head, path, wrong=_NEITHER, fix=_FIX)
    if not (head.cells or head.trials):
        raise Usage(_NEITHER, where=path, fix=_FIX)
    if head.schema != SCHEMA:
        raise Usage("cannot read the document", where=path, why=f"its schema is {head.schema!r:.20}, not {SCHEMA}")
    if head.cells:
        matrix = files.decode(data, Matrix, path, wrong=_NEITHER, fix=_FIX)
        _validate_matrix(matrix, path)
        return matrix
    result = files.decode(data, Result, path, wrong=_NEITHER, fix=_FIX)
    _validate_result(result, path)
    return result


def _validate_result(result: Result, path: str) -> None:
    validate_environment(result.environment, f"{path}: environment")
    plan = files.convert(result.plan, _ResultPlan, f"{path}: plan", wrong="not a result")
    _once([("plane", each.name) for each in plan.dataplanes], path)
    _validate_trials(result.trials, path)
    for number, row in enumerate(result.summary):
        _known(row, f"{path}: summary[{number}]")
    _once([("summary", row.dataplane, row.workload, row.axes) for row in result.summary], path)


def _validate_trials(trials: Sequence[Trial], path: str) -> None:
    for number, trial in enumerate(trials):
        validate_trial(trial, f"{path}: trials[{number}]")
    _once([(f"round {trial.round}", trial.dataplane, trial.workload, trial.axes) for trial in trials], path)
    series = Counter((trial.dataplane, trial.workload, trial.axes) for trial in trials)
    if max(series.values(), default=0) > _ROUNDS + 1:
        raise Usage("not a result", where=path, why=f"more than {_ROUNDS} rounds of one plane")


def validate_environment(facts: object, where: str) -> None:
    """Check the fields of an environment that readers look up. Raises Usage."""
    files.convert(facts, _Environment, where, wrong="not an environment")


def validate_trial(trial: Trial, where: str) -> None:
    """Check that this program could have written the trial. Raises Usage."""
    _known(trial, where)
    files.convert(trial.metrics, _Metrics, f"{where}.metrics", wrong="not a trial")
    figures = {name: value for name, value in trial.metrics.items() if name in METRICS}
    files.convert(figures, dict[str, Figure], f"{where}.metrics", wrong="not a trial")


def _known(row: Trial | Summary, where: str) -> None:
    if row.workload not in WORKLOADS:
        raise Usage(f"unknown workload {row.workload!r:.40}", where=where, fix=f"there are: {', '.join(WORKLOADS)}")
    for name in Axes.__struct_fields__:
        if wrong := axes.out_of_bounds(name, getattr(row.axes, name)):
            raise Usage("not a point of the axes", where=f"{where}.axes.{name}", why=wrong)


def _validate_matrix(matrix: Matrix, path: str) -> None:
    plan = files.convert(matrix.plan, _MatrixPlan, f"{path}: plan", wrong="not a matrix")
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
            raise Usage("contradicts itself", where=path, why=f"it has {count} times: {told}")


def _told(key: tuple[object, ...]) -> Iterator[str]:
    for part in key:
        if text := part.label() if isinstance(part, Axes) else str(part):
            yield text
