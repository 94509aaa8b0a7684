"""Get a kernel ready for a job: check the job's requirements, and make what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from bench import load
from bench.documents.workloads import WORKLOADS
from bench.kernels import Kernel
from bench.prepare import objects, preflight, unpacked
from bench.prepare.bytecode import compile_bytecode
from dataplanes import catalog, follower
from dataplanes.errors import BenchError
from dataplanes.requirements import Requirement
from dataplanes.selection import Selection
from scenarios.requires import REQUIRES


def requirements(selections: Iterable[Selection]) -> tuple[Requirement, ...]:
    """Return the requirements of the lab and of the planes. Without a plane no lab is built, and nothing is needed."""
    selections = list(selections)
    if not selections:
        return ()
    return tuple(dict.fromkeys((*REQUIRES, *(need for each in selections for need in catalog.requires(each)))))


def make_ready(
    selections: Sequence[Selection],
    kernel: Kernel,
    workloads: Iterable[str] = (),
    more: Sequence[Requirement] = (),
    *,
    evidence: bool = False,
) -> None:
    """Check the requirements, and make everything that is cached. Raises Prerequisite if something is missing.

    `evidence` makes also what follows packets, if the kernel can do that and there is what compiles it.
    """
    tools = [tool for name in workloads for tool in WORKLOADS[name].tools]
    needs = (*requirements(selections), *more)
    preflight.demand((*needs, *tools), kernel, ", ".join(selection.name for selection in selections))
    unpacked.fetch(needs)
    load.binary()  # the guest can run it, but not compile it into the cache
    compile_bytecode()
    objects.compile_missing(needs, kernel)
    if evidence and not preflight.missing(follower.REQUIRES, kernel):
        with suppress(BenchError):
            objects.compile_missing(follower.REQUIRES, kernel)
