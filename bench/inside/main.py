"""The program on the kernel under test. It does the job in the file BENCH_INPUT, and sends events on the event channel.

It is the same on the host and in the guest, and is started as `python -m bench.start inside`. Its imports are few,
because under emulation they cost more than the work.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.documents import Event, Job
from bench.documents.agreement import Agreement, figure
from bench.inside import environment, shell, trial
from bench.inside.measure.ceiling import ceiling
from bench.inside.trial import Testbeds
from dataplanes import catalog, extensions, platforms
from dataplanes.kernel import interrupt
from dataplanes.selection import REFERENCE
from scenarios import topology
from scenarios.journal import Journal
from scenarios.testbed import Testbed

_FILES = 65_536
_encoder = msgspec.json.Encoder()


def _tell(event: Event) -> None:
    channel = os.environ.get("BENCH_EVENTS_FD")
    if channel:
        os.write(int(channel), _encoder.encode(event) + b"\n")


def _trials(job: Job, clock: str) -> int:
    most = max(plan.connections for plan in job.trials), max(plan.axes.concurrency for plan in job.trials)
    facts = environment.collect(clock) | {"generator_ceiling": ceiling(*most)}
    _tell(Event("environment", data=facts))
    selections = {each.name: each for each in job.selections}
    agreement = Agreement(job.goal, job.rounds)
    with Testbeds() as testbeds:
        for plan in job.trials:
            if agreement.reached(plan):
                continue
            done = trial.run(job.scenario, selections[plan.dataplane], plan, clock, testbeds)
            _tell(Event("trial", data=msgspec.to_builtins(done)))
            if not done.warmup:
                agreement.add(figure(done))
    return 0


def _lab(job: Job, clock: str) -> int:
    scenario = topology.load(job.scenario)
    (selection,) = job.selections
    with Journal() as journal, trial.observed(scenario, selection, journal) as testbed:
        return _shell(testbed, job.command)


def _shell(testbed: Testbed, command: list[str]) -> int:
    _tell(Event("stage", "ready"))
    return shell.run(testbed, command)


def _matrix(job: Job, clock: str) -> int:
    from bench.inside import observe

    return observe.matrix(job, clock, _tell, lambda lab: _shell(lab, []))


def _explore(job: Job, clock: str) -> int:
    from bench.inside import explore

    return explore.explore(job, clock, _tell)


def _trace(job: Job, clock: str) -> int:
    from bench.inside import tracing

    return tracing.trace(job, clock, _tell)


def _adopt(job: Job, clock: str) -> int:
    from bench.inside import adopt

    return adopt.observe(job, clock, _tell)


def _inspect(job: Job, clock: str) -> int:
    from scenarios import walk

    scenario = topology.load(job.scenario)
    (selection,) = job.selections
    if platforms.of(selection):  # what it adds cannot be told from what was there before
        with Journal() as journal, trial.observed(scenario, selection, journal) as testbed:
            _tell(Event("report", data=walk.walk(testbed)))
        return 0
    with Journal() as journal, trial.build(scenario, REFERENCE, journal, cgroups_for=selection) as lab:
        report = walk.report(lab, lambda lab: catalog.make(selection, lab, journal))
    _tell(Event("report", data=report))
    return 0


_KINDS = {
    "trials": _trials,
    "lab": _lab,
    "inspect": _inspect,
    "matrix": _matrix,
    "explore": _explore,
    "trace": _trace,
    "adopt": _adopt,
}


def _allow_files() -> None:
    """Raise the limit of open files.

    A lab holds several sockets per namespace, and 300 containers exceed the usual 1024.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # raising the hard limit takes a capability that not every root has
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, _FILES), max(most, _FILES)))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Do the job. An error is sent as an event, and becomes the exit code."""
    return interrupt.exit_code(_interruptible, lambda error: _tell(Event.of(error)))


def _interruptible() -> int:
    with interrupt.prevailing():
        return _do()


def _do() -> int:
    _allow_files()
    job = msgspec.json.decode(Path(os.environ.pop("BENCH_INPUT")).read_bytes(), type=Job)
    extensions.adopt(job.extensions)
    return _KINDS[job.kind](job, os.environ.get("BENCH_CLOCK", "wall"))
