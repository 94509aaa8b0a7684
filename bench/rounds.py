"""In which order trials run: interleaved rounds, each second one reversed, so that drift hits every plane alike.

(asv does the same, asv/commands/run.py; Google Benchmark measured 40 % less variance between runs from interleaving.)
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.documents import TrialPlan

WARMUP_SHARE = 10
"""A warm-up trial makes one tenth of the connections: it is there to load modules and page in programs."""


def interleave(
    dataplanes: Sequence[str], rounds: int, *, connections: int, concurrency: int, workload: str = "crr"
) -> list[TrialPlan]:
    """A warm-up round, then `rounds` rounds: A B C, C B A, A B C, ..."""
    plans = [
        TrialPlan(name, 0, True, max(connections // WARMUP_SHARE, concurrency), concurrency, workload)
        for name in dataplanes
    ]
    for number in range(1, rounds + 1):
        order = dataplanes if number % 2 else list(reversed(dataplanes))
        plans += [TrialPlan(name, number, False, connections, concurrency, workload) for name in order]
    return plans
