"""The workload `program`: the time to program all services at once, and the time of single changes beside them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from bench.documents import Figures, TrialPlan, Work
from bench.inside.measure.traffic import FiguresAndWork
from dataplanes.kernel.procfs import field
from dataplanes.selection import Selection
from scenarios.lab import Lab
from scenarios.stopwatch import settle, timed
from scenarios.topology import ServiceSpec, Task

_OBEY_SECONDS = 3.0
_NOT_THE_KERNELS = ("MemFree", "Buffers", "Cached", "AnonPages")
"""Fields of /proc/meminfo (proc_meminfo(5)): unused memory, that of files, and that of processes."""


def program(lab: Lab, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure all services at once, and then one service, one backend and one container more or less."""
    plane = lab.plane
    assert plane
    services = lab.fillers(plan.axes.services, plan.axes.backends or 3)
    one, rest = services[-1], services[:-1]
    fewer = replace(one, backends=one.backends[:-1])
    spec = ServiceSpec("newcomer", one.network, tasks=[Task("newcomer.1", lab.scenario.nodes[-1])])

    def took(act: Callable[[], object]) -> float:
        return timed(act).by(clock)

    before = _memory() if clock == "instructions" else 0
    figures: Figures = {
        "install_ms": took(lambda: plane.apply(rest)),
        "add_service_ms": took(lambda: plane.apply([one])),
    }
    if clock == "instructions":  # elsewhere others use memory, too
        figures["kernel_bytes"] = _memory() - before
    answered: list[bool] = []
    obeyed = took(lambda: answered.append(_answers(lab, one.vip)))
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
    return figures, Work()


def _memory() -> int:
    """Return the bytes that the kernel uses for itself: those of no process and of no file.

    It is the same yardstick for every mechanism: slabs, vmalloc, per-CPU memory and whole pages alike.
    """
    settle()  # until what is to be freed has been freed
    kilobytes = {name: int(field("/proc/meminfo", name).split()[0]) for name in ("MemTotal", *_NOT_THE_KERNELS)}
    return (kilobytes.pop("MemTotal") - sum(kilobytes.values())) << 10


def _answers(lab: Lab, vip: str) -> bool:
    """Return True as soon as the VIP answers the client, and False if it never does.

    With direct routing it never does: a filler's VIP is on no task's lo, because its backends belong to another
    service.
    """
    traffic = lab.scenario.traffic
    deadline = time.monotonic() + _OBEY_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), lab.socket(traffic.client, socket.SOCK_STREAM) as handle:
            handle.settimeout(1)
            handle.connect((vip, traffic.port))
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
