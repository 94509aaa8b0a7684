"""The command `bench run`: it plans the trials, has them done on the kernel under test, and summarises them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from bench import __version__
from bench.documents import Event, Goal, Job, Result, Round, TrialPlan
from bench.documents.agreement import LEAST, Agreement, figure
from bench.documents.metrics import units
from bench.documents.workloads import WORKLOADS, demand_ports
from bench.kernels import Kernel
from bench.outside import estimate, provenance, rounds
from bench.outside.lanes import Lanes, Share
from bench.outside.rounds import Series
from bench.outside.store import Store
from bench.prepare.ready import make_ready
from dataplanes import platforms
from dataplanes.errors import Usage
from dataplanes.selection import DIRECT, REFERENCE, Selection, balances
from scenarios import topology

_TRIALS = 50_000
"""The largest number of trials in one run. At a second each they take half a day."""


def plan(
    selections: Sequence[Selection],
    repeat: int,
    connections: int,
    series: Sequence[Series] = (Series(),),
    *,
    clock: str = "wall",
    profile: bool = False,
) -> list[TrialPlan]:
    """Return the trials in order.

    `direct` is always among them, and first, as the reference; of a platform it is the platform's own. Warm-ups may be
    profiled. By the instruction clock there are no others: it skips the wait for the files that a first trial reads.
    """
    planes = _with_references(selections)
    count = len(planes) * repeat * sum(len(each.workloads) * len(each.points) for each in series)
    if count > _TRIALS:
        raise Usage(f"{count:,} trials are too many", why=f"the most is {_TRIALS:,}", fix="fewer rounds or points")
    warm: rounds.Warm = "workload" if profile else "nothing" if clock == "instructions" else "plane"
    found = rounds.interleave(planes, repeat, connections=connections, series=series, warm=warm)
    for trial in found:
        if profile and trial.warmup:
            trial.profile, trial.connections = True, connections
    return found


def _with_references(selections: Sequence[Selection]) -> list[Selection]:
    """Return the direct path of each testbed that is needed, the references, and then the planes."""
    planes = [each for each in selections if each.dataplane != DIRECT]
    asked = [each for each in selections if each.dataplane == DIRECT]
    needed = [platforms.direct(each) if platforms.of(each) else REFERENCE for each in planes]
    return [*{each.name: each for each in (*asked, *needed)}.values(), *planes]


def demand_possible(scenario: str, trials: Sequence[TrialPlan]) -> None:
    """Raise Usage for a point that the scenario cannot have, or for a trial that would run out of ports."""
    worlds = {at: topology.load(scenario, at) for at in dict.fromkeys(trial.axes for trial in trials)}
    for trial in sorted(trials, key=lambda each: (not balances(each.dataplane), -each.connections)):  # the worst first
        world = worlds[trial.axes]
        to_all = not balances(trial.dataplane) or WORKLOADS[trial.workload].own_addresses
        targets = len(world.service(world.traffic.service).tasks) if to_all else 1
        demand_ports(trial.workload, trial.connections, trial.axes, targets)


class Run:
    """The trials of a run on one kernel, which are kept when they end."""

    def __init__(
        self,
        scenario: str,
        selections: Sequence[Selection],
        trials: Sequence[TrialPlan],
        kernel: Kernel,
        *,
        reason: str,
        lanes: Lanes,
        output: str | None = None,
        goal: Goal | None = None,
    ) -> None:
        """Create the run.

        `output` is the result's file, beside which trials are kept. `lanes` are the places of guests. With a
        `goal` a series ends when it has reached that.
        """
        self._scenario = scenario
        self._selections = selections
        self._plan = list(trials)
        self._kernel = kernel
        self._reason = reason
        self._lanes = lanes
        self.goal = goal
        self._store = self._kept(f"{output}.trials") if output and output != "-" else Store(None, ())
        self.done = len(self._store.trials)
        self.left = self._left()

    def _kept(self, path: str) -> Store:
        """Read the trials beside the result. Those of another program, kernel or plan are reported, and begun anew."""
        kernel = self._kernel
        make_ready(self._selections, kernel, {trial.workload for trial in self._plan})
        made_of = provenance.identity(kernel, self._selections)
        where = kernel.name, kernel.release, kernel.clock
        store = Store(Path(path), (__version__, made_of, where, topology.load(self._scenario), self._plan))
        if store.replaced:
            print(f"bench: {path} is {store.replaced}: begun anew", file=sys.stderr)
        return store

    def _left(self) -> list[TrialPlan]:
        """Return the planned trials that are neither done nor made needless by those that are."""
        return Agreement(self.goal, self._measured()).needed(self._store.left(self._plan))

    def _measured(self) -> list[Round]:
        return [figure(trial) for trial in self._store.trials if not trial.warmup]

    def lanes(self) -> int:
        """Return how many guests share the work that is left."""
        return self._lanes.count(self._kernel, len(self._units()))

    def seconds(self) -> dict[tuple[object, ...], float]:
        """Return the estimated seconds of each trial that is left, by its key, at the processor's speed.

        Rounds that are done only if earlier ones disagree are not among them.
        """
        sure = [trial for trial in self.left if not (self.goal and trial.round > LEAST[self.goal.clock])]
        worlds = {at: topology.load(self._scenario, at) for at in dict.fromkeys(trial.axes for trial in sure)}
        planes = {each.name: each for each in _with_references(self._selections)}
        return {trial.key(): estimate.seconds(trial, planes[trial.dataplane], worlds[trial.axes]) for trial in sure}

    def execute(self, *, timeout: float | None, on_event: Callable[[Event], None]) -> Result:
        """Do the trials that are left.

        Raises the errors of the kernel under test; trials that have ended stay on disk.
        """

        def take(event: Event) -> None:
            self._store.add(event)
            on_event(event)

        try:
            if self.left:
                self._execute(timeout, take)
        finally:
            self._store.close(discard=False)
        return self._result()

    def _execute(self, timeout: float | None, take: Callable[[Event], None]) -> None:
        dealt = self._lanes.deal(self._kernel, self._units())
        shares = [
            Share(
                self._kernel,
                Job(
                    "trials",
                    self._scenario,
                    planes,
                    trials=self._of(planes),
                    goal=self.goal,
                    rounds=self._measured() if self.goal else [],
                ),
            )
            for planes in ([*chain.from_iterable(units)] for units in dealt)
        ]
        self._lanes.run(shares, lambda _, event: take(event), timeout)

    def _units(self) -> list[list[Selection]]:
        """Return the planes that have trials left. A platform and its direct path share a guest and a testbed."""
        names = {trial.dataplane for trial in self.left}
        found: dict[object, list[Selection]] = {}
        for each in _with_references(self._selections):
            if each.name in names:
                found.setdefault(platforms.testbed(each) or each.name, []).append(each)
        return [*found.values()]

    def _of(self, planes: Sequence[Selection]) -> list[TrialPlan]:
        """Return the trials that are left of some planes."""
        names = {each.name for each in planes}
        return [trial for trial in self.left if trial.dataplane in names]

    def _result(self) -> Result:
        from bench.analysis import judge

        # numpy and scipy are loaded only here, so that the plan is shown without them.
        from bench.analysis.intervals import summarise

        order = {trial.key(): number for number, trial in enumerate(self._plan)}
        done = sorted(self._store.trials, key=lambda trial: order[trial.key()])
        kept = {trial.key() for trial in done}  # with a goal the plan has more than was needed
        environment = self._store.environment
        return Result(
            tool=provenance.tool(),
            environment=environment | provenance.kernel(self._kernel, self._reason),
            plan={
                "scenario": self._scenario,
                "dataplanes": provenance.planes(self._selections),
                "command": provenance.command(),
                "trials": msgspec.to_builtins([trial for trial in self._plan if trial.key() in kept]),
            },
            trials=done,
            summary=summarise(done, drifts=environment.get("clock") != "instructions"),
            warnings=judge.warnings(done, environment),
            units=units(name for trial in done for name in trial.figures),
        )

    def written(self) -> None:
        """Discard the kept trials, once the result is on disk."""
        self._store.close(discard=True)
