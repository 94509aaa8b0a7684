"""The workload `program`: the time to program all services at once, and that of single changes beside them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from bench.documents import Figures, TrialPlan, Work
from bench.inside.measure.traffic import FiguresAndWork
from dataplanes.errors import KernelRefused
from dataplanes.kernel.procfs import field
from dataplanes.selection import Selection
from scenarios.lab import Lab
from scenarios.stopwatch import settle, timed
from scenarios.topology import ServiceSpec, Task

_OBEY_SECONDS = 3.0
_LATECOMER = "latecomer"
_KERNELS = ("SUnreclaim", "VmallocUsed", "Percpu")
"""The fields of /proc/meminfo (proc_meminfo(5)) in which a plane's memory is: slabs, large tables, counters.

What is neither free nor used by files and processes says less: each processor keeps pages ready that count as used
(mm/page_alloc.c, the per-CPU lists), and they come and go by megabytes.
"""


def program(lab: Lab, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure all services at once, then one service, one backend and one container more or less, and then one node."""
    before = _without(lab) if clock == "instructions" else 0
    plane = lab.plane
    assert plane
    services = lab.fillers(plan.axes.services, plan.axes.backends or 3)
    one, rest = services[-1], services[:-1]
    fewer = replace(one, backends=one.backends[:-1])
    spec = ServiceSpec("newcomer", one.network, tasks=[Task("newcomer.1", lab.scenario.nodes[-1])])

    def took(act: Callable[[], object]) -> float:
        return timed(act).by(clock)

    figures: Figures = {
        "install_ms": took(lambda: plane.apply(rest)),
        "add_service_ms": took(lambda: plane.apply([one])),
    }
    if clock == "instructions":  # elsewhere others use memory, too
        figures["kernel_bytes"] = _memory() - before
    answered: list[bool] = []
    obeyed = took(lambda: answered.append(_answers(lab, lab.scenario.traffic.client, one.vip)))
    if answered[0]:
        figures["obey_ms"] = figures["add_service_ms"] + obeyed
    figures |= {
        "remove_backend_ms": took(lambda: plane.apply([fewer])),
        "add_backend_ms": took(lambda: plane.apply([one])),
        "remove_service_ms": took(lambda: plane.remove([one])),
    }
    figures["join_ms"] = _joining(lab, spec, clock)
    held = plane.footprint()
    figures["objects"] = sum(each.objects for each in held)
    figures["cold_start_ms"] = _cold_start(lab, selection, clock)
    return figures, Work()


def _without(lab: Lab) -> int:
    """Return the bytes that the kernel uses without the plane, and put the plane on again.

    Some planes have their tables before they have services: eBPF's maps have their size when they are created.
    """
    assert lab.plane
    lab.plane.close()
    found = _memory()
    lab.reinstall()
    return found


def _memory() -> int:
    """Return the bytes that the kernel uses for its own tables, by the same yardstick for every mechanism."""
    settle()  # until what is to be freed has been freed
    return sum(int(field("/proc/meminfo", name).split()[0]) for name in _KERNELS) << 10


def _answers(lab: Lab, client: str, vip: str) -> bool:
    """Return True as soon as the VIP answers a container, and False if it never does.

    With direct routing it never does: a filler's VIP is on no task's lo, because its backends belong to another
    service.
    """
    deadline = time.monotonic() + _OBEY_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), lab.socket(client, socket.SOCK_STREAM) as handle:
            handle.settimeout(1)
            handle.connect((vip, lab.scenario.traffic.port))
            handle.sendall(b"r")
            if handle.recv(1):
                return True
    return False


def _joining(lab: Lab, spec: ServiceSpec, clock: str) -> float:
    """Return the time that the plane needs when a container joins.

    The creation of the container itself does not count.
    """
    lab.create_service(spec)
    return lab.joined.by(clock)


def _cold_start(lab: Lab, selection: Selection, clock: str) -> float:
    """Return the time that the plane needs on a node that comes up with as many containers as the client's node.

    Raises KernelRefused if a VIP does not answer there afterwards, because then the plane has not started.
    """
    client = lab.containers[lab.scenario.traffic.client]
    taken = lab.add_node(_LATECOMER, client.task.node)
    service = lab.service(lab.scenario.traffic.service)
    there = [each for each in lab.containers.values() if each.task.node == _LATECOMER]
    name = next(c.task.name for c in there if service.network in [each.network for each in c.endpoints])
    if not _answers(lab, name, service.vip):
        raise KernelRefused("a node that joined does not reach a VIP", where=f"{selection.name}: {name}")
    return taken.by(clock)
