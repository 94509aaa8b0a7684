"""Get a kernel ready for a job: check what the job needs, and make what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench import load
from bench.documents.workloads import WORKLOADS
from bench.kernels import Kernel
from bench.prepare import objects, preflight
from bench.prepare.bytecode import compile_bytecode
from dataplanes import catalog
from dataplanes.requirements import Requirement
from dataplanes.selection import Selection
from scenarios.requires import REQUIRES


def requirements(selections: Iterable[Selection]) -> tuple[Requirement, ...]:
    """What the lab and the planes need together."""
    return tuple(dict.fromkeys((*REQUIRES, *(need for each in selections for need in catalog.requires(each)))))


def make_ready(selections: Sequence[Selection], kernel: Kernel, workloads: Iterable[str] = ()) -> None:
    """Everything that is made once and kept. Raises Prerequisite if the kernel or the machine lacks something."""
    tools = [tool for name in workloads for tool in WORKLOADS[name].tools]
    preflight.demand((*requirements(selections), *tools), kernel, ", ".join(selection.name for selection in selections))
    load.binary()  # the guest can run it, but not compile it into the cache
    compile_bytecode()
    objects.compile_missing(requirements(selections), kernel)
