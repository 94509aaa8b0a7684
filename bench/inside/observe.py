"""The matrix on the kernel under test: a lab per plane and scenario, with all its checks.

Outcomes are sent as events.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from bench.documents import Event, Job
from bench.inside import capture, environment, trial
from dataplanes import catalog
from dataplanes.errors import BenchError, Unsupported
from dataplanes.selection import Selection
from scenarios import casting, checks, expectations, topology, walk
from scenarios.checks import Cell, Check
from scenarios.checks.world import World
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.outcomes import Outcome

if TYPE_CHECKING:
    from bench.inside.traces import Traces

Tell = Callable[[Event], None]
_EVIDENCE = 2
"""The largest number of cells per plane and scenario with evidence.

Under emulation a walk through a lab takes a minute.
"""


def _traces(tell: Tell) -> Traces:
    """Return what follows the packets of checks. Its modules are imported only where packets are followed."""
    from bench.inside.traces import Traces

    return Traces(tell)


def matrix(job: Job, clock: str, tell: Tell, pause: Callable[[Lab], object]) -> int:
    """Observe every cell of the job. Observe an unexpected one a second time, with evidence."""
    tell(Event("environment", data=environment.collect(clock)))
    wanted = checks.named(job.checks)
    traces = _traces(tell) if job.traced else None
    for selection in job.selections:
        for scenario in checks.scenarios(wanted):
            observer = _Observer(selection, scenario, clock, tell, pause if job.pause else None, job.own, traces)
            observer.evidence = _EVIDENCE if job.evidence or job.pause else 0
            observer.observe([each for each in wanted if each.scenario == scenario])
    return 0


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
        pause: Callable[[Lab], object] | None,
        own: str,
        traces: Traces | None = None,
    ) -> None:
        self._selection = selection
        self._clock = clock
        self._own = own
        self._cast = casting.cast(topology.load(own)) if own else casting.Cast(topology.load(scenario))
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
                    outcome: Outcome = "fail" if isinstance(error, Unsupported) else "error"
                    for each in rest:
                        self._report(Cell(self._selection.name, each.name, outcome, f"no lab: {error}", 0.0))
                    return
                world = World(lab)
                if self._traces:
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

    def _enter(self, stack: ExitStack) -> Lab:
        journal = stack.enter_context(Journal())
        lab = stack.enter_context(trial.build(self._cast.scenario, self._selection, journal))
        lab.absent = self._cast.missing
        return lab

    def _report(self, cell: Cell) -> bool:
        """Report a cell. Return True if its outcome is the expected one.

        A lab of a check's own scenario has everything that the check asks for. One that finds only there that it does
        not apply is at fault.
        """
        found = expectations.expected(self._selection, cell.check, platform.release())
        if cell.outcome == "skip" and (self._own or self._skipped(checks.CHECKS[cell.check])):  # the detail says why
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
        """Observe a check again in its own lab, with the packets of every namespace and the walk through the lab."""
        try:
            with ExitStack() as stack:
                lab = self._enter(stack)
                with capture.capture([name for _, _, name in lab.namespaces()]) as packets:
                    (cell,) = checks.observe([check], World(lab), self._selection.name)
                evidence = {
                    "dataplane": self._selection.name,
                    "check": check.name,
                    "again": f"{cell.outcome}: {cell.detail}",
                    "inspect": walk.text(walk.walk(lab)),
                    "packets": {name: base64.b64encode(data).decode() for name, data in packets.items()},
                }
                self._tell(Event("evidence", data=evidence))
                if self._pause:
                    self._pause(lab)
        except BenchError as error:
            self._tell(
                Event("evidence", data={"dataplane": self._selection.name, "check": check.name, "again": str(error)})
            )
