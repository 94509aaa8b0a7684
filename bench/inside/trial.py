"""One trial: a fresh lab is built, the plane is programmed, all backends are reached, and the load is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from msgspec.structs import replace

from bench import load
from bench.documents import Figures, Held, Profile, Trial, TrialPlan, Work
from bench.documents.workloads import WORKLOADS
from bench.inside import environment
from bench.inside.measure import measure, prove
from dataplanes import catalog, platforms
from dataplanes.base import DataPlane
from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel import netns, sysctl
from dataplanes.selection import Selection
from scenarios import axes, topology
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.stopwatch import Steadiness, await_walk, settle
from scenarios.testbed import Testbed
from scenarios.topology import Scenario, Task


def build(
    scenario: Scenario,
    selection: Selection,
    journal: Journal,
    *,
    cgroups_for: Selection | None = None,
    make: Callable[[Lab], DataPlane] | None = None,
    udp_as_asked: bool = False,
) -> Lab:
    """Return the lab of a scenario with one plane on and all tasks serving.

    Containers have cgroups if the plane, or the one in `cgroups_for`, needs them. `make` makes the plane if it is not
    simply the selected one. With `udp_as_asked` the servers answer datagrams from the address that these were sent to;
    with direct routing an ordinary server does not.
    """
    server = _numbered(_server(scenario.traffic.port, udp_as_asked))
    plane = make or (lambda lab: catalog.make(selection, lab, journal))
    needing = cgroups_for or selection
    cgroups, in_turn = catalog.needs_cgroups(needing), catalog.in_turn(needing)
    declared = () if catalog.any_port(needing) else catalog.protocols(needing)
    return Lab(scenario, plane, journal=journal, server=server, cgroups=cgroups, declared=declared, in_turn=in_turn)


def _numbered(answers: Callable[[int], list[str]]) -> Callable[[Task], list[str]]:
    """Return what numbers the tasks of each service as they are created, and gives the command of a task's server."""
    ids: dict[str, list[str]] = {}

    def server(task: Task) -> list[str]:
        known = ids.setdefault(task.service, [])
        known.append(task.name)
        task.number = (len(known) - 1) % load.NUMBERS + 1  # of more backends, several have the same number
        return answers(task.number)

    return server


def _server(port: int, udp_as_asked: bool) -> Callable[[int], list[str]]:
    """Return what gives the command of a server with a number."""
    datagrams = {"udp_as_asked" if udp_as_asked else "udp": [port]}
    return lambda number: load.serve_argv(number, tcp=[port], **datagrams)


def observed(
    scenario: Scenario, selection: Selection, journal: Journal, *, udp_as_asked: bool = False
) -> AbstractContextManager[Testbed]:
    """Return what a selection is observed and measured on: a platform's own testbed, or our lab with the plane on."""
    platform = platforms.of(selection)
    if platform is None:
        return build(scenario, selection, journal, udp_as_asked=udp_as_asked)
    argv, version = _server(scenario.traffic.port, udp_as_asked), platforms.version(selection)
    made_of = platform.versions[version]
    if platform.name == "ovn":
        from scenarios.ovn.testbed import Ovn  # a guest without one need not pay for its modules

        return Ovn(scenario, made_of, version, journal=journal, server=_numbered(argv))
    from scenarios.swarm.image import TaskServer
    from scenarios.swarm.testbed import Swarm

    datagrams = "udp-as-asked" if udp_as_asked else "udp"
    server = TaskServer(load.binary(), datagrams, argv, platforms.servers(selection))
    return Swarm(scenario, made_of, version, journal=journal, server=server)


class Testbeds:
    """The testbeds of trials: a fresh lab for each, and one platform for those of a round."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._is: tuple[object, ...] = ()
        self._kept: Testbed | None = None

    def __enter__(self) -> Testbeds:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    @contextmanager
    def observed(self, world: Scenario, selection: Selection, plan: TrialPlan) -> Iterator[Testbed]:
        """Yield the testbed of a trial. One in which something went wrong is not used again."""
        if platforms.of(selection) is None:
            self._leave()
            with Journal() as journal, observed(world, selection, journal, udp_as_asked=True) as testbed:
                yield testbed
            return
        wanted = (platforms.testbed(selection), plan.round, plan.axes)
        if self._kept is None or self._is != wanted:
            self._leave()
            journal = self._held.enter_context(Journal())
            self._kept = self._held.enter_context(observed(world, selection, journal, udp_as_asked=True))
            self._is = wanted
        try:
            yield self._kept
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        self._kept = None
        self._held.close()


def run(scenario: str, selection: Selection, plan: TrialPlan, clock: str, testbeds: Testbeds) -> Trial:
    """Measure in the scenario at the plan's point. A plane that cannot reach its backends gets no figure.

    A trial during which the clock leapt is measured again, once: the files that it waited for are in memory then.
    """
    for _ in range(2):
        trial, broken = _once(scenario, selection, plan, clock, testbeds)
        if not broken:
            return trial
    return replace(trial, error=f"{plan.dataplane}: {broken}", figures={}, work=Work())


def _once(
    scenario: str, selection: Selection, plan: TrialPlan, clock: str, testbeds: Testbeds
) -> tuple[Trial, BenchError | None]:
    """Return a trial, and why the machine is not to be believed while it was made, or None.

    While the testbed is built the clock may leap: thousands of containers wait for their files, and no time-out of the
    kernel counts yet. So it may during programming, because a plane that runs thousands of programs waits each time.
    """
    world = topology.load(scenario, plan.axes)
    if not WORKLOADS[plan.workload].filled:
        world.filler = None
    trial = Trial(plan.dataplane, world.name, plan.workload, plan.round, plan.warmup, {}, axes=plan.axes)
    broken = None
    try:
        with testbeds.observed(world, selection, plan) as testbed:
            steadiness = Steadiness()
            try:
                _fill_in(trial, testbed, selection, plan, clock)
            finally:
                broken = None if WORKLOADS[plan.workload].of_programming else steadiness.broken()
    except Prerequisite:  # the machine lacks something, so no other trial would succeed
        raise
    except BenchError as error:
        trial.error, trial.figures, trial.work = str(error), {}, Work()
    return trial, broken


def _fill_in(trial: Trial, testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> None:
    """Measure, and give the trial what was found."""
    _make_steady(testbed, selection, plan, clock)
    if plan.round <= 1:
        trial.settings = _settings(testbed)
    trial.figures, trial.work, held, trial.profile = _measure(testbed, selection, plan, clock)
    if plan.round <= 1:
        trial.held = held


def _make_steady(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> None:
    """Prove that the plane works, and leave the testbed with nothing to do but what will be measured."""
    if plan.axes.sources:
        testbed.alias(testbed.scenario.traffic.client, plan.axes.sources)
    if clock == "instructions":
        await_walk()  # before neighbours are found: those found half a minute ago cost more to send to (NUD_STALE)
    with _own_ports(testbed):
        prove(testbed, selection)
    if plan.axes.ports:
        _ports(testbed, 65536 - plan.axes.ports, 65535)
    if clock == "instructions":
        with testbed.at_rest():
            settle()


def _measure(
    testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str
) -> tuple[Figures, Work, list[Held], Profile | None]:
    if not plan.profile:
        return *measure(testbed, selection, plan, clock), None
    from bench.inside.measure.profiler import Profiler  # importing bcc loads its compiler

    with Profiler() as profiler:
        with profiler.sampling():
            figures, work, held = measure(testbed, selection, plan, clock)
        with profiler.counting():
            _, counted, _ = measure(testbed, selection, plan, clock)
        return figures, work, held, profiler.profile(counted.operations or 0)


@contextmanager
def _own_ports(testbed: Testbed) -> Iterator[None]:
    """Give the client source ports for the block that nothing else uses.

    On some planes a port that was used through a VIP does not reach the same backend directly
    (identity.direct-after-vip).
    """
    _ports(testbed, 20_000, 29_999)
    yield
    _ports(testbed, axes.FIRST_PORT, axes.LAST_PORT)


def _ports(testbed: Testbed, first: int, last: int) -> None:
    """Set the client's ephemeral ports."""
    client = testbed.containers[testbed.scenario.traffic.client]
    sysctl.write(client.netns, {"net.ipv4.ip_local_port_range": f"{first}\t{last}"})


def _settings(testbed: Testbed) -> dict[str, dict[str, str]]:
    """Return the settings and the offloads in the client's container and on its node."""
    client = testbed.containers[testbed.scenario.traffic.client]
    found = {}
    for kind, node, name in testbed.namespaces():
        if node == client.task.node and (kind != "container" or name == client.netns):
            with netns.inside(name):
                found[kind] = environment.settings()
    return found
