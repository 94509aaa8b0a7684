"""The program as a library: measure data planes, observe their semantics, read documents.

    from bench import api

    measured = api.measure(["ipvs-container", "nft-lb"], axes={"services": [1, 100]}, rounds=3)
    print(measured.frame().groupby(["plane", "services"])["value"].median())

The command line is its first caller. Importing it is cheap, because each function imports what it needs. Every function
raises only `dataplanes.errors.BenchError` and its kinds: `Usage` for a wrong request, and `Prerequisite` for something
that the machine lacks, both before anything is created.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.documents import Event, Matrix, Result, TrialPlan, tidy
from bench.documents.metrics import METRICS as METRICS
from dataplanes import catalog, files, platforms
from dataplanes.errors import Prerequisite
from dataplanes.selection import Selection

if TYPE_CHECKING:
    import pandas

    from bench.kernels import Kernel
    from bench.outside.lanes import Lanes
    from bench.outside.run import Run
    from scenarios.adopted import Adoption

Planes = str | Iterable[str | Selection]
"""Names as `--dataplane` takes them, or the result of `catalog.select`."""
_ROUNDS = 5
_CONNECTIONS = {"instructions": 1000, "wall": 10_000}
"""The default number of connections in one trial, by clock."""
_OF_PLATFORMS = {"instructions": 4000, "wall": 10_000}
"""The same where a platform is measured, whose daemons and containers vary from round to round."""


class _Tidy(ABC):
    """A document that can be read as rows."""

    columns: tuple[str, ...]

    def __init__(self, document: Result | Matrix) -> None:
        self._document = document

    @abstractmethod
    def rows(self) -> list[tidy.Row]:
        """Return the document's rows, which have its `columns`."""

    def frame(self) -> pandas.DataFrame:
        """Return the rows as a pandas frame. Raises Prerequisite without pandas."""
        return frame(self.rows(), self.columns)

    def save(self, path: str | Path) -> None:
        """Write the document. Raises Usage or Prerequisite if it cannot be written."""
        files.write(path, encoded(self._document))


class Measured(_Tidy):
    """The result of a measurement. `result` is the document (docs/schema/2/result.schema.json)."""

    columns = tidy.FIGURE

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result

    def rows(self) -> list[tidy.Row]:
        """Return a row per figure and round; the columns are `tidy.FIGURE`."""
        return list(tidy.figures(self.result))


class Observed(_Tidy):
    """The outcome of an observation. `matrix` is the document (docs/schema/2/matrix.schema.json)."""

    columns = tidy.CELL

    def __init__(self, matrix: Matrix) -> None:
        super().__init__(matrix)
        self.matrix = matrix

    def rows(self) -> list[tidy.Row]:
        """Return a row per cell; the columns are `tidy.CELL`."""
        return list(tidy.cells(self.matrix))

    def unexpected(self) -> list[tidy.Row]:
        """Return the rows whose outcome is not the expected one."""
        return [row for row in self.rows() if row["outcome"] != row["expected"]]


def load(path: str | Path) -> Measured | Observed:
    """Read a document that `bench run -o`, `bench matrix -o` or `save` wrote.

    Raises Usage if it is not such a document.
    """
    from bench.documents import reading

    found = reading.read(str(path))
    return Measured(found) if isinstance(found, Result) else Observed(found)


class Plan:
    """A measurement that is planned and not begun: its trials, their kernel and the reason for its choice."""

    def __init__(self, trials: Sequence[TrialPlan], kernel: Kernel, run: Run) -> None:
        self.trials = trials
        self.kernel = kernel
        self.run = run

    def execute(
        self, *, timeout: float | None = None, on_event: Callable[[Event], None] = lambda event: None
    ) -> Measured:
        """Do the trials that are left, within `timeout` seconds of real time. `on_event` is called for each event."""
        return Measured(self.run.execute(timeout=timeout, on_event=on_event))


def plan(
    planes: Planes,
    workloads: Sequence[str] = (),
    axes: Mapping[str, Sequence[int]] | None = None,
    *,
    scenario: str = "seed",
    kernel: str = "auto",
    clock: str | None = None,
    rounds: int | None = None,
    precision: float | None = None,
    connections: int | None = None,
    profile: bool = False,
    jobs: int | None = None,
    cluster: str | None = None,
    output: str | None = None,
) -> Plan:
    """Plan a measurement of data planes against the direct path, and check that it can be done.

    `planes` takes names as `--dataplane` does. `workloads` has names; by default they are those of the scenario's
    sweeps, or `crr`. `axes` has values by the names in `scenarios.axes.AXES`, and every combination is measured.
    `rounds` is the number of trials of each series; if it is None, that is 5 by the wall clock, and by the instruction
    clock as many, of 3 to 7, as it takes for them to agree within 0.5 %. With a `precision`, a fraction, a series ends
    when its interval is no wider than that (bench.documents.agreement). Then `rounds` is the largest number; if it is
    None, that is 100 by the wall clock and 7 by the instruction clock. `connections` is the number in one trial; if it
    is None, that is 1,000 by the instruction clock (4,000 with a platform) and 10,000 by the wall clock. `jobs` is
    the largest number of guests at a time. `cluster` is the address of a dask scheduler, whose workers run the
    guests (docs/cluster.md), or `local`. `output` is the file of the result; trials are kept beside it when they
    end. Raises Usage for a wrong request, and Prerequisite for something that the machine lacks.
    """
    from bench.documents.agreement import MOST, goal_of
    from bench.documents.workloads import demand_processors, parse
    from bench.outside import choose, points
    from bench.outside import run as runner
    from scenarios import requires, topology

    selections = _selected(planes)
    path = points.scenario_path(scenario)
    sweeps = topology.load(path).sweep
    names = parse(",".join(workloads) or None, [name for sweep in sweeps for name in sweep.workloads])
    found = points.series(names, axes or {}, sweeps)
    if scenario == "seed" and points.crowded(found):
        path = "scale"
    lanes = _lanes(cluster, jobs)
    chosen, reason = choose.choose(kernel, lanes.clock(clock), selections, more=requires.of(path))
    demand_processors(names, chosen.name, chosen.accelerated)
    usual = _OF_PLATFORMS if any(map(platforms.of, selections)) else _CONNECTIONS
    count = connections or usual[chosen.clock]
    goal = goal_of(chosen.clock, precision, fixed=rounds is not None)
    many = rounds or (MOST[goal.clock] if goal else _ROUNDS)
    trials = runner.plan(selections, many, count, found, clock=chosen.clock, profile=profile)
    runner.demand_possible(path, trials)
    work = runner.Run(path, selections, trials, chosen, reason=reason, lanes=lanes, output=output, goal=goal)
    return Plan(trials, chosen, work)


def measure(
    planes: Planes,
    workloads: Sequence[str] = (),
    axes: Mapping[str, Sequence[int]] | None = None,
    *,
    scenario: str = "seed",
    kernel: str = "auto",
    clock: str | None = None,
    rounds: int | None = None,
    precision: float | None = None,
    connections: int | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    timeout: float | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Measured:
    """Measure data planes against the direct path in interleaved rounds, each trial in a fresh lab.

    See `plan` for arguments.
    """
    planned = plan(
        planes,
        workloads,
        axes,
        scenario=scenario,
        kernel=kernel,
        clock=clock,
        rounds=rounds,
        precision=precision,
        connections=connections,
        jobs=jobs,
        cluster=cluster,
    )
    return planned.execute(timeout=timeout, on_event=on_event)


def observe(
    planes: Planes,
    checks: str = "",
    *,
    scenario: str | None = None,
    kernel: str = "auto",
    clock: str | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    evidence: Path | None = None,
    traces: Path | None = None,
    pause: bool = False,
    timeout: float | None = None,
    on_event: Callable[[str, Event], None] = lambda kernel, event: None,
) -> Observed:
    """Observe the semantics of a VIP on data planes.

    `checks` is an expression as `-k` takes it; if it is empty, all checks are observed. `scenario` is a name or a file
    in whose lab they are observed instead of their own (scenarios.casting); checks that it cannot express are not
    applicable. `kernel` may have several names, separated by commas, or `guests`. `on_event` is called for each cell
    with the kernel's name. `evidence` is a directory for captures and walks of cells that are not as expected, and
    `traces` one for the story of each cell's packets. `pause` opens a shell in the labs of unexpected cells. Raises
    Usage for a wrong request, and Prerequisite for what the machine lacks.
    """
    from bench import kernels as under_test
    from bench.outside import choose, points
    from bench.outside import matrix as runner
    from dataplanes import follower
    from scenarios import checks as semantics
    from scenarios import requires

    selections = runner.planes(_selected(planes))
    if traces:
        platforms.demand_planes(selections, "following the packets of checks")
    wanted = semantics.select(checks)
    own = points.scenario_path(scenario) if scenario else ""
    more = (*(requires.of(own) if own else ()), *(follower.REQUIRES if traces else ()))
    lanes = _lanes(cluster, jobs)
    chosen = [choose.choose(name, lanes.clock(clock), selections, more=more) for name in under_test.expand(kernel)]
    return Observed(
        runner.run(
            selections,
            wanted,
            chosen,
            evidence=evidence,
            traces=traces,
            pause=pause,
            timeout=timeout,
            lanes=lanes,
            on_event=on_event,
            scenario=own,
        )
    )


def read_world(path: str) -> Adoption:
    """Return a world of containers that exist already, which a file describes (docs/adopt.md).

    Raises Usage, with line and field, for a wrong file, and Prerequisite if this user cannot enter the containers.
    """
    from bench.outside import adopt

    return adopt.find_world(path)


def observe_world(
    world: Adoption,
    checks: str = "",
    *,
    timeout: float | None = None,
    on_event: Callable[[str, Event], None] = lambda kernel, event: None,
) -> Observed:
    """Observe the semantics of a VIP in a world of containers that exist already. Nothing is changed there.

    `checks`, `timeout` and `on_event` are as those of `observe`.
    """
    from bench.outside import adopt
    from scenarios import checks as semantics

    return Observed(adopt.observe(world, semantics.select(checks), timeout=timeout, on_event=on_event))


def runnable(planes: Planes) -> list[str]:
    """Return the names of those planes that can run on this machine's own kernel, by this user."""
    from bench import kernels as under_test
    from bench.outside import choose

    host = under_test.resolve("host", "wall")
    return [each.name for each in _selected(planes) if not choose.obstacle(host, [each])]


def frame(rows: Sequence[tidy.Row], columns: Sequence[str]) -> pandas.DataFrame:
    """Return rows as a pandas frame with these columns. Raises Prerequisite without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise Prerequisite(
            "pandas is not installed", why="frames need it", fix="pip install vip-bench[frames]"
        ) from error
    return pandas.DataFrame(rows, columns=list(columns))


def parquet(table: pandas.DataFrame) -> bytes:
    """Return a frame as the bytes of a parquet file. Raises Prerequisite without pyarrow."""
    try:
        return bytes(table.to_parquet())
    except ImportError as error:
        fix = "pip install 'vip-bench[frames]'"
        raise Prerequisite("pyarrow is not installed", why="pandas writes parquet files with it", fix=fix) from error


def encoded(document: msgspec.Struct) -> bytes:
    """Return a document as the bytes of its file: indented JSON that ends with a line feed."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _lanes(cluster: str | None, jobs: int | None) -> Lanes:
    from bench.outside.lanes import Here

    if cluster is None:
        return Here(jobs)
    from bench.outside.cluster import Cluster

    return Cluster(cluster, jobs)


def _selected(planes: Planes) -> list[Selection]:
    """Return the chosen planes. Names are parsed here, and nowhere else."""
    from scenarios import expectations

    parts = [planes] if isinstance(planes, str) else planes
    found = [one for each in parts for one in ([each] if isinstance(each, Selection) else catalog.select(each))]
    expectations.demand_known(found)
    return found
