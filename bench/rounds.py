"""In which order trials run: interleaved rounds, each second one reversed, so that drift hits every plane alike.

(asv does the same, asv/commands/run.py; Google Benchmark measured 40 % less variance between runs from interleaving.)
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.documents import TrialPlan

WARMUP_SHARE = 10
"""A warm-up trial makes one tenth of the connections: it is there to load modules and page in programs."""


def interleave(
    dataplanes: Sequence[str],
    rounds: int,
    *,
    connections: int,
    concurrency: int,
    workloads: Sequence[str] = ("crr",),
    services: Sequence[int] = (0,),
) -> list[TrialPlan]:
    """A warm-up round, then `rounds` rounds: A B C, C B A, A B C, ...; in each every workload at every size."""

    def trials(number: int, order: Sequence[str], count: int) -> list[TrialPlan]:
        return [
            TrialPlan(name, number, number == 0, count, concurrency, workload, size)
            for workload in workloads
            for size in services
            for name in order
            if size or workload != "program"
        ]

    plans = trials(0, dataplanes, max(connections // WARMUP_SHARE, concurrency))
    for number in range(1, rounds + 1):
        plans += trials(number, dataplanes if number % 2 else list(reversed(dataplanes)), connections)
    return plans
