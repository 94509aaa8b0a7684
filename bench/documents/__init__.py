"""The documents the program writes, and the messages between its outside and its inside. JSON, versioned.

Figures are named as in bench.documents.metrics, which has their units. docs/documents.md shows a reader what is what.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from dataplanes import errors
from dataplanes.errors import BenchError
from dataplanes.extensions import Extension
from dataplanes.selection import Selection
from scenarios.axes import Axes
from scenarios.outcomes import Expected, Outcome

SCHEMA: Literal[2] = 2
"""The version of every document's schema. A reader that must know of a change is told by another number, and
bench.documents.earlier then has what turns a document of this one into one of that."""

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$(?!\n)")]
"""Of a data plane, a check, a kernel: one line."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Figure = Annotated[float, Meta(ge=-1e18, le=1e18)]
"""A number that can be reckoned with: neither infinite nor none."""
Figures = dict[str, Figure]
"""Figures by their metrics' names."""
Bytes = Annotated[Count, Meta(extra_json_schema={"x-unit": "B"})]
Nanoseconds = Annotated[Count, Meta(extra_json_schema={"x-unit": "ns"})]
Seconds = Annotated[Figure, Meta(extra_json_schema={"x-unit": "s"})]
PerSecond = Annotated[Figure, Meta(extra_json_schema={"x-unit": "1/s"})]
Fraction = Annotated[Figure, Meta(extra_json_schema={"x-unit": "1"})]
"""A part of a whole, 0 to 1; or a ratio."""


class Function(Struct, frozen=True):
    """A kernel function: its part of the kernel, its own share of all time, and calls per operation where counted."""

    name: str
    part: str
    share: Fraction
    calls: Figure | None = None


class Profile(Struct, frozen=True):
    """Where a trial's time went: by part of the kernel, the largest first, and the functions with most of it."""

    parts: dict[str, Fraction]
    functions: list[Function]


class Held(Struct, frozen=True):
    """Kernel state of one kind in one namespace after a trial. `place`: host, overlay, container or lb."""

    place: str
    namespace: str  # without the run's number
    what: str  # conntrack entries, ipvs services, nft elements, ...
    objects: Count
    bytes: Bytes = 0  # where the kernel tells


class Work(Struct, frozen=True):
    """What a workload did while it was measured. No figure: how much there was to do is the plan's choice."""

    operations: Count | None = None  # that succeeded; None: it has none
    elapsed_ns: Nanoseconds | None = None
    asked_per_second: PerSecond | None = None  # connections, where they begin at a steady rate
    syn_retransmits: Count | None = None
    generator_share: Figure | None = None  # processor time of the client per elapsed time; by the wall clock
    errors: dict[str, Count] = field(default_factory=dict)  # by class
    backends: dict[str, Count] = field(default_factory=dict)  # requests answered, by the server's number


class Trial(Struct):
    """One measurement of one data plane in a fresh lab. It has no figures when `error` says why there are none."""

    dataplane: Name
    scenario: str
    workload: str
    round: Count
    warmup: bool
    figures: Figures
    error: str = ""
    axes: Axes = Axes()
    settings: dict[str, dict[str, str]] = field(default_factory=dict)  # on the client's node, by kind; warm-ups only
    profile: Profile | None = None  # warm-ups of a profiled run only
    held: list[Held] = []  # warm-ups and first rounds only
    work: Work = Work()

    def key(self) -> tuple[object, ...]:
        """What tells it from the others of its run."""
        return self.dataplane, self.workload, self.axes, self.round


class Interval(Struct):
    """An estimate in the unit of its metric, with its 95 % bootstrap interval. Below three rounds there is none."""

    value: Figure
    low: Figure | None = None
    high: Figure | None = None


class Summary(Struct):
    """What the rounds of one data plane say together: medians, and the ratio to `direct` in the same rounds."""

    dataplane: Name
    scenario: str
    workload: str
    n: Count
    figures: dict[str, Interval]
    ratio_to_direct: Interval | None
    errors: dict[str, Count]
    backends: dict[str, Count]
    note: str = ""  # why there is no number
    axes: Axes = Axes()


class Result(Struct, tag_field="kind", tag="result"):
    """What `bench run` writes. `units` are those of the figures in it."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    trials: list[Trial]
    summary: list[Summary]
    warnings: list[str] = []
    units: dict[str, str] = field(default_factory=dict)
    schema: Literal[2] = SCHEMA


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

    kernel: Name
    dataplane: Name
    check: Name
    outcome: Outcome
    expected: Expected
    detail: str
    seconds: Seconds  # by the clock of the kernel under test
    reason: str = ""
    reference: str = ""


class Matrix(Struct, tag_field="kind", tag="matrix"):
    """What `bench matrix` writes; environment and clock per kernel."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    cells: list[MatrixCell]
    schema: Literal[2] = SCHEMA


class Job(Struct):
    """What the inside is asked to do. `kind`: trials, lab, inspect or matrix.

    `selections`: the planes as they were parsed outside, in order. A lab and an inspection have one.
    """

    kind: str
    scenario: str = "seed"
    selections: list[Selection] = field(default_factory=list)
    trials: list[TrialPlan] = field(default_factory=list)
    command: list[str] = field(default_factory=list)  # lab: empty means a shell
    checks: list[str] = field(default_factory=list)  # matrix: their names
    evidence: bool = False  # matrix: look into cells that are not as expected
    pause: bool = False  # matrix: a shell in the lab of a cell that is not as expected
    extensions: list[Extension] = field(default_factory=list)  # where planes and checks of other packages are


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
