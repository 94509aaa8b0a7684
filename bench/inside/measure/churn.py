"""The workload `churn`: connections at a steady rate while replicas are added and removed in order."""

from __future__ import annotations

import msgspec

from bench.documents import TrialPlan
from bench.inside.measure.traffic import FiguresAndWork, connections, finish, start, targets
from bench.load import LoadResult
from dataplanes.selection import Selection
from scenarios.testbed import Testbed

_SECONDS = 5.0
_TIMEOUT_MS = 3000
_WINDOW = 4096


def churn(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Add a replica, remove the newest one, and repeat until the connections are made. These are spread over 5 s."""
    service = testbed.scenario.traffic.service
    replicas = len(testbed.service(service).backends)
    rate = max(int(plan.connections / _SECONDS), 1)
    sizes = {"connections": plan.connections, "concurrency": _WINDOW, "rate": rate, "timeout": _TIMEOUT_MS}
    process = start(testbed, "load", targets(testbed, selection), **sizes)
    changes = 0
    while process.poll() is None:
        testbed.scale(service, replicas + 1 - changes % 2)
        changes += 1
    result = msgspec.json.decode(finish(testbed, process), type=LoadResult)
    figures, work = connections(result, clock, rate)
    return figures | {"changes": changes}, work
