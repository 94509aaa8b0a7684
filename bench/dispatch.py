"""Hand a job to the inside on some kernel, and bring its events and errors back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench import load, objects, preflight
from bench.bytecode import compile_bytecode
from bench.documents import Event, Job
from bench.kernels import Command, Kernel, headers
from bench.workloads import WORKLOADS
from dataplanes import catalog, errors
from dataplanes.catalog import Selection
from dataplanes.requirements import Requirement
from scenarios.requires import REQUIRES

_decoder = msgspec.json.Decoder(Event)
_UNDISTURBED = ("env", "--block-signal=HUP,INT,TERM")
"""A signal waits until python can take it: while it starts, an interrupt is a traceback (see interrupt.catch)."""


def requirements(selections: Iterable[Selection]) -> tuple[Requirement, ...]:
    """What the lab and the planes need together."""
    return tuple(dict.fromkeys((*REQUIRES, *(need for each in selections for need in catalog.requires(each)))))


def prepare(selections: Sequence[Selection], kernel: Kernel, workloads: Iterable[str] = ()) -> None:
    """Everything that is made once and kept. Raises Prerequisite if the kernel or the machine lacks something."""
    tools = [tool for name in workloads for tool in WORKLOADS[name].tools]
    preflight.demand((*requirements(selections), *tools), kernel, ", ".join(selection.name for selection in selections))
    load.binary()  # the guest can run it, but not compile it into the cache
    compile_bytecode()
    objects.prepare(requirements(selections), kernel)


def _headers(job: Job, kernel: Kernel) -> dict[str, str]:
    """Where bcc finds the kernel's headers, if the job profiles."""
    profiled = any(trial.profile for trial in job.trials)
    return {"BCC_KERNEL_SOURCE": str(headers(kernel.release))} if profiled else {}


def dispatch(
    job: Job,
    kernel: Kernel,
    selections: Sequence[Selection],
    *,
    timeout: float | None = None,
    tty: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> int:
    """Run a job on a kernel; returns the exit code. Raises what the inside raised, as if it had happened here."""
    prepare(selections, kernel, {trial.workload for trial in job.trials})
    failure: list[errors.BenchError] = []

    def take(line: bytes) -> None:
        event = _decoder.decode(line)
        if event.kind == "error":
            failure.append(event.error())
        else:
            on_event(event)

    command = Command(
        argv=(*_UNDISTURBED, sys.executable, "-m", "bench.start", "inside", msgspec.json.encode(job).decode()),
        env={**os.environ, "BENCH_CLOCK": kernel.clock, **_headers(job, kernel)},
        cwd=os.getcwd(),
        tty=tty,
        timeout=timeout,
        modules=preflight.modules(requirements(selections)),
    )
    code = kernel.execute(command, take)
    if failure:
        raise failure[0]
    return code
