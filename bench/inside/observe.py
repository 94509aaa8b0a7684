"""The matrix on the kernel under test: a lab per plane and scenario, with all its checks.

Outcomes are sent as events.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from bench.documents import Event, Job
from bench.inside import capture, environment, trial
from dataplanes import catalog, platforms
from dataplanes.errors import BenchError, NotApplicable, Unsupported
from dataplanes.selection import Selection
from scenarios import casting, checks, expectations, topology, walk
from scenarios.checks import Cell, Check
from scenarios.checks.world import World
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.outcomes import Outcome
from scenarios.testbed import Testbed

if TYPE_CHECKING:
    from bench.inside.traces import Traces

Tell = Callable[[Event], None]
_EVIDENCE = 2
"""The largest number of cells per plane and scenario with evidence.

Under emulation a walk through a lab takes a minute.
"""


def _traces(tell: Tell, clock: str) -> Traces:
    """Return what follows the packets of checks. Its modules are imported only where packets are followed."""
    from bench.inside.traces import Traces

    return Traces(tell, clock)


def matrix(job: Job, clock: str, tell: Tell, pause: Callable[[Testbed], object]) -> int:
    """Observe every cell of the job. Observe an unexpected one a second time, with evidence."""
    tell(Event("environment", data=environment.collect(clock)))
    wanted = checks.named(job.checks)
    traces = _traces(tell, clock) if job.traced else None
    for selection in job.selections:
        for scenario in checks.scenarios(wanted):
            observer = _Observer(selection, scenario, clock, tell, pause if job.pause else None, job.own, traces)
            observer.evidence = _EVIDENCE if job.evidence or job.pause else 0
            observer.observe([each for each in wanted if each.scenario == scenario])
    return 0


def _without_lab(error: BenchError) -> tuple[Outcome, str]:
    """Return the outcome of a check that has no lab because of this, and what is told of it."""
    if isinstance(error, NotApplicable):
        return "skip", f"not applicable: {error}"
    return "fail" if isinstance(error, Unsupported) else "error", f"no lab: {error}"


class _Observer:
    """One plane in one scenario.

    The checks share a lab; after a check that ends in an error the next gets a fresh lab.
    """

    def __init__(
        self,
        selection: Selection,
        scenario: str,
        clock: str,
        tell: Tell,
        pause: Callable[[Testbed], object] | None,
        own: str,
        traces: Traces | None = None,
    ) -> None:
        self._selection = selection
        self._clock = clock
        self._own = own
        self._foreign = bool(own or platforms.of(selection))  # it need not have what a check asks for
        self._named = own or scenario
        self._cast = self._casting()
        self._tell = tell
        self._pause = pause
        self.evidence = 0
        self._traces = traces

    def observe(self, wanted: Sequence[Check]) -> None:
        for each in wanted:
            if why := self._skipped(each):
                self._report(Cell(self._selection.name, each.name, "skip", why, 0.0))
        rest = [each for each in wanted if not self._skipped(each)]
        while rest:
            with ExitStack() as stack:
                try:
                    lab = self._enter(stack)
                except BenchError as error:
                    for each in rest:
                        self._report(Cell(self._selection.name, each.name, *_without_lab(error), 0.0))
                    return
                world = World(lab)
                if self._traces:
                    assert isinstance(lab, Lab)  # as bench.api demands
                    stack.enter_context(self._traces.attached(lab))
                well = True
                while rest and well:
                    batch = [each for each in rest if each.idles] if rest[0].idles else rest[:1]
                    rest = [each for each in rest if each not in batch]
                    well = self._observe(batch, world)

    def _observe(self, batch: Sequence[Check], world: World) -> bool:
        """Observe checks in a lab. Return False if the lab cannot be used any more."""
        well = True
        if self._traces:
            self._traces.begin()
        for cell in checks.observe(batch, world, self._selection.name):
            well = well and cell.outcome != "error"
            if self._traces and len(batch) == 1:  # the packets of several at once cannot be told apart
                self._traces.tell(cell)
            if not self._report(cell) and self.evidence:
                self.evidence -= 1
                self._show(checks.CHECKS[cell.check])
        return well

    def _enter(self, stack: ExitStack) -> Testbed:
        journal = stack.enter_context(Journal())
        self._cast = self._casting()
        testbed = stack.enter_context(trial.observed(self._cast.scenario, self._selection, journal))
        testbed.absent = self._cast.missing
        return testbed

    def _casting(self) -> casting.Cast:
        """Read the scenario. Each testbed has one of its own, in which it writes the addresses that it has chosen."""
        scenario = topology.load(self._named)
        return casting.cast(scenario) if self._own else casting.Cast(scenario)

    def _report(self, cell: Cell) -> bool:
        """Report a cell. Return True if its outcome is the expected one.

        The detail says why a check does not apply. A lab of a check's own scenario has everything that it asks for. One
        that finds only there that it does not apply is at fault.
        """
        found = expectations.expected(self._selection, cell.check, platform.release())
        if cell.outcome == "skip" and (self._foreign or self._skipped(checks.CHECKS[cell.check])):
            found = msgspec.structs.replace(found, expected="skip", reason=cell.detail)
        cell.expected, cell.detail = found.expected, self._cast.told(cell.detail)
        data = msgspec.to_builtins(cell) | {"reason": found.reason, "reference": found.reference}
        self._tell(Event("cell", data=data))
        return cell.outcome == cell.expected

    def _skipped(self, check: Check) -> str:
        if self._own and check.scenario != casting.STANDS_IN_FOR:
            return f"not applicable: it needs the scenario {check.scenario}"
        chosen = self._selection
        able = catalog.any_port(chosen), catalog.in_turn(chosen), catalog.protocols(chosen)
        return checks.skipped(check, self._clock, *able)

    def _show(self, check: Check) -> None:
        """Observe a check again in its own lab, with the packets of every namespace and the walk through the lab.

        The packets to VIPs are followed, too, unless they were the first time.
        """
        evidence: dict[str, Any] = {"dataplane": self._selection.name, "check": check.name}
        try:
            with ExitStack() as stack:
                lab = self._enter(stack)
                traces = self._attached(stack, lab, evidence)
                with capture.capture([name for _, _, name in lab.namespaces()]) as packets:
                    (cell,) = checks.observe([check], World(lab), self._selection.name)
                if traces:
                    evidence["flow"] = msgspec.to_builtins(traces.followed(cell))
                evidence |= {
                    "again": f"{cell.outcome}: {cell.detail}",
                    "inspect": walk.text(walk.walk(lab)),
                    "packets": {name: base64.b64encode(data).decode() for name, data in packets.items()},
                }
                self._tell(Event("evidence", data=evidence))
                if self._pause:
                    self._pause(lab)
        except BenchError as error:
            self._tell(Event("evidence", data=evidence | {"again": str(error)}))

    def _attached(self, stack: ExitStack, lab: Testbed, evidence: dict[str, Any]) -> Traces | None:
        """Follow the packets of the next check. Where the kernel cannot do that, the evidence says why."""
        if self._traces or not isinstance(lab, Lab):
            return None
        try:
            traces = _traces(self._tell, self._clock)
            stack.enter_context(traces.attached(lab))
        except BenchError as error:
            evidence["unfollowed"] = str(error)
            return None
        traces.begin()
        return traces
