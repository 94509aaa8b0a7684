"""The documents the program writes, and the messages between its outside and its inside. JSON, versioned.

Units are in the names: *_us microseconds, *_ns nanoseconds, instructions are guest instructions.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from dataplanes import errors
from dataplanes.errors import BenchError, Usage
from scenarios.axes import Axes

SCHEMA = 1
_GZIP = b"\x1f\x8b"


class Function(Struct, frozen=True):
    """A kernel function: its part of the kernel, its own share of all time, and calls per operation where counted."""

    name: str
    part: str
    share: float
    calls: float | None = None


class Profile(Struct, frozen=True):
    """Where a trial's time went: by part of the kernel, the largest first, and the functions with most of it."""

    parts: dict[str, float]
    functions: list[Function]


class Held(Struct, frozen=True):
    """Kernel state of one kind in one namespace after a trial. `place`: host, overlay, container or lb."""

    place: str
    namespace: str  # without the run's number
    what: str  # conntrack entries, ipvs services, nft elements, ...
    objects: int
    bytes: int = 0  # where the kernel tells


class Trial(Struct):
    """One measurement of one data plane in a fresh lab. `metrics` is empty when `error` says why there are none."""

    dataplane: str
    scenario: str
    workload: str
    round: int
    warmup: bool
    metrics: dict[str, Any]
    error: str = ""
    axes: Axes = Axes()
    settings: dict[str, dict[str, str]] = field(default_factory=dict)  # on the client's node, by kind; warm-ups only
    profile: Profile | None = None  # warm-ups of a profiled run only
    held: list[Held] = []  # warm-ups and first rounds only

    def key(self) -> tuple[object, ...]:
        """What tells it from the others of its run."""
        return self.dataplane, self.workload, self.axes, self.round


class Interval(Struct):
    """An estimate with its 95 % bootstrap interval; low and high are None below three rounds."""

    value: float
    low: float | None = None
    high: float | None = None


class Summary(Struct):
    """What the rounds of one data plane say together: medians, and the ratio to `direct` in the same rounds."""

    dataplane: str
    scenario: str
    workload: str
    n: int
    metrics: dict[str, Interval]
    ratio_to_direct: Interval | None
    errors: dict[str, int]
    backends: dict[str, int]
    note: str = ""  # why there is no number
    axes: Axes = Axes()


class Result(Struct):
    """What `bench run` writes."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    trials: list[Trial]
    summary: list[Summary]
    warnings: list[str] = []
    schema: int = SCHEMA


class TrialPlan(Struct):
    """One trial to be done inside."""

    dataplane: str
    round: int
    warmup: bool
    connections: int
    workload: str = "crr"
    axes: Axes = Axes()
    profile: bool = False

    def key(self) -> tuple[object, ...]:
        """The key of the trial it will be."""
        return self.dataplane, self.workload, self.axes, self.round


class MatrixCell(Struct):
    """What one check saw on one plane and kernel, what was expected, and why where that is not a pass."""

    kernel: str
    dataplane: str
    check: str
    outcome: str  # pass, fail, skip, error
    expected: str  # pass, fail, skip
    detail: str
    seconds: float  # by the clock of the kernel under test
    reason: str = ""
    reference: str = ""


class Matrix(Struct):
    """What `bench matrix` writes; environment and clock per kernel."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    cells: list[MatrixCell]
    schema: int = SCHEMA


class Job(Struct):
    """What the inside is asked to do. `kind`: trials, lab, inspect or matrix."""

    kind: str
    scenario: str = "seed"
    dataplane: str = "direct"
    trials: list[TrialPlan] = field(default_factory=list)
    command: list[str] = field(default_factory=list)  # lab: empty means a shell
    dataplanes: list[str] = field(default_factory=list)  # matrix
    checks: list[str] = field(default_factory=list)  # matrix: their names
    evidence: bool = False  # matrix: look into cells that are not as expected
    pause: bool = False  # matrix: a shell in the lab of a cell that is not as expected


class Event(Struct, omit_defaults=True):
    """One message from the inside. `kind`: stage, environment, trial, report, cell, evidence, or error."""

    kind: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BenchError) -> Event:
        """An error as an event. One of a kind that a module keeps to itself is told as what everybody knows it for."""
        known = next(each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)
        parts = {"message": error.message, "where": error.where, "why": error.why, "fix": error.fix}
        return cls("error", known, parts)

    def error(self) -> BenchError:
        """The error an event tells of, as if it had happened here."""
        made: BenchError = getattr(errors, self.text)(**self.data)
        return made


def read(path: str) -> Result | Matrix:
    """A document from its file, gzipped or not. Raises Usage if it is neither a result nor a matrix of this schema."""
    fix = "give what `bench run -o` or `bench matrix -o` wrote"
    try:
        data = Path(path).read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        keys = msgspec.json.decode(data)
        if not isinstance(keys, dict) or not {"cells", "trials"} & keys.keys():
            raise Usage("neither a result nor a matrix", where=path, fix=fix)
        if keys.get("schema") != SCHEMA:
            raise Usage("cannot read the document", where=path, why=f"its schema is {keys.get('schema')}, not {SCHEMA}")
        return msgspec.json.decode(data, type=Matrix) if "cells" in keys else msgspec.json.decode(data, type=Result)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError without strerror
        why = getattr(error, "strerror", None) or str(error)
        raise Usage("cannot read the document", where=path, why=why) from error
    except msgspec.MsgspecError as error:
        raise Usage("neither a result nor a matrix", where=path, why=str(error), fix=fix) from error
