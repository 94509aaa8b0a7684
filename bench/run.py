"""`bench run`: plan the trials, have them done on the kernel under test, sum them up."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench import __version__, rounds
from bench.dispatch import dispatch
from bench.documents import Event, Job, Result, Trial, TrialPlan
from bench.kernels import Kernel
from dataplanes.catalog import DIRECT, Selection
from dataplanes.errors import BenchError


def plan(
    selections: Sequence[Selection],
    repeat: int,
    connections: int,
    concurrency: int,
    workloads: Sequence[str] = ("crr",),
    services: Sequence[int] = (0,),
) -> list[TrialPlan]:
    """The trials in order; `direct` is always among them, and first, as the ceiling."""
    names = [DIRECT, *(selection.name for selection in selections if selection.dataplane != DIRECT)]
    sizes = {"connections": connections, "concurrency": concurrency}
    return rounds.interleave(names, repeat, workloads=workloads, services=services, **sizes)


def run(
    scenario: str,
    selections: Sequence[Selection],
    trials: Sequence[TrialPlan],
    kernel: Kernel,
    *,
    reason: str,
    timeout: float | None,
    on_event: Callable[[Event], None],
) -> Result:
    """Have the trials done. Raises what the inside raised; returns every trial and their summary."""
    done: list[Trial] = []
    environment: dict[str, Any] = {}

    def take(event: Event) -> None:
        if event.kind == "trial":
            done.append(msgspec.convert(event.data, Trial))
        elif event.kind == "environment":
            environment.update(event.data)
        on_event(event)

    job = Job("trials", scenario, trials=list(trials))
    code = dispatch(job, kernel, selections, timeout=timeout, on_event=take)
    if code:
        raise BenchError("the run ended early", where=kernel.name, why=f"exit code {code}")
    from bench.statistics import summarise  # numpy and scipy load while nobody waits for the plan

    return Result(
        tool={"name": "bench", "version": __version__, "python": platform.python_version()},
        environment=environment
        | {"kernel_name": kernel.name, "kernel_reason": reason, "accelerated": kernel.accelerated},
        plan={
            "scenario": scenario,
            "dataplanes": [msgspec.to_builtins(selection) for selection in selections],
            "command": shlex.join(["bench", *sys.argv[1:]]),
            "trials": msgspec.to_builtins(list(trials)),
        },
        trials=done,
        summary=summarise(done),
    )
