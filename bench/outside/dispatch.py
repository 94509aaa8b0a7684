"""Hand a job to the kernel under test, and bring its events and errors back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import msgspec

from bench.documents import Event, Job
from bench.kernels import Command, Kernel, headers
from bench.prepare import preflight
from bench.prepare.ready import make_ready, requirements
from dataplanes import errors, extensions, follower
from scenarios import requires

_decoder = msgspec.json.Decoder(Event)
_UNDISTURBED = ("env", "--block-signal=HUP,INT,TERM")
"""Signals wait until python can take them. An interrupt while it starts would be a traceback (see interrupt.catch)."""


def _headers(job: Job, kernel: Kernel) -> dict[str, str]:
    """Return the variable that tells bcc where the kernel's headers are, if the job profiles."""
    profiled = any(trial.profile for trial in job.trials)
    return {"BCC_KERNEL_SOURCE": str(headers(kernel.release))} if profiled else {}


def dispatch(
    job: Job,
    kernel: Kernel,
    *,
    timeout: float | None = None,
    tty: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> int:
    """Run a job on a kernel and return the exit code.

    Raises the error of the kernel under test as if it had happened here.
    """
    job = msgspec.structs.replace(job, extensions=list(extensions.known()))
    more = follower.REQUIRES if job.kind == "trace" or job.traced else ()
    more = (*more, *requires.of(job.own or job.scenario))
    make_ready(job.selections, kernel, {trial.workload for trial in job.trials}, more, evidence=job.evidence)
    failure: list[errors.BenchError] = []

    def take(line: bytes) -> None:
        event = _decoder.decode(line)
        if event.kind == "error":
            failure.append(event.error())
        else:
            on_event(event)

    command = Command(
        argv=(*_UNDISTURBED, sys.executable, "-m", "bench.start", "inside"),
        env={**os.environ, "BENCH_CLOCK": kernel.clock, **_headers(job, kernel)},
        cwd=os.getcwd(),
        stdin=job.kind == "lab" or job.pause,  # it may run a command of the user's
        tty=tty,
        timeout=timeout,
        modules=preflight.modules((*requirements(job.selections), *more)),
        input=msgspec.json.encode(job),
    )
    code = kernel.execute(command, take)
    if failure:
        raise failure[0]
    return code
