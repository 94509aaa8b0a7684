"""The documents that the program writes, and the messages between its own process and the kernel under test.

They are JSON with a schema version. Figures are named as in bench.documents.metrics, which has their units.
docs/documents.md explains the documents to readers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from dataplanes import errors
from dataplanes.errors import BenchError
from dataplanes.extensions import Extension
from dataplanes.selection import Selection
from scenarios.axes import Axes
from scenarios.outcomes import Expected, Outcome

SCHEMA: Literal[2] = 2
"""The version of every document's schema.

It changes if a reader must know of a change. bench.documents.earlier then converts documents of the earlier version.
"""

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$(?!\n)")]
"""The name of a data plane, a check or a kernel, in one line."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Figure = Annotated[float, Meta(ge=-1e18, le=1e18)]
"""A finite number."""
Figures = dict[str, Figure]
"""Figures by the names of their metrics."""
Bytes = Annotated[Count, Meta(extra_json_schema={"x-unit": "B"})]
Nanoseconds = Annotated[Count, Meta(extra_json_schema={"x-unit": "ns"})]
Seconds = Annotated[Figure, Meta(extra_json_schema={"x-unit": "s"})]
PerSecond = Annotated[Figure, Meta(extra_json_schema={"x-unit": "1/s"})]
Fraction = Annotated[Figure, Meta(extra_json_schema={"x-unit": "1"})]
"""A part of a whole, 0 to 1; or a ratio."""


class Function(Struct, frozen=True):
    """A kernel function: its part of the kernel, its own share of all time, and its calls per operation if counted."""

    name: str
    part: str
    share: Fraction
    calls: Figure | None = None


class Profile(Struct, frozen=True):
    """The time of a trial by part of the kernel, the largest first, and the functions with the largest shares."""

    parts: dict[str, Fraction]
    functions: list[Function]


class Held(Struct, frozen=True):
    """Kernel state of one kind in one namespace after a trial. `place`: host, overlay, container or lb."""

    place: str
    namespace: str  # without the run's number
    what: str  # conntrack entries, ipvs services, nft elements, ...
    objects: Count
    bytes: Bytes = 0  # 0 if the kernel does not tell


class Work(Struct, frozen=True):
    """The work of a workload while it was measured. It is no figure, because the plan chooses the amount."""

    operations: Count | None = None  # operations that succeeded; None if the workload has none
    elapsed_ns: Nanoseconds | None = None
    asked_per_second: PerSecond | None = None  # connections per second, if they begin at a steady rate
    syn_retransmits: Count | None = None
    generator_share: Figure | None = None  # processor time of the client per elapsed time, by the wall clock
    errors: dict[str, Count] = field(default_factory=dict)  # by class
    backends: dict[str, Count] = field(default_factory=dict)  # answered requests by the server's number


class Trial(Struct):
    """One measurement of one data plane in a fresh lab. If `error` is set, it has no figures."""

    dataplane: Name
    scenario: str
    workload: str
    round: Count
    warmup: bool
    figures: Figures
    error: str = ""
    axes: Axes = Axes()
    settings: dict[str, dict[str, str]] = field(default_factory=dict)  # by kind, on the client's node; when `held` is
    profile: Profile | None = None  # only in the warm-ups of a profiled run
    held: list[Held] = []  # only in warm-ups and first rounds
    work: Work = Work()

    def key(self) -> tuple[object, ...]:
        """Return the key that distinguishes it from other trials of its run."""
        return self.dataplane, self.workload, self.axes, self.round


class Interval(Struct):
    """An estimate in the unit of its metric, with its 95 % bootstrap interval.

    Below three rounds there is no interval.
    """

    value: Figure
    low: Figure | None = None
    high: Figure | None = None


class Summary(Struct):
    """The rounds of one data plane as one: medians, and the ratio to `direct`."""

    dataplane: Name
    scenario: str
    workload: str
    n: Count
    figures: dict[str, Interval]
    ratio_to_direct: Interval | None
    errors: dict[str, Count]
    backends: dict[str, Count]
    note: str = ""  # why there are no figures
    axes: Axes = Axes()


class Result(Struct, tag_field="kind", tag="result"):
    """The document that `bench run` writes. `units` has the units of its figures."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    trials: list[Trial]
    summary: list[Summary]
    warnings: list[str] = []
    units: dict[str, str] = field(default_factory=dict)
    schema: Literal[2] = SCHEMA

    def kernel(self) -> str:
        """Return the kernel's name as `--kernel` takes it, or its release if the document tells no name."""
        return str(self.environment.get("kernel_name") or self.environment.get("kernel", ""))


class TrialPlan(Struct):
    """A trial that is to be done in the kernel under test."""

    dataplane: str
    round: int
    warmup: bool
    connections: int
    workload: str = "crr"
    axes: Axes = Axes()
    profile: bool = False

    def key(self) -> tuple[object, ...]:
        """Return the key of its trial."""
        return self.dataplane, self.workload, self.axes, self.round


class Goal(Struct, frozen=True):
    """The precision that ends a series: the largest width of its interval, relative to the lower end."""

    clock: str
    precision: float

    @property
    def drifts(self) -> bool:
        """Whether figures are compared within the round, because the machine drifts."""
        return self.clock == "wall"


class Round(Struct, frozen=True):
    """The primary figure of one round of a series: one workload at one point on one data plane."""

    dataplane: str
    workload: str
    axes: Axes
    number: int
    value: float

    def series(self) -> tuple[object, ...]:
        """Return the key of its series, with which the keys of its trials begin."""
        return self.dataplane, self.workload, self.axes


class MatrixCell(Struct):
    """The outcome of one check on one plane and kernel, the expected outcome, and its reason if that is not a pass."""

    kernel: Name
    dataplane: Name
    check: Name
    outcome: Outcome
    expected: Expected
    detail: str
    seconds: Seconds  # by the clock of the kernel under test
    reason: str = ""
    reference: str = ""
    trace: str | UnsetType = UNSET  # the story of its packets, if they were followed and it is not as expected


class Matrix(Struct, tag_field="kind", tag="matrix"):
    """The document that `bench matrix` writes. It has the environment and the clock of each kernel."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    cells: list[MatrixCell]
    schema: Literal[2] = SCHEMA

    def scenario(self) -> str:
        """Return the scenario in whose lab all cells were observed; "" if each check had its own."""
        return str(self.plan.get("scenario", ""))


class Job(Struct):
    """A job for the kernel under test. `kind` is trials, lab, inspect, matrix, explore, trace or adopt.

    `selections` has the parsed planes in order. A lab, an inspection and an exploration have one.
    """

    kind: str
    scenario: str = "seed"
    selections: list[Selection] = field(default_factory=list)
    trials: list[TrialPlan] = field(default_factory=list)
    goal: Goal | None = None  # a series ends when it has reached this; None: every trial is done
    rounds: list[Round] = field(default_factory=list)  # the rounds that were done before, if there is a goal
    command: list[str] = field(default_factory=list)  # for a lab; if empty, a shell
    checks: list[str] = field(default_factory=list)  # for a matrix: the names of the checks
    own: str = ""  # for a matrix: the scenario that stands in the place of the checks' own
    evidence: bool = False  # for a matrix: collect evidence of cells that are not as expected
    traced: bool = False  # for a matrix: follow the packets of each cell
    pause: bool = False  # for a matrix: open a shell in the lab of a cell that is not as expected
    extensions: list[Extension] = field(default_factory=list)  # the planes and checks of other packages
    exploring: dict[str, Any] = field(default_factory=dict)  # for an exploration (bench.documents.exploration)
    tracing: dict[str, Any] = field(default_factory=dict)  # for a trace (bench.documents.tracing)
    types: dict[str, Any] = field(default_factory=dict)  # for a trace: the kernel's (dataplanes.kernel.btf.KernelTypes)
    adoption: dict[str, Any] = field(default_factory=dict)  # for a world that exists already (scenarios.adopted)


class Event(Struct, omit_defaults=True):
    """One message from the kernel under test.

    `kind` is stage, environment, trial, report, cell, evidence, explored, finding, flow or error.
    """

    kind: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BenchError) -> Event:
        """Return an error as an event.

        An error of a module's own kind is sent as the known kind that it derives from.
        """
        known = next(each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)
        parts = {"message": error.message, "where": error.where, "why": error.why, "fix": error.fix}
        return cls("error", known, parts)

    def error(self) -> BenchError:
        """Return the error that the event carries, as if it had been raised here."""
        made: BenchError = getattr(errors, self.text)(**self.data)
        return made
