"""The workload `gap`: the longest time for which containers that use no VIP hear nothing while services are programmed.

Two containers of one node exchange datagrams on one processor, and this process programs on another.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from bench import load
from bench.documents import Figures, TrialPlan, Work
from bench.inside.measure.traffic import FiguresAndWork, finish
from bench.load import GapResult
from dataplanes.errors import Prerequisite
from dataplanes.selection import Selection
from scenarios.lab import Lab
from scenarios.stopwatch import timed
from scenarios.topology import ServiceSpec, Task

_ADDED = 10
"""The services that are added one by one. A single one takes some planes a millisecond."""


class _Bystanders(Struct):
    """The two containers: the one that asks, the address of the one that answers, and their processor."""

    asking: str
    target: str
    processor: int


def gap(lab: Lab, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure the longest gap while all services are programmed at once, and while a few more are added one by one.

    Beside each is the longest gap in as long a time in which nothing is programmed. Raises Prerequisite if there is
    only one processor.
    """
    plane = lab.plane
    assert plane
    services = lab.fillers(plan.axes.services + _ADDED, plan.axes.backends or 3)
    rest, added = services[:-_ADDED], services[-_ADDED:]
    with _processors() as processor:
        others = _bystanders(lab, processor)

        def add() -> None:
            for one in added:
                plane.apply([one])

        figures = _while(lab, others, "install", lambda: plane.apply(rest))
        figures |= _while(lab, others, "add_service", add)
    figures["add_service_ms"] /= _ADDED
    return figures, Work()


@contextmanager
def _processors() -> Iterator[int]:
    """Keep this process and the programs that it runs on one processor for the block. Yield another one."""
    may = os.sched_getaffinity(0)
    if len(may) < 2:
        raise Prerequisite("there is only one processor", why="others exchange packets while one programs")
    ours, theirs = sorted(may)[:2]
    os.sched_setaffinity(0, {ours})
    try:
        yield theirs
    finally:
        os.sched_setaffinity(0, may)


def _bystanders(lab: Lab, processor: int) -> _Bystanders:
    """Create two containers on the client's node. Their service has a VIP, which nobody uses."""
    traffic = lab.scenario.traffic
    node, network = lab.containers[traffic.client].task.node, lab.service(traffic.service).network
    asking, answering = Task("bystander.1", node), Task("bystander.2", node)
    lab.create_service(ServiceSpec("bystander", network, tasks=[asking, answering]))
    for process in lab.containers[answering.name].processes:
        os.sched_setaffinity(process.pid, {processor})
    return _Bystanders(asking.name, f"{answering.address}:{traffic.port}", processor)


def _while(lab: Lab, others: _Bystanders, of: str, act: Callable[[], object]) -> Figures:
    """Return the time that an act takes, the longest gap meanwhile, and the longest in as long a calm time."""
    took, longest = _meanwhile(lab, others, act)
    _, calm = _meanwhile(lab, others, lambda: time.sleep(took / 1e3))
    return {f"{of}_ms": took, f"{of}_gap_ms": longest, f"{of}_calm_ms": calm}


def _meanwhile(lab: Lab, others: _Bystanders, act: Callable[[], object]) -> tuple[float, float]:
    """Return the milliseconds that an act takes, and the longest between two answers to datagrams meanwhile.

    Raises KernelRefused if there are no answers even before.
    """
    argv = load.argv("gap", [others.target])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = lab.spawn(others.asking, argv, **pipes)
    os.sched_setaffinity(process.pid, {others.processor})
    assert process.stdout
    if not process.stdout.readline():
        finish(lab, process)
    try:
        took = timed(act).elapsed_ms
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return took, msgspec.json.decode(finish(lab, process), type=GapResult).longest_ns / 1e6
